"""The system's clock is set while `sitemon run` runs: forwards and back, by a second and by an hour.

libfaketime stands between the process and its wall clock; its other clocks go on as they are. The server's log has the
true times, and the steps say which slot of the process each of them was.
"""

import json
import os
import re
import time
from collections import Counter
from pathlib import Path

from harness import (
    MICRO,
    Authority,
    Nginx,
    Sitemon,
    by_site,
    export,
    micros,
    now_us,
    real_pages,
    sitemon,
    slots,
    write_config,
)

HOUR = 3600
# By how many seconds the process's clock is away from the true one, one stretch after the other.
OFFSETS = [0, 1, 0, HOUR, 0, -HOUR, -HOUR - 1, 0]
# The schedule looks at the clock at least so often; a step is taken to have come right after it looked last.
UNNOTICED_US = 1_100_000
# A slot that comes less than this before a step may not be noticed before it, on a busy machine, and then never came.
UNSERVED_US = 250_000


def library():
    found = sorted(Path("/usr/lib").glob("**/faketime/libfaketimeMT.so.1"))
    assert found, "libfaketime is missing: run scripts/install-test-needs"
    return found[0]


def run(folder, count=60, seconds=4.0):
    authority, pages = Authority(folder), real_pages(folder)
    offset = folder / "offset"
    offset.write_text("+0")
    environment = {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    with Nginx(folder, authority) as nginx:
        sites = [
            {"name": f"s{n}", "url": f"http://s{n}.{nginx.domain}:{nginx.http}{pages[n % len(pages)][0]}"}
            for n in range(count)
        ]
        config = write_config(
            folder / "sites.json",
            sites,
            store={"kind": "sqlite", "path": "sites.db"},
            defaults={"interval": 1, "timeout": 1, "request": {"connect_to": f"127.0.0.1:{nginx.http}"}},
        )
        # Each stretch: by how much the clock is away, and from when to when that was certain, in true time.
        stretches = []
        with Sitemon(config, folder, env=environment) as watching:
            for away in OFFSETS:
                fresh = folder / "offset.fresh"
                fresh.write_text(f"{away:+d}")
                before_us = now_us()
                os.replace(fresh, offset)
                stretches.append([away * MICRO, before_us, now_us(), None])
                time.sleep(seconds)
                stretches[-1][3] = now_us()
            stretches[0][2] = watching.ready_us
            code = watching.stop()
            assert code == 0, watching.said()[-2000:]
        nginx.stop()
        requests = nginx.requests()
    check(
        stretches, stored := by_site(export(config)), Counter(r.host.split(".")[0] for r in requests), watching.ready_us
    )
    told = [float(step) for step in re.findall(r"clock was set .*\(([+-][0-9.]+) s\)", watching.said())]
    steps = [later - earlier for earlier, later in zip(OFFSETS, OFFSETS[1:], strict=False)]
    assert [round(step) for step in told] == steps, f"the log tells of {told}, the steps were {steps}"
    code, out, err = sitemon("stats", "s0", "-c", config, "--json")
    figures = json.loads(out.splitlines()[0])
    assert code == 0 and figures["availability"] == 1 and figures["coverage"] <= 1, f"{figures} {err}"
    print(f"steps of {steps} s, each told once: {sum(map(len, stored.values()))} slots served, each of them once")


def check(stretches, stored, requests, ready_us):
    """Each slot of the process's clock that came was served once, whatever the clock did before."""
    for name, lines in stored.items():
        lived, must, may, edge = [], set(), set(), set()
        for away, before, since, until in stretches:
            now = (since + away, until + away - UNSERVED_US)
            for slot in slots(name, MICRO, *now):
                if not any(first <= slot <= last for first, last in lived):
                    must.add(slot)
            may.update(slots(name, MICRO, before - UNNOTICED_US + away, until + away + MICRO))
            lived.append((before + away, until + away))
            edge.update(slots(name, MICRO, until + away - UNSERVED_US, until + away + UNSERVED_US))
        assert not must - set(lines), f"{name}: slots without observation {must - set(lines)}"
        assert set(lines) <= may, f"{name}: slots that never came {set(lines) - may}"
        assert {line["verdict"] for line in lines.values()} == {"up"}, f"{name}: not always up"
        # In the store a repetition would be merged; the server would have seen it.
        assert requests[name] == len(lines), f"{name}: {requests[name]} requests for {len(lines)} slots"
        for slot, line in lines.items():
            assert 0 <= line["response_time_us"] < MICRO, line
            # One that came just before a step may have begun just after it, by the new clock.
            assert slot in edge or micros(line["started_at"]) - slot < MICRO, line
