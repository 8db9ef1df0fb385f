"""What a check costs: saturated, paced, on both cores; how exact its response time is; and the most that keep up."""

import json
import statistics
import subprocess
from functools import partial

from figures import Figure, against, alternate, spread
from harness import quantile
from sides import CLIENT, PROGRAMS, SERVER, Load, Server, aiohttp, hyper, ours, rejects_what_is_wrong

TITLE = "Checks"
# A rate is kept up with if nothing is skipped and 99 of 100 checks start within this.
KEPT_MS = 10
DELAY_MS = 100
# A guess at checks a second of one core, from which the real figure is found.
GUESS = {"http": 20_000, "https": 6_000}
BUDGET = {"http": ("≤ 80 µs", "≤ 0.25"), "https": ("≤ 550 µs", "")}


def run(folder, quick, say):
    """All figures; with `quick` in seconds, only to see that each works."""
    rounds, seconds = (1, 0.5) if quick else (3, 4)
    figures, most = [], {}
    with Server(folder) as server:
        rejects_what_is_wrong(folder, server)
        for scheme in ("http", "https"):
            capacity = calibrate(folder, server, scheme, quick)
            figures += saturated(folder, server, scheme, capacity, rounds, seconds)
            say(figures[-2:])
            most[scheme], late = the_most(folder, server, scheme, capacity, quick)
            figures.append(
                Figure(
                    f"{scheme.upper()}: most checks a second on one core that keep their slots",
                    f"{most[scheme]:,.0f}, lateness p99 {late:.1f} ms",
                    goal="told",
                )
            )
            say(figures[-1:])
        paces = [("http", 67), ("http", 200)] if quick else [("http", 67), ("http", 1000), ("https", 67)]
        for scheme, rate in paces:
            figures.append(paced(folder, server, scheme, rate, rounds, seconds))
            say(figures[-1:])
    for scheme in ("http", "https"):
        figures.append(both_cores(folder, scheme, rounds, seconds, quick))
        say(figures[-1:])
    rates = [10, 200] if quick else [10, 1000, round(0.8 * most["http"])]
    for rate in rates:
        figures += exactness(folder, rate, 2 if quick else 8 if rate > 100 else 20)
        say(figures[-1:])
    return figures


def calibrate(folder, server, scheme, quick):
    """About how many checks a second one core does."""
    count = 500 if quick else GUESS[scheme]
    return ours(folder, server, Load(scheme, count, busy=not quick), 0.5 if quick else 2).rate


def saturated(folder, server, scheme, capacity, rounds, seconds):
    """Processor time of a check while its core has no idle moment."""
    load = Load(scheme, round(capacity * 1.05), busy=True)
    sides = [partial(side, folder, server, load, seconds) for side in (ours, hyper, aiohttp)]
    mine, hypers, aiohttps = alternate(rounds, *sides)
    what = f"{scheme.upper()} check, one core saturated ({min(run.share for run in mine) * 100:.0f} % busy)"
    cpu = [run.cpu_us for run in mine]
    absolute, share = BUDGET[scheme]
    return [
        against(
            what, "µs", cpu, [run.cpu_us for run in aiohttps], "aiohttp", "; ".join(filter(None, (absolute, share)))
        ),
        against(what, "µs", cpu, [run.cpu_us for run in hypers], "hyper"),
    ]


def the_most(folder, server, scheme, capacity, quick):
    """The highest rate that is kept up with, from above in steps of a tenth, and its lateness in ms."""
    rate = 250 if quick else capacity
    for _ in range(20):
        run = ours(folder, server, Load(scheme, round(rate)), 1 if quick else 3, too_much=True)
        late = quantile(run.late_us, 0.99) / 1000 if run.late_us else float("inf")
        if not run.skipped and not run.failed and late <= KEPT_MS:
            return rate, late
        rate *= 0.9
    raise AssertionError(f"{scheme}: not even {rate:.0f} checks a second keep their slots")


def paced(folder, server, scheme, rate, rounds, seconds):
    """Processor time of a check where there is time between checks."""
    load = Load(scheme, rate)
    mine, theirs = alternate(rounds, *(partial(side, folder, server, load, seconds) for side in (ours, aiohttp)))
    what = f"{scheme.upper()} check at {rate:,} a second"
    return against(what, "µs", [run.cpu_us for run in mine], [run.cpu_us for run in theirs], "aiohttp", "≤ 0.25")


def both_cores(folder, scheme, rounds, seconds, quick):
    """Checks a second with client and server on both cores, by those with both on one."""
    goal = "≥ 1.8"
    if CLIENT == SERVER:
        return Figure(f"{scheme.upper()}: checks a second on two cores by one", "", goal=goal, rounds="one core only")

    def on(core):
        with Server(folder, core=core, threads=1 if core is not None else 2) as server:
            load = Load(scheme, 500 if quick else GUESS[scheme], busy=True, core=core)
            return ours(folder, server, load, seconds).rate

    two, one = alternate(rounds, partial(on, None), partial(on, CLIENT))
    what = f"{scheme.upper()}: checks a second, client and server on two cores, by both on one"
    return against(what, "/s", two, one, "one core", goal)


def exactness(folder, rate, seconds):
    """The error of the response time against a server that answers after exactly 100 ms."""
    with Server(folder, delay_ms=DELAY_MS, log=True) as server:
        load = Load("http", rate)
        limits = {"checks_in_flight": 20_000}
        found = {"Sitemon": ours(folder, server, load, seconds, limits).took_us}
        if rate <= 1000:
            address = f"127.0.0.1:{server.ports['http']}"
            command = ["taskset", "-c", str(CLIENT), PROGRAMS / "examples" / "baseline", "sockets", address]
            done = subprocess.run([*map(str, command), str(rate), str(seconds)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            found["bare sockets"] = json.loads(done.stdout)
            found["hyper"] = hyper(folder, server, load, seconds).took_us
            found["aiohttp"] = aiohttp(folder, server, load, seconds).took_us
        server.counts()
        own = [
            int(answered) - int(arrived) - DELAY_MS * 1000
            for arrived, answered, *_ in (line.split() for line in server.requests_log.read_text().splitlines())
            if answered != "0"
        ]

    def error(values):
        """In milliseconds; what is too short counts as what is too long."""
        errors = [abs(value / 1000 - DELAY_MS) for value in values]
        return f"p50 {statistics.median(errors):.3f} ms, p99 {quantile(errors, 0.99):.3f} ms"

    others = "; ".join(f"{name}: {error(values)}" for name, values in found.items() if name != "Sitemon")
    server_p99 = quantile([abs(value) for value in own], 0.99) / 1000
    return [
        Figure(
            f"error of the response time at {rate:,.0f} a second, answers after exactly {DELAY_MS} ms",
            error(found["Sitemon"]),
            others,
            rounds=f"{len(found['Sitemon']):,} checks; the server's own error: p99 {server_p99:.3f} ms",
            goal="p99 ≤ 1 ms" if rate == 1000 else "told",
        )
    ]


__all__ = ["TITLE", "run", "spread"]
