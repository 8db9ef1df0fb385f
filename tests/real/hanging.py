"""Sites whose names or connections hang delay no others."""

import time
from collections import Counter
from contextlib import ExitStack

from harness import (
    Authority,
    Deaf,
    Names,
    Nginx,
    Sitemon,
    export,
    micros,
    quantile,
    real_pages,
    write_config,
)


def run(folder, count=500, hanging=200, seconds=12):
    """Lag of `count` sites at 1 s alone, then beside `hanging` ones of each kind: p99 differs by less than 1 ms."""
    authority, pages = Authority(folder), real_pages(folder)
    with ExitStack() as stack:
        names, deaf = stack.enter_context(Names()), stack.enter_context(Deaf())
        nginx = stack.enter_context(Nginx(folder, authority))
        good = [
            {"name": f"s{n}", "url": f"http://s{n}.{nginx.domain}:{nginx.http}{pages[n % len(pages)][0]}"}
            for n in range(count)
        ]
        kinds = {
            "dns.timeout": lambda n: f"http://hang-{n}.nginx.test:{nginx.http}/",
            "connect.timeout": lambda n: f"http://c{n}.nginx.test:{deaf.no_connection}/",
            "wait.timeout": lambda n: f"http://w{n}.nginx.test:{deaf.no_answer}/",
        }
        bad = [
            {"name": f"{kind} {n}", "url": url(n), "interval": 3, "timeout": 2}
            for kind, url in kinds.items()
            for n in range(hanging)
        ]
        lags = {}
        for round_, sites in (("alone", good), ("beside", good + bad)):
            config = write_config(
                folder / f"{round_}.json",
                sites,
                store={"kind": "sqlite", "path": f"{round_}.db"},
                defaults={"interval": 1, "timeout": 1, "request": {"resolver": [names.address]}},
            )
            with Sitemon(config, folder) as watching:
                time.sleep(seconds)
                memory = watching.resident_bytes()
                assert watching.stop() == 0, watching.said()[-2000:]
            lines = export(config)
            ours = [line for line in lines if line["site"].startswith("s")]
            assert {line["verdict"] for line in ours} == {"up"}
            lags[round_] = [(micros(line["started_at"]) - micros(line["scheduled_at"])) / 1000 for line in ours]
        found = Counter(
            (line["site"].split(" ")[0], line["verdict"], *(c["code"] for c in line["causes"]))
            for line in lines
            if " " in line["site"]
        )
    alone, beside = (quantile(lags[key], 0.99) for key in ("alone", "beside"))
    print(
        f"{count} sites: lag p99 {alone:.3f} ms alone, {beside:.3f} ms beside {len(bad)} that hang; resident {memory / 1048576:.0f} MiB"
    )
    print(f"  the others: {dict(found)}")
    for kind in kinds:
        # A check that the stop ended is unknown, by rule.
        assert {key for key in found if key[0] == kind} <= {(kind, "down", kind), (kind, "unknown", "stopped")}, found
        assert found[(kind, "down", kind)] >= hanging
    assert beside - alone < 1.0, f"those that hang move the others' p99 lag from {alone:.3f} to {beside:.3f} ms"
