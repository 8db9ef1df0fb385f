"""kill -9 in the middle of load; the site's own log is the witness."""

import random
import sqlite3
import time
from contextlib import ExitStack

from harness import (
    MICRO,
    Authority,
    Names,
    Nginx,
    Sitemon,
    by_site,
    export,
    real_pages,
    slots,
    write_config,
)
from real_input import witnessed

# What is asked of durability: answered so long before the kill, and it is stored.
SAFE_US = MICRO


def run(folder, rounds, count=400, seed=None):
    """Kills a run so often, each time after 2 to 4 s; then every request must have its observation, none two."""
    seed = random.randrange(1 << 32) if seed is None else seed
    print(f"seed {seed}")
    dice = random.Random(seed)
    authority, pages, interval = Authority(folder), real_pages(folder), MICRO
    with ExitStack() as stack:
        names = stack.enter_context(Names())
        nginx = stack.enter_context(Nginx(folder, authority))
        sites = [
            {
                "name": f"s{number}",
                "url": f"http://s{number}.{nginx.domain}:{nginx.http}{pages[number % len(pages)][0]}",
            }
            for number in range(count)
        ]
        config = write_config(
            folder / "sites.json",
            sites,
            store={"kind": "sqlite", "path": "sites.db"},
            defaults={"interval": 1, "timeout": 1, "request": {"resolver": [names.address]}},
        )
        lives = []
        kept = {}
        for _ in range(rounds):
            with Sitemon(config, folder) as watching:
                time.sleep(dice.uniform(2, 4))
                killed_us = watching.kill()
            lives.append((watching.started_us, watching.ready_us, killed_us))
            stored = by_site(export(config))
            # What was there once stays there.
            for name, found in kept.items():
                assert set(found) <= set(stored[name]), (
                    f"{name}: lost after a later kill: {set(found) - set(stored[name])}"
                )
            kept = stored
        nginx.stop()
        requests = nginx.requests()

    with sqlite3.connect(folder / "sites.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    seen = witnessed(requests, {site["name"]: interval for site in sites})
    wrong, safe, lost_late = [], 0, 0
    for request in requests:
        killed_us = next(killed for started, _, killed in lives if started <= request.end_us <= killed + MICRO)
        name = request.host.split(".")[0]
        (slot,) = slots(name, interval, request.start_us + 2000 - interval + 1, request.start_us + 2001)
        if slot in stored[name]:
            continue
        if request.end_us < killed_us - SAFE_US:
            wrong.append(
                f"{name}: the answer at {request.end_us}, {(killed_us - request.end_us) / MICRO:.2f} s before a kill, is not stored"
            )
        lost_late += 1
    for site in sites:
        name = site["name"]
        twice = {slot: times for slot, times in seen[name].items() if times > 1}
        if twice:
            wrong.append(f"{name}: slots asked for more than once {twice}")
        must = set()
        may = set()
        for started_us, ready_us, killed_us in lives:
            must.update(slots(name, interval, ready_us, killed_us - SAFE_US))
            may.update(slots(name, interval, started_us, killed_us))
        safe += len(must)
        if must - set(stored[name]):
            wrong.append(f"{name}: slots without observation {must - set(stored[name])}")
        if set(stored[name]) - may:
            wrong.append(f"{name}: observations off the grid, or of times when nothing ran {set(stored[name]) - may}")
        wrong += [
            f"{name}: slot {slot} is {line['verdict']} {line['causes']}"
            for slot, line in stored[name].items()
            if line["verdict"] != "up"
        ]
    total = sum(len(found) for found in stored.values())
    print(f"{rounds} kills, {count} sites every second: {len(requests)} answered by the server, {total} stored,")
    print(
        f"  {safe} slots more than a second before a kill, all stored; {lost_late} answers of the last second before a kill are not"
    )
    assert not wrong, f"{len(wrong)} faults:\n" + "\n".join(wrong[:20])
