"""What storing costs: appending, the bytes of a check with the timings of a real run, and reading a long history."""

import json
import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import real_input
from figures import Figure, against, alternate, spread
from harness import MICRO, sitemon, write_config
from sides import CLIENT, PROGRAMS

TITLE = "Storing"
MEASURE = PROGRAMS / "examples" / "measure"


def run(folder, quick, say):
    figures = appending(folder, quick)
    say(figures)
    for part in (stored_bytes, reading):
        found = part(folder, quick)
        say(found)
        figures += found
    return figures


def measure(*words, core=CLIENT):
    """Runs the store's own program on one core."""
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    done = subprocess.run([*pinned, MEASURE, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def appending(folder, quick):
    """Durable transactions of 5,000 observations, and of 200 as a run at 1,000 a second has them."""
    figures = []
    for batch, count, rounds in (
        (5000, 10_000 if quick else 200_000, 2 if quick else 5),
        (200, 20_000, 2 if quick else 3),
    ):
        place = folder / f"append-{batch}"
        place.mkdir()
        found = measure("append", place, rounds, count, batch)
        mine = [one["ours"] for one in found["rounds"]]
        rows = [one["plain"] for one in found["rounds"]]
        packing = [one["packing"]["cpu"] * MICRO / count for one in found["rounds"]]
        what = f"appending in transactions of {batch:,}"
        goals = ("≥ 100,000/s", "≤ 5 µs") if batch == 5000 else ("", "")
        figures += [
            against(what, "/s", [count / x["wall"] for x in mine], [count / x["wall"] for x in rows], "rows", goals[0]),
            against(
                f"{what}: processor time",
                "µs",
                [x["cpu"] * MICRO / count for x in mine],
                [x["cpu"] * MICRO / count for x in rows],
                "rows",
                goals[1],
                digits=2,
            ),
        ]
        if batch == 5000:
            figures.append(
                Figure(
                    "packing afterwards, with the statistics of the hour: processor time",
                    f"{statistics.median(packing):.2f} µs",
                    rounds=spread(packing, 2),
                )
            )
    return figures


def stored_bytes(folder, quick):
    """Sites of a minute with real servers, their observations given other slots (crates/store/examples/measure)."""
    real = folder / "real"
    real.mkdir()
    real.chmod(0o755)
    # Four sites of each class, whose 60 checks one after the other are an hour at 15 s.
    seconds = 3 if quick else 60
    real_input.run(real, seconds=seconds, count=240, interval_s=1, lag_p99_ms=float("inf"))
    figures = []
    sizes = ((15, 60, 1), (60, 60, 1)) if quick else ((15, 120, 24), (60, 240, 48))
    for (interval, sites, hours), goal in zip(sizes, ("≤ 14, then 10", "≤ 21, then 14"), strict=True):
        place = folder / f"bytes-{interval}"
        place.mkdir()
        found = measure("bytes", place, real / "sites.db", interval, sites, hours, core=None)
        count, rows = found["count"], found["plain"]["file"]
        tables = ", ".join(f"{name} {size / count:.2f}" for name, size in found["tables"][:4])
        figures.append(
            Figure(
                f"stored bytes a check at {interval} s: {sites} sites, {hours} h, {count:,} checks",
                f"{found['file'] / count:.2f} in the file; by dbstat {tables}",
                f"{rows / count:.1f} (rows)",
                f"{found['file'] / rows:.3f}",
                f"{found['before_reclaim'] / count:.2f} before `compact`",
                goal,
            )
        )
    return figures


def reading(folder, quick):
    """`status` over many sites with a month of history, `stats` of one site over a year; whole commands."""
    place = folder / "history"
    place.mkdir()
    count, days, year_days = (50, 2, 10) if quick else (10_000, 30, 365)
    built = measure("history", place, count, days, year_days, core=None)
    config = write_config(
        place / "history.json",
        [{"name": f"site-{n:05}", "url": f"https://site-{n:05}.example/", "interval": 60} for n in range(count)]
        + [{"name": "year", "url": "https://year.example/", "interval": 60}],
        store={"kind": "sqlite", "path": "history.db"},
    )
    rows = place / "plain.db"
    sql = (
        "SELECT count(*), avg(verdict < 2), avg(response_time_us), (SELECT response_time_us FROM observations ORDER BY "
        "response_time_us LIMIT 1 OFFSET (SELECT count(*) * 95 / 100 FROM observations)) FROM observations"
    )

    def command(*words, rows_expected):
        begun = time.monotonic()
        code, out, err = sitemon(*words, "-c", config, "--json")
        took = (time.monotonic() - begun) * 1000
        assert code in (0, 1, 3) and len(out.splitlines()) == rows_expected, f"{code}: {err}"
        return took

    def plain():
        begun = time.monotonic()
        script = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone()[0])"
        done = subprocess.run(["python3", "-c", script, rows, sql], capture_output=True, text=True)
        assert int(done.stdout) == built["plain"], done.stderr
        return (time.monotonic() - begun) * 1000

    year = ("--from", iso(time.time() - year_days * 86_400), "--to", iso(time.time()))
    rounds = 2 if quick else 5
    # A day is read in one row, but the hours before it one by one: how many there are depends on the time of day.
    most_hours = ("--over", f"{time.gmtime().tm_hour + 24}h")
    status = partial(command, "status", rows_expected=count + 1)
    statuses, by_hour, months = alternate(
        rounds, status, partial(status, *most_hours), partial(status, "--over", "30d")
    )
    stats, plains = alternate(rounds, partial(command, "stats", "year", *year, rows_expected=1), plain)
    return [
        Figure(
            f"`status` over {count:,} sites with {days} days ({built['count']:,} observations, {built['waiting']:,} not packed)",
            f"{statistics.median(statuses):.0f} ms",
            rounds=spread(statuses, 0),
            goal="≤ 200 ms",
        ),
        Figure(
            "the same where 23 hours of yesterday are shown, one by one, and today",
            f"{statistics.median(by_hour):.0f} ms",
            rounds=spread(by_hour, 0),
            goal="told",
        ),
        Figure(
            "the same with `--over 30d`", f"{statistics.median(months):.0f} ms", rounds=spread(months, 0), goal="told"
        ),
        against(
            f"`stats` of one site over {year_days} days, each minute", "ms", stats, plains, "SQL over rows", "≤ 50 ms"
        ),
    ]


def iso(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="sitemon-bench-") as scratch:
        run(Path(scratch), True, print)
