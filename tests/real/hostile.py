"""Hostile sites of every kind: what many checks of them cost in memory, and that others are not disturbed.

Run by itself it measures each kind alone: hostile.py [--count 100] [--seconds 3] [PART OF A NAME]
"""

import argparse
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from harness import (
    SITEMON,
    Authority,
    Nginx,
    Process,
    Sitemon,
    export,
    micros,
    quantile,
    real_pages,
    write_config,
)

MIB = 1 << 20
BOUND = 64 * MIB


def faulty(folder, stack):
    """Starts the faulty sites; what holds for all of them, and a site for each kind of fault by its name."""
    written = folder / "faulty.yaml"
    command = [SITEMON.with_name("faulty-sites"), "--all", "--write", written]
    process = stack.enter_context(Process(command, folder, "faulty"))
    process.wait_until(lambda: "ready" in process.said(), 20, "word `ready`")
    text = written.read_text()
    resolver = re.search(r"resolver: \['(.+)'\]", text)[1]
    found = re.findall(r"^  - \{name: '(.+?)', url: '(.+?)', labels", text, re.M)
    return {"resolver": [resolver], "tls": {"ca": f"{written}.pem"}}, dict(found)


def resident(pid):
    """Resident bytes now."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Rss:\s+(\d+)", text, re.M)[1]) << 10


def cost(folder, request, sites, seconds, timeout=3):
    """The most that the process holds beyond what it holds while the same sites are idle, in bytes.

    Each is checked again as soon as a check has ended, so that as many are in flight as there are sites.
    """
    keys = {
        "store": {"kind": "sqlite", "path": "sites.db"},
        "limits": {"checks_in_flight_per_host": 10_000, "memory": BOUND},
    }
    defaults = {"request": request, "interval": 0.1, "timeout": timeout}
    config = write_config(folder / "sites.json", sites, defaults={**defaults, "enabled": False}, **keys)
    for old in folder.glob("sites.db*"):
        old.unlink()
    with Sitemon(config, folder) as watching:
        time.sleep(0.3)
        idle = most = resident(watching.pid)
        write_config(folder / "fresh.json", sites, defaults=defaults, **keys).replace(config)
        watching.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            most = max(most, resident(watching.pid))
            time.sleep(0.02)
        watching.kill()
    return most - idle


def memory(folder, groups=12, count=100, seconds=3):
    """`count` checks in flight of a group of kinds at a time cost at most 64 MiB; a kind alone is measured by hand."""
    with ExitStack() as stack:
        request, kinds = faulty(folder, stack)
        names = sorted(kinds)
        figures = {}
        for group in range(groups):
            chosen = names[group * len(names) // groups : (group + 1) * len(names) // groups]
            sites = [
                {"name": f"{name} {n}", "url": kinds[name]} for n in range(-(-count // len(chosen))) for name in chosen
            ]
            figures[f"{chosen[0]} … {chosen[-1]}"] = cost(folder, request, sites[:count], seconds)
    told = ", ".join(f"{more / MIB:.1f} ({name})" for name, more in figures.items())
    print(f"{count} checks of hostile sites in flight, {len(names)} kinds in groups: MiB above idle {told}")
    assert max(figures.values()) <= BOUND, figures


def neighbours(folder, count=500, hostile=1000, seconds=12):
    """Lag of `count` good sites at 1 s alone, and beside `hostile` ones of all kinds; memory is bounded."""
    authority, pages = Authority(folder), real_pages(folder)
    with ExitStack() as stack:
        request, kinds = faulty(folder, stack)
        nginx = stack.enter_context(Nginx(folder, authority))
        good = [
            {
                "name": f"good {n}",
                "url": f"http://g{n}.{nginx.domain}:{nginx.http}{pages[n % len(pages)][0]}",
                "request": {"connect_to": f"127.0.0.1:{nginx.http}"},
            }
            for n in range(count)
        ]
        named = sorted(kinds.items())
        bad = [
            {
                "name": f"bad {n} {name}",
                "url": url,
                # Slots lie so close that nearly all are in flight at any time: those that hang, until their timeout.
                "interval": 5,
                "timeout": 5,
                "request": request,
            }
            for n in range(hostile)
            for name, url in [named[n % len(named)]]
        ]
        lags, most = {}, {}
        for round_, sites in (("alone", good), ("beside", good + bad)):
            config = write_config(
                folder / f"{round_}.json",
                sites,
                store={"kind": "sqlite", "path": f"{round_}.db"},
                limits={"checks_in_flight_per_host": 10_000},
                defaults={"interval": 1, "timeout": 1},
            )
            with Sitemon(config, folder) as watching:
                most[round_] = 0
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    most[round_] = max(most[round_], resident(watching.pid))
                    time.sleep(0.05)
                assert watching.stop() == 0, watching.said()[-2000:]
            lines = export(config)
            ours = [line for line in lines if line["site"].startswith("good ")]
            found = Counter((line["verdict"], *(cause["code"] for cause in line["causes"])) for line in ours)
            assert set(found) == {("up",)}, found
            lags[round_] = [(micros(line["started_at"]) - micros(line["scheduled_at"])) / 1000 for line in ours]
    alone, beside = (quantile(lags[key], 0.99) for key in ("alone", "beside"))
    print(
        f"{count} sites: lag p99 {alone:.3f} ms alone, {beside:.3f} ms beside {hostile} hostile ones; resident at most "
        f"{most['alone'] / MIB:.0f} and {most['beside'] / MIB:.0f} MiB"
    )
    assert most["beside"] - most["alone"] <= 2 * BOUND
    # They need the processor too, which on a small machine is felt.
    assert beside - alone < 5.0, f"hostile sites move the others' p99 lag from {alone:.3f} to {beside:.3f} ms"


def main():
    parser = argparse.ArgumentParser(description="What checks of each kind of hostile site cost in memory.")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--count", type=int, default=100, help="sites of a kind")
    parser.add_argument("part", nargs="?", default="", help="only kinds with this in their name")
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory(prefix="sitemon-hostile-") as folder, ExitStack() as stack:
        folder = Path(folder)
        request, kinds = faulty(folder, stack)
        for name, url in kinds.items():
            if options.part in name:
                sites = [{"name": f"{name} {n}", "url": url} for n in range(options.count)]
                figures[name] = cost(folder, request, sites, options.seconds)
                print(f"{figures[name] / MIB:7.1f} MiB  {name}", flush=True)
    over = [name for name, more in figures.items() if more > BOUND]
    sys.exit(f"more than 64 MiB: {', '.join(over)}" if over else 0)


if __name__ == "__main__":
    main()
