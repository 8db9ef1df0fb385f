"""What waiting costs: how late checks start, the memory of an idle site, and the start with a million of them."""

import statistics
import subprocess
import time
from functools import partial

from figures import Figure, alternate, spread
from harness import MICRO, Sitemon, quantile, sitemon, write_config
from sides import CLIENT, PROGRAMS, Load, Server, aiohttp, hyper, ours

TITLE = "Schedule"


def run(folder, quick, say):
    figures = lateness(folder, quick)
    say(figures)
    figures += idle(folder, 2_000 if quick else 1_000_000)
    say(figures[-3:])
    return figures


def lateness(folder, quick):
    """From slot to start, at 1,000 checks a second on one core."""
    rate, rounds, seconds = (200, 1, 1) if quick else (1000, 3, 4)
    figures = []
    with Server(folder) as server:
        for scheme in ("http", "https"):
            # A thousand handshakes a second are more than aiohttp can do, and all that hyper can.
            sides = (ours, hyper, aiohttp) if scheme == "http" else (ours,)
            found = alternate(rounds, *(partial(side, folder, server, Load(scheme, rate), seconds) for side in sides))

            def late(runs, share):
                return [quantile(run.late_us, share) / 1000 for run in runs]

            others = list(zip(("hyper, tokio's timer", "aiohttp"), found[1:], strict=False))
            by_round = [zip(late(found[0], 0.99), late(runs, 0.99), strict=True) for _, runs in others[:1]]
            ratio = "".join(f"{statistics.median(a / b for a, b in pairs):.3f}" for pairs in by_round)
            figures.append(
                Figure(
                    f"start lateness at {rate:,} {scheme.upper()} checks a second",
                    f"p50 {statistics.median(late(found[0], 0.5)):.3f} ms, p99 {statistics.median(late(found[0], 0.99)):.3f} ms",
                    "; ".join(
                        f"p50 {statistics.median(late(runs, 0.5)):.3f} ms, p99 {statistics.median(late(runs, 0.99)):.3f} ms ({name})"
                        for name, runs in others
                    ),
                    ratio,
                    "p99 of " + spread(late(found[0], 0.99)),
                    "p99 ≤ 1 ms, then 0.5",
                )
            )
    return figures


def idle(folder, count):
    """Sites in included files, each due once a day: memory by the difference to one site, and the start in parts."""
    parts = folder / "sites.d"
    parts.mkdir()
    in_file = 20_000
    for first in range(0, count, in_file):
        sites = [
            {"name": f"site-{n}", "url": f"http://site-{n}.site.test/page.html"}
            for n in range(first, min(count, first + in_file))
        ]
        write_config(parts / f"{first:07}.yaml", sites)
    keys = {
        "store": {"kind": "sqlite", "path": "idle.db"},
        # What comes due meanwhile is refused by a port that nobody listens at.
        "defaults": {"interval": "1d", "timeout": 1, "request": {"connect_to": "127.0.0.1:9"}},
    }
    many = write_config(folder / "many.json", [], include=["sites.d/*.yaml"], **keys)
    one = write_config(folder / "one.json", [{"name": "one", "url": "http://one.site.test/"}], **keys)

    begun = time.monotonic()
    code, _, err = sitemon("config", "check", many, timeout=300)
    reading = time.monotonic() - begun
    assert code == 0, err[-2000:]
    resident = {}
    for config in (one, many):
        for old in folder.glob("idle.db*"):
            old.unlink()
        with Sitemon(config, folder, ready_seconds=300) as process:
            started, busy = (process.ready_us - process.started_us) / MICRO, process.cpu_seconds()
            # The sites are also written into the store, beside the checks; what that took is given back.
            time.sleep(12 if count > 10_000 else 1)
            resident[config], settled = process.resident_bytes(), process.cpu_seconds()
            assert process.stop(120) == 0, process.said()[-2000:]
    each = (resident[many] - resident[one]) / count
    # Fewer of them, as they would take gigabytes.
    tasks = float(
        subprocess.run(
            ["taskset", "-c", str(CLIENT), PROGRAMS / "examples" / "baseline", "tasks", str(min(count, 100_000))],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    return [
        Figure(
            f"memory of an idle site, {count:,} loaded and scheduled",
            f"{each:.0f} B",
            f"{tasks:.0f} B (a task of tokio each, with its check)",
            f"{each / tasks:.3f}",
            f"resident {resident[many] / 1048576:.0f} MiB, with one site {resident[one] / 1048576:.0f} MiB",
            "≤ 400 B, then 150",
        ),
        Figure(
            f"start of `run` with {count:,} sites until every slot is kept",
            f"{started:.1f} s",
            rounds=f"reading the files alone (`config check`) {reading:.1f} s; processor time {busy:.1f} s, "
            f"and {settled - busy:.1f} s afterwards to bring the store's sites in line",
            goal="told",
        ),
    ]
