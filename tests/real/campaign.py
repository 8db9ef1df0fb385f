"""The kill campaign: `sitemon run` under load, killed at random instants, in trouble of every kind meanwhile.

What happens is planned from a seed before anything runs, so a seed that is given again brings the same lives and
troubles. The server's own access log is the witness (`witness.py`). The store lies on a small file system of its own,
which can be filled, so this needs a mount namespace.
"""

import argparse
import contextlib
import hashlib
import json
import random
import re
import resource
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import witness
from harness import (
    MICRO,
    SITEMON,
    Authority,
    Nginx,
    Process,
    Sitemon,
    by_site,
    in_namespaces,
    micros,
    now_us,
    real_pages,
    sitemon,
    small_disk,
    write_config,
)
from trouble import Filler
from trouble import inside as full_disk

# Sites that no reload touches, and those that reloads add, remove and change.
STEADY, MOVING = 400, 20
BROKEN = [
    "{not yaml",
    '{"sitess": []}',
    '{"sites": [{"name": "a"}]}',
    '{"sites": [{"url": "http://a/", "interval": 0}]}',
]


# The plan


class Life:
    """One process, from its start to its end: what happens in it, and then what did."""

    def __init__(self, dice):
        self.killed = dice.random() < 0.85
        self.seconds = dice.choices([dice.uniform(0.02, 0.5), dice.uniform(0.5, 3), dice.uniform(2, 8)], [2, 3, 5])[0]
        self.troubles = []
        planned = 0
        while planned < self.seconds:
            kind = dice.choice(["pause", "full", "limit", "lock", "reload", "refuse", "second"])
            trouble = {
                "after": dice.uniform(0, 1.5),
                "kind": kind,
                "seconds": dice.uniform(0.3, 4),
                "dice": dice.random(),
            }
            self.troubles.append(trouble)
            planned += trouble["after"] + trouble["seconds"]
        # Between this life and the next: nothing, `compact`, or one that is killed as well.
        self.compact = dice.choices([None, 120, dice.uniform(0, 0.3)], [6, 2, 2])[0]
        self.watch = dice.random() < 0.3
        # What happened: [kind, since, until] each, and of each configuration since when it was about to come, since
        # when it is in force, and the interval of each site.
        self.happened, self.watched = [], []
        self.pid = self.started_us = self.ready_us = self.ended_us = self.gone_us = None
        self.said = ""

    def describe(self):
        troubles = ", ".join(f"{t['kind']} {t['seconds']:.1f} s" for t in self.troubles)
        return f"{'killed' if self.killed else 'stopped'} after {self.seconds:.2f} s ({troubles})"


def plan(seed, kills):
    dice, lives = random.Random(seed), []
    while sum(life.killed for life in lives) < kills:
        lives.append(Life(dice))
    return lives


# What happens


class Campaign:
    def __init__(self, folder, place, nginx, authority, pages):
        self.folder, self.place, self.nginx, self.authority, self.pages = folder, place, nginx, authority, pages
        self.database = place / "sites.db"
        self.config, self.config_of_readers = folder / "sites.json", folder / "readers.json"
        self.moving = {f"m{n}": 1 for n in range(MOVING)}
        self.configure()
        self.config_of_readers.write_text(self.config.read_text())

    def site(self, name, number, interval):
        secure = number % 10 == 0
        scheme, port = ("https", self.nginx.https) if secure else ("http", self.nginx.http)
        path, pattern = self.pages[number % len(self.pages)]
        site = {
            "name": name,
            "url": f"{scheme}://{name}.{self.nginx.domain}:{port}{path}",
            "interval": interval,
            "request": {"connect_to": f"127.0.0.1:{port}", "tls": {"ca": str(self.authority.ca)}},
            "expect": {"body": {"matches": [pattern]}},
        }
        return site | ({"plugins": ["html-stats"]} if number % 4 == 0 else {})

    def intervals(self):
        """The interval of each site that is configured, in microseconds."""
        return {f"s{n}": MICRO for n in range(STEADY)} | {name: s * MICRO for name, s in self.moving.items()}

    def configure(self):
        sites = [self.site(name, n, us // MICRO) for n, (name, us) in enumerate(self.intervals().items())]
        fresh = write_config(
            self.folder / "sites.fresh",
            sites,
            store={"kind": "sqlite", "path": str(self.database)},
            defaults={"timeout": 1},
        )
        fresh.replace(self.config)

    # A life

    def live(self, life):
        command = [SITEMON, "run", "-c", self.config, *(["--watch"] if life.watch else [])]
        Sitemon.count += 1
        with Process(command, self.folder, f"sitemon-{Sitemon.count}") as self.process:
            self.life, self.until = life, time.monotonic() + life.seconds
            life.pid, life.started_us = self.process.pid, self.process.started_us
            while self.left() and not re.search(r"\bready\b", self.process.said()):
                self.alive()
                time.sleep(0.002)
            if self.left():
                life.ready_us = now_us()
                life.watched.append((life.ready_us, life.ready_us, self.intervals()))
            for trouble in life.troubles:
                time.sleep(min(trouble["after"], self.left()))
                if not self.left():
                    break
                self.alive()
                since = now_us()
                happened = [trouble["kind"], since, None]
                life.happened.append(happened)
                with getattr(self, trouble["kind"])(trouble["dice"]):
                    time.sleep(min(trouble["seconds"], self.left()))
                    if not self.left():
                        self.end()
                happened[2] = now_us()
            time.sleep(self.left())
            self.end()
            # A stop waits for the trouble to be over.
            if not life.killed:
                code = self.process.process.wait(60)
                assert code == 0 or life.ready_us is None, f"a stop ended with {code}: {self.process.said()[-3000:]}"
            life.gone_us = now_us()
        life.said = self.process.said()

    def left(self):
        return max(0.0, self.until - time.monotonic())

    def alive(self):
        code = self.process.process.poll()
        assert code is None, f"it ended by itself, with {code}:\n{self.process.said()[-3000:]}"

    def end(self):
        """The life's end, once."""
        if self.life.ended_us is None:
            self.alive()
            if self.life.killed:
                self.life.ended_us = self.process.kill()
            else:
                self.life.ended_us = now_us()
                self.process.process.send_signal(signal.SIGTERM)

    # Troubles: each holds for as long as its block lasts, which the life's end may be in.

    def tell(self, number):
        with contextlib.suppress(ProcessLookupError):
            self.process.process.send_signal(number)

    @contextlib.contextmanager
    def pause(self, _):
        self.tell(signal.SIGSTOP)
        yield
        self.tell(signal.SIGCONT)

    @contextlib.contextmanager
    def full(self, _):
        with Filler(self.place):
            yield

    @contextlib.contextmanager
    def limit(self, dice):
        """No file of the process may grow any more, as with `ulimit -f`."""
        largest = max(path.stat().st_size for path in (*self.place.glob("*"), self.process.log))
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (int(largest * dice), resource.RLIM_INFINITY))
        yield
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, unlimited)

    @contextlib.contextmanager
    def lock(self, _):
        other = sqlite3.connect(self.database, isolation_level=None, timeout=20)
        try:
            other.execute("BEGIN IMMEDIATE")
            yield
        finally:
            other.close()

    @contextlib.contextmanager
    def reload(self, dice):
        dice, changing_us = random.Random(dice), now_us()
        self.moving = {f"m{n}": dice.choice([1, 2]) for n in dice.sample(range(MOVING), MOVING - 5)}
        self.configure()
        self.tell(signal.SIGHUP)
        self.life.watched.append((changing_us, now_us() + MICRO, self.intervals()))
        yield

    @contextlib.contextmanager
    def refuse(self, dice):
        good = self.config.read_text()
        self.config.write_text(random.Random(dice).choice([*BROKEN, good[: int(len(good) * dice)] + "{"]))
        self.tell(signal.SIGHUP)
        yield
        self.config.write_text(good)

    @contextlib.contextmanager
    def second(self, dice):
        """Another one that wants to write is refused, and told who is there."""
        command = "run" if dice < 0.5 else "compact"
        begun = time.monotonic()
        code, _, err = sitemon(command, "-c", self.config, timeout=10)
        took = time.monotonic() - begun
        assert code == 4 and str(self.life.pid) in err and took < 5, f"{command}: {code} after {took:.1f} s: {err}"
        yield


class Beside(threading.Thread):
    """Readers beside it all: what they saw once must stay."""

    def __init__(self, campaign, seed):
        super().__init__(daemon=True)
        self.campaign, self.dice, self.done = campaign, random.Random(seed), threading.Event()
        # A hash of the line of each observation that was ever exported.
        self.seen, self.failure, self.counts = {}, None, {}

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.done.set()
        self.join()

    def run(self):
        try:
            while not self.done.wait(self.dice.uniform(0, 0.6)):
                kind = self.dice.choice(["export", "status", "stats", "history", "backup"])
                if self.campaign.database.exists():
                    getattr(self, kind)()
                    self.counts[kind] = self.counts.get(kind, 0) + 1
        except BaseException as error:
            self.failure = error

    def check(self):
        if self.failure:
            raise self.failure

    def command(self, *arguments, codes=(0,)):
        code, out, err = sitemon(*arguments, "-c", self.campaign.config_of_readers)
        if code == 4 and "nothing was stored in it yet" in err:
            return ""
        assert code in codes, f"{arguments} ended with {code}: {err}"
        return out

    def export(self):
        since_us = now_us() - 20 * MICRO
        self.learn(exported(self.campaign, "--from", moment(since_us)), since_us)

    def learn(self, lines, since_us=0):
        """What was seen before is there again, and the same."""
        found = {}
        for line in lines:
            value = json.loads(line)
            key = (value["site"], micros(value["scheduled_at"]))
            assert key not in found, f"exported twice: {line}"
            found[key] = hashlib.blake2b(line.encode(), digest_size=12).digest()
        for key, print_ in self.seen.items():
            if key[1] >= since_us + MICRO:
                assert found.get(key) == print_, (
                    f"{key} was exported before and is {'other' if key in found else 'gone'} now"
                )
        self.seen.update(found)

    def status(self):
        # None is down; some may be unknown after a pause.
        self.command("status", "--json", codes=(0, 3))

    def stats(self):
        self.command("stats", "s0", "--json")

    def history(self):
        self.command("history", "s0")

    def backup(self):
        copy = self.campaign.folder / "copy.db"
        with (
            contextlib.closing(sqlite3.connect(self.campaign.database, timeout=20)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            assert target.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def run(folder, kills, seed=None):
    """So many lives, then everything that is stored against everything that the server saw."""
    seed = random.randrange(1 << 32) if seed is None else seed
    lives = plan(seed, kills)
    print(f"seed {seed}: {len(lives)} lives, {kills} of them killed, {STEADY + MOVING} sites at 1 and 2 s")
    authority, pages = Authority(folder), real_pages(folder)
    with ExitStack() as stack:
        place = stack.enter_context(small_disk(folder, "160m"))
        nginx = stack.enter_context(Nginx(folder, authority))
        campaign = Campaign(folder, place, nginx, authority, pages)
        beside = stack.enter_context(Beside(campaign, seed))
        try:
            for number, life in enumerate(lives):
                campaign.live(life)
                between(campaign, beside, life)
                if number % 10 == 9:
                    print(f"  {number + 1} lives, {len(beside.seen)} observations")
            beside.stop()
            beside.check()
            nginx.stop()
            figures = finish(campaign, beside, lives, nginx.requests())
        except BaseException:
            print(f"seed {seed}, life {number}: {life.describe()}; {life.happened}")
            raise
    print(
        f"all true with seed {seed}: the store opened each time, nothing that was safe is lost, nothing is there twice"
    )
    return figures


def between(campaign, beside, life):
    """After a life: the store opens, and has what it must have; then it may be compacted."""
    beside.check()
    if not campaign.database.exists():
        return
    lines = exported(campaign, "--from", moment(life.started_us - 2 * MICRO))
    wrong = witness.judge_life(life, read(lines))
    assert not wrong, f"{len(wrong)} faults:\n" + "\n".join(wrong[:20]) + f"\n{life.said[-3000:]}"
    if life.compact is not None:
        with Process([SITEMON, "compact", "-c", campaign.config_of_readers], campaign.folder, "compact") as compact:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = compact.process.wait(life.compact)
                assert code == 0, compact.said()[-2000:]
            compact.kill()


def finish(campaign, beside, lives, requests):
    """Everything at the end; returns the figures."""
    lines = exported(campaign)
    beside.learn(lines)
    stored = read(lines)
    wrong, counts, lags = witness.judge(lives, requests, stored)
    with contextlib.closing(sqlite3.connect(campaign.database)) as database:
        one = lambda sql: database.execute(sql).fetchone()[0] or 0  # noqa: E731
        assert one("PRAGMA integrity_check") == "ok"
        # Nothing is there twice below what is exported either, where repetitions are merged.
        rows = sum(one(f"SELECT sum(count) FROM {table}") for table in ("arrivals", "hour_blocks", "day_blocks"))
        if rows != len(lines):
            wrong.append(f"{len(lines)} observations are exported, and {rows} lie in the store")
        wrong += witness.judge_journal(
            lives, database.execute("SELECT pid, started, alive_until, ended FROM runs").fetchall()
        )
    code, _, err = sitemon("compact", "-c", campaign.config_of_readers)
    assert code == 0, err
    if exported(campaign) != lines:
        wrong.append("`compact` changed what `export` prints")
    troubles = Counter(kind for life in lives for kind, _, _ in life.happened)
    print(f"  troubles: {dict(troubles)}; readers beside: {beside.counts}")
    print("  " + ", ".join(f"{key}: {count}" for key, count in sorted(counts.items())))
    print("  lag ms outside of pauses: " + ", ".join(f"{key} {value:.3f}" for key, value in lags.items()))
    assert not wrong, f"{len(wrong)} faults:\n" + "\n".join(wrong[:20])
    return counts | lags


def exported(campaign, *arguments):
    code, out, err = sitemon("export", "-c", campaign.config_of_readers, *arguments)
    assert code == 0 or "nothing was stored in it yet" in err, f"export ended with {code}: {err}"
    return out.splitlines()


def read(lines):
    """Of each line what the witness asks for, by site and slot."""
    keys = ("site", "scheduled_at", "started_at", "interval_us", "verdict", "causes")
    values = (json.loads(line) for line in lines)
    return by_site({key: value[key] for key in keys if key in value} for value in values)


def moment(at_us):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_us // MICRO))


def apart(kills, seed=None):
    """`run` where file systems may be mounted."""
    arguments = ["--kills", kills, "--full", 0, *([] if seed is None else ["--seed", seed])]
    in_namespaces(["-m"], __file__, *arguments, seconds=60 + 15 * kills)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, help="that of another campaign, to see it again")
    parser.add_argument("--full", type=float, default=60, help="seconds of a full disk, in the end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sitemon-campaign-") as name:
        Path(name).chmod(0o755)
        run(Path(name), options.kills, options.seed)
    if options.full:
        with tempfile.TemporaryDirectory(prefix="sitemon-full-") as name:
            Path(name).chmod(0o755)
            full_disk(Path(name), options.full)
