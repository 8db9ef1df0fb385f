"""100,000 sites: loaded in seconds, and a reload that changes one of them disturbs none."""

import json
import signal
import time
from contextlib import ExitStack

from harness import (
    MICRO,
    Authority,
    Nginx,
    Sitemon,
    by_site,
    export,
    micros,
    now_us,
    quantile,
    real_pages,
    sitemon,
    slots,
    write_config,
)


def run(folder, count=100_000, watched=200, load_seconds=20):
    """`watched` of the sites are checked each second, the others each 1,000 s: by them a disturbance would be seen."""
    authority, pages = Authority(folder), real_pages(folder)
    with ExitStack() as stack:
        nginx = stack.enter_context(Nginx(folder, authority))
        page = pages[0][0]

        def site(number):
            url = f"http://s{number}.{nginx.domain}:{nginx.http}{page}"
            # Nearly all look for a text of their own, so that none is read for another.
            expect = {"body": {"absent": [rf"no. {number} of \d+"]}} if number >= watched else {}
            return {"name": f"s{number}", "url": url, "interval": 1 if number < watched else 1000, "expect": expect}

        sites = [site(number) for number in range(count)]
        keys = {
            "store": {"kind": "sqlite", "path": "sites.db"},
            "defaults": {"timeout": 1, "request": {"connect_to": f"127.0.0.1:{nginx.http}"}},
        }
        config = write_config(folder / "sites.json", sites, **keys)

        begun = time.monotonic()
        code, _, err = sitemon("config", "check", config)
        checked = time.monotonic() - begun
        assert code == 0, err[-2000:]

        with Sitemon(config, folder, ready_seconds=load_seconds) as watching:
            started = (watching.ready_us - watching.started_us) / MICRO
            memory = watching.resident_bytes()
            time.sleep(5)
            # One site of the slow ones becomes a very fast one: its next slot tells when the change is in force.
            moved, moved_us = sites[-1]["name"], MICRO // 10
            sites[-1].update(interval=0.1, timeout=0.1)
            fresh = write_config(folder / "fresh.json", sites, **keys)
            fresh.replace(config)
            reloaded_us = now_us()
            watching.process.send_signal(signal.SIGHUP)
            time.sleep(8)
            stopped_us = now_us()
            assert watching.stop(30) == 0, watching.said()[-2000:]

    stored = by_site(export(config))
    around, quiet = [], []
    for number in range(watched):
        name = f"s{number}"
        missing = set(slots(name, MICRO, watching.ready_us, stopped_us)) - set(stored[name])
        assert not missing, f"{name}: slots without observation {missing}"
        for slot, line in stored[name].items():
            assert line["verdict"] == "up", line
            lag = micros(line["started_at"]) - slot
            (around if reloaded_us <= slot < reloaded_us + 4 * MICRO else quiet).append(lag / 1000)
    first = min(slot for slot, line in stored[moved].items() if line["interval_us"] == moved_us)
    in_force = (first - reloaded_us) / MICRO
    due = slots(moved, moved_us, first, stopped_us)
    assert set(due) <= set(stored[moved]), f"{moved}: slots without observation after the reload"
    print(
        f"{count} sites, {config.stat().st_size / 1e6:.0f} MB: config check {checked:.2f} s, ready after {started:.2f} s,"
    )
    print(f"  resident {memory / 1048576:.0f} MiB; reload of one site in force within {in_force:.2f} s")
    print(
        f"  lag ms p99: {quantile(quiet, 0.99):.3f}, in the 4 s after the reload {quantile(around, 0.99):.3f}, most {max(around):.3f}"
    )
    assert checked <= load_seconds
    # Half a second more than promised, for a machine that is busy with other things.
    assert in_force <= 1.5, f"the reload was in force after {in_force:.2f} s"
    assert quantile(around, 0.99) <= 50, f"a reload made the others {quantile(around, 0.99):.1f} ms late"
    return json.dumps({"checked_s": checked, "ready_s": started})
