"""The server that a benchmark's checks go to, and who checks: Sitemon, a client of hyper, one of aiohttp.

Each ends with what it stored, and is held against what the server saw: that is what makes a run a measurement.
"""

import contextlib
import json
import os
import signal
import sqlite3
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from harness import MICRO, ROOT, Process, Sitemon, micros, quantile, sitemon, write_config

PROGRAMS = Path(os.environ.get("SITEMON_PROGRAMS", ROOT / "target" / "release"))
# The cores of client and server; on a machine with one core they share it.
CLIENT, SERVER = (sorted(os.sched_getaffinity(0)) * 2)[:2]
MARK = "All is well."
# At the page's very end, so that the whole of it is searched.
PATTERN = r"All is well\.</p></body></html>\s*$"
# From the start of load until it is measured, and no slot of the measured time is older.
WARM_UP_S = 1.0
TIMEOUT_S = 5
# Checks under way at once where a core is to be kept busy: enough for that, and more would only wait.
SIDE_BY_SIDE = 32


class Server(Process):
    """`faulty-sites serve`: a page of 10 KB over and over, and counts of what was done."""

    def __init__(self, folder, core=SERVER, delay_ms=0, log=False, threads=1):
        self.roots, self.requests_log, self.asked = folder / "roots.pem", folder / "server.log", 0
        command = [PROGRAMS / "faulty-sites", "serve", "--http", "0", "--https", "0", "--text", MARK]
        command += ["--roots", self.roots, "--delay-ms", delay_ms, "--threads", threads]
        command += ["--log", self.requests_log] if log else []
        (folder / "server.stderr").unlink(missing_ok=True)
        super().__init__(command, folder, "server", core=core)
        self.wait_until(lambda: "ready" in self.said(), 10, "word `ready`")
        lines = dict(line.split(" ", 1) for line in self.said().splitlines() if " " in line)
        self.ports = {scheme: int(lines[scheme].rsplit(":", 1)[1]) for scheme in ("http", "https")}

    def counts(self):
        """What was done so far."""
        self.asked += 1
        self.process.send_signal(signal.SIGUSR1)
        self.wait_until(lambda: len(self._counts()) >= self.asked, 10, "counts")
        return json.loads(self._counts()[self.asked - 1])

    def _counts(self):
        # A line that is still being written has no end yet.
        return [line for line in self.said().split("\n")[:-1] if line.startswith("{")]

    def sites(self, scheme, count):
        """So many sites, each with a name of its own."""
        port = self.ports[scheme]
        return [
            {"name": f"s{n}", "url": f"{scheme}://s{n}.site.test:{port}/{n}", "pattern": PATTERN} for n in range(count)
        ]


@dataclass
class Load:
    """What a side is to do: `count` sites, each in every `interval` seconds; or as many as its core can, one after
    the other over the sites, with `busy`."""

    scheme: str
    count: int
    interval: float = 1.0
    busy: bool = False
    core: int | None = CLIENT


@dataclass
class Run:
    """What one run of one side was, from the measured middle of it."""

    cpu_us: float  # user and system time of the whole process for each check
    rate: float  # checks a second that the server saw
    share: float  # of one core
    stored: int
    skipped: int = 0
    failed: int = 0
    late_us: list = field(default_factory=list, repr=False)
    took_us: list = field(default_factory=list, repr=False)
    resident: int = 0


def measure(process, server, seconds):
    time.sleep(WARM_UP_S)
    before, busy, since = server.counts(), process.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    after, busy, took = server.counts(), process.cpu_seconds() - busy, time.monotonic() - since
    done = after["requests"] - before["requests"]
    assert done > 0, f"{process.name}: nothing was done"
    return Run(busy * MICRO / done, done / took, busy / took, 0, resident=process.resident_bytes())


def settled(server):
    """The server's counts once nothing is under way."""
    end = time.monotonic() + 5
    while (counts := server.counts())["open"] and time.monotonic() < end:
        time.sleep(0.02)
    return counts


def hold_against(name, scheme, before, after, stored):
    """That the work was done, from the server's side: one connection, one full handshake for each stored check."""
    seen = {key: after[key] - before[key] for key in after}
    assert stored > 0, f"{name}: nothing is stored"
    assert seen["requests"] == seen["connections"] == stored, f"{name}: {stored} are stored, the server saw {seen}"
    handshakes = stored if scheme == "https" else 0
    assert seen["handshakes_full"] == handshakes, (
        f"{name}: {handshakes} full handshakes expected, the server saw {seen}"
    )
    assert seen["handshakes_resumed"] == seen["handshakes_failed"] == 0, f"{name}: the server saw {seen}"


def ours(folder, server, load, seconds, limits=None, too_much=False):
    """Sitemon, with its default store; with `too_much` it may fail to keep up, and tells how often it did."""
    for old in folder.glob("bench.db*"):
        old.unlink()
    in_flight = {"checks_in_flight": SIDE_BY_SIDE} if load.busy else {}
    config = write_config(
        folder / "bench.json",
        [
            {"name": site["name"], "url": site["url"], "expect": {"body": {"matches": [site["pattern"]]}}}
            for site in server.sites(load.scheme, load.count)
        ],
        store={"kind": "sqlite", "path": "bench.db"},
        limits={**in_flight, **(limits or {})},
        defaults={
            "interval": load.interval,
            # As long as the baselines': a server that is kept waiting for its core is not down.
            "timeout": TIMEOUT_S,
            # Names are not looked up, as in the baselines.
            "request": {"tls": {"ca": str(server.roots)}, "connect_to": f"127.0.0.1:{server.ports[load.scheme]}"},
        },
    )
    before = settled(server)
    with Sitemon(config, folder, core=load.core) as process:
        run = measure(process, server, seconds)
        measured_from = process.ready_us + WARM_UP_S * MICRO
        assert process.stop() == 0, process.said()[-2000:]
    code, out, err = sitemon("export", "-c", config)
    assert code == 0, err
    stored = 0
    for line in out.splitlines():
        line = json.loads(line)
        if line["verdict"] == "unknown" and line["causes"][0]["code"].startswith("skipped."):
            run.skipped += 1
            continue
        if too_much and line["verdict"] == "unknown":
            run.failed += 1
            continue
        assert line["verdict"] == "up", line
        stored += 1
        slot = micros(line["scheduled_at"])
        if slot >= measured_from:
            run.late_us.append(micros(line["started_at"]) - slot)
            run.took_us.append(line["response_time_us"])
    run.stored = stored
    # What was given up half way may or may not have reached the server.
    if not run.failed:
        hold_against("sitemon", load.scheme, before, settled(server), stored)
    return run


def theirs(name, command, folder, server, load, seconds):
    """A baseline that works through a plan."""
    for old in folder.glob("baseline.db*"):
        old.unlink()
    plan = folder / "plan.json"
    pace = {"side_by_side": SIDE_BY_SIDE} if load.busy else {"interval": load.interval}
    plan.write_text(
        json.dumps(
            {
                "ca": str(server.roots),
                "database": str(folder / "baseline.db"),
                "sites": server.sites(load.scheme, load.count),
                **pace,
            }
        )
    )
    (folder / f"{name}.stderr").unlink(missing_ok=True)
    before = settled(server)
    with Process([*command, plan], folder, name, core=load.core) as process:
        process.wait_until(lambda: "ready" in process.said(), 20, "word `ready`")
        measured_from = time.time() + WARM_UP_S
        run = measure(process, server, seconds)
        assert process.stop() == 0, process.said()[-2000:]
        said = json.loads(process.said().splitlines()[-1])
    assert said["bad"] == 0, f"{name}: {said}"
    with contextlib.closing(sqlite3.connect(folder / "baseline.db")) as database:
        (run.stored,) = database.execute("SELECT count(*) FROM observations WHERE matched AND status = 200").fetchone()
        rows = database.execute("SELECT started - due, took FROM observations WHERE due >= ?", (measured_from,))
        for late, took in rows:
            run.late_us.append(late * MICRO)
            run.took_us.append(took * MICRO)
    assert run.stored == said["stored"], f"{name}: {run.stored} rows are right, of {said}"
    hold_against(name, load.scheme, before, settled(server), run.stored)
    return run


def aiohttp(folder, server, load, seconds):
    script = Path(__file__).with_name("aiohttp_client.py")
    return theirs("aiohttp", [sys.executable, script], folder, server, load, seconds)


def hyper(folder, server, load, seconds):
    return theirs("hyper", [PROGRAMS / "examples" / "baseline", "hyper"], folder, server, load, seconds)


def rejects_what_is_wrong(folder, server):
    """A page without the mark, and a chain that nobody vouches for, are down: so patterns and chains are judged."""
    for scheme, keys, cause in (
        ("http", {"expect": {"body": {"matches": ["All is lost"]}}}, "body.pattern_missing"),
        ("https", {"expect": {"body": {"matches": ["All is lost"]}}}, "body.pattern_missing"),
        ("https", {"request": {"tls": {}}}, "tls.untrusted"),
    ):
        request = {
            "connect_to": f"127.0.0.1:{server.ports[scheme]}",
            "tls": {"ca": str(server.roots)},
            **keys.get("request", {}),
        }
        site = {"name": "wrong", "url": server.sites(scheme, 1)[0]["url"], **keys, "request": request}
        config = write_config(folder / "wrong.json", [site], store={"kind": "sqlite", "path": "wrong.db"})
        code, out, err = sitemon("check", "-c", config, "--json")
        causes = [one["code"] for one in json.loads(out)["causes"]]
        assert code == 1 and causes == [cause], f"{scheme}: {cause} expected, found {causes}: {err}"


__all__ = ["aiohttp", "hyper", "ours", "quantile", "rejects_what_is_wrong", "Load", "Run", "Server"]
