"""`make bench`: processor time of a check beside an aiohttp client, HTTP and HTTPS, in alternating rounds.

User and system time of the whole process, pinned to one core that it keeps busy, on the same pages; nginx has another
core, and proves that the work was done: as many connections as requests, full handshakes, and 200s.
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from harness import (
    MICRO,
    Authority,
    Nginx,
    Process,
    Sitemon,
    export,
    real_pages,
    write_config,
)

WARM_UP_S = 2
# The cores of client and server; on a machine with one core they share it.
CLIENT, SERVER = (sorted(os.sched_getaffinity(0)) * 2)[:2]
# Checks under way in aiohttp: enough to keep it busy, more would only cost it more.
SIDE_BY_SIDE = 32


def accepted(nginx):
    """Connections accepted and requests answered so far."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{nginx.status_port}/").read().decode()
    accepts, _, requests = map(int, re.search(r"(\d+) (\d+) (\d+)", text).groups())
    return accepts, requests


def measure(process, nginx, seconds):
    """Processor time per request that nginx saw, in µs, and how many it saw a second."""
    time.sleep(WARM_UP_S)
    busy, (connections, requests), since = process.cpu_seconds(), accepted(nginx), time.monotonic()
    time.sleep(seconds)
    busy = process.cpu_seconds() - busy
    (connections_after, requests_after), took = accepted(nginx), time.monotonic() - since
    done = requests_after - requests
    # The question itself is one connection and one request.
    opened = connections_after - connections
    # What was under way at either end counts on one side only; reuse would make it a fraction.
    assert abs(opened - done) <= max(100, done // 20), f"{process.name}: {opened} connections for {done} requests"
    return busy * MICRO / (done - 1), done / took


def checks(folder, nginx, config, plan, seconds):
    """One round of each; returns µs a check of Sitemon and of aiohttp."""
    nginx.access.write_text("")
    for old in folder.glob("sites.db*"):
        old.unlink()
    with Sitemon(config, folder, core=CLIENT) as watching:
        ours, our_rate = measure(watching, nginx, seconds)
        watching.stop()
    stored = export(config)
    bad = [line for line in stored if line["verdict"] != "up"]
    assert not bad, f"{len(bad)} of {len(stored)} are not up: {bad[0]}"
    time.sleep(0.3)
    witness = nginx.requests()
    assert len(witness) == len(stored), f"nginx saw {len(witness)} requests, {len(stored)} are stored"
    assert all(request.status == 200 and not request.resumed for request in witness)
    nginx.access.write_text("")
    for old in folder.glob("baseline.db*"):
        old.unlink()
    with Process(
        [sys.executable, Path(__file__).with_name("aiohttp_client.py"), plan], folder, "aiohttp", core=CLIENT
    ) as client:
        client.wait_until(lambda: "ready" in client.said(), 20, "word `ready`")
        theirs, their_rate = measure(client, nginx, seconds)
    time.sleep(0.3)
    assert all(request.status == 200 and not request.resumed for request in nginx.requests())
    return ours, our_rate, theirs, their_rate


def run(folder, rounds, seconds, rates):
    """Prints a table; returns the ratio for each scheme."""
    authority = Authority(folder)
    pages = real_pages(folder, count=12, smallest=8_000, largest=14_000)
    ratios = {}
    # Lines of the log go out at once: a buffer would hold some back when they are counted.
    with Nginx(folder, authority, core=SERVER) as nginx:
        print("| check | a second | Sitemon µs | aiohttp µs | ratio | rounds |\n| --- | --- | --- | --- | --- | --- |")
        for scheme, port in (("http", nginx.http), ("https", nginx.https)):
            rate = rates[scheme]
            sites = [
                {
                    "name": f"s{number}",
                    "url": f"{scheme}://s{number}.{nginx.domain}:{port}{pages[number % len(pages)][0]}",
                    "request": {"connect_to": f"127.0.0.1:{port}"},
                    "expect": {"body": {"matches": [pages[number % len(pages)][1]]}},
                }
                for number in range(rate)
            ]
            config = write_config(
                folder / "sites.json",
                sites,
                store={"kind": "sqlite", "path": "sites.db"},
                defaults={"interval": 1, "timeout": 1, "request": {"tls": {"ca": str(authority.ca)}}},
            )
            plan = folder / "plan.json"
            plan.write_text(
                json.dumps(
                    {
                        "ca": str(authority.ca),
                        "database": str(folder / "baseline.db"),
                        "side_by_side": SIDE_BY_SIDE,
                        "sites": [
                            {"name": s["name"], "url": s["url"], "pattern": s["expect"]["body"]["matches"][0]}
                            for s in sites
                        ],
                    }
                )
            )
            found = [checks(folder, nginx, config, plan, seconds) for _ in range(rounds)]
            ours, theirs = (statistics.median(f[i] for f in found) for i in (0, 2))
            ratio = statistics.median(f[0] / f[2] for f in found)
            spread = ", ".join(f"{f[0] / f[2]:.3f}" for f in found)
            print(
                f"| {scheme} | {found[0][1]:.0f} and {found[0][3]:.0f} | {ours:.0f} | {theirs:.0f} | {ratio:.3f} | {spread} |",
                flush=True,
            )
            ratios[scheme] = ratio
    return ratios


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--http", type=int, default=4000, help="checks a second of Sitemon")
    parser.add_argument("--https", type=int, default=400, help="checks a second of Sitemon")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sitemon-bench-") as folder:
        run(Path(folder), options.rounds, options.seconds, {"http": options.http, "https": options.https})
