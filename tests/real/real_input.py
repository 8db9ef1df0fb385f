"""Real input: expected slots = stored observations = the servers' own access logs, site by site."""

import time
from collections import Counter, defaultdict
from contextlib import ExitStack

from harness import (
    MICRO,
    Authority,
    Lighttpd,
    Names,
    Nginx,
    Sitemon,
    by_site,
    export,
    micros,
    now_us,
    quantile,
    real_pages,
    slot_before,
    slots,
    write_config,
)

# A server's clock may be cut to milliseconds, so that a request seems to have come a little before its slot.
CLOCK_US = 2_000


def witnessed(requests, intervals):
    """How often each slot of each site was asked for, by the servers' logs: {site: {slot: times}}."""
    seen = defaultdict(Counter)
    for request in requests:
        site = request.host.split(".")[0]
        seen[site][slot_before(site, intervals[site], request.start_us + CLOCK_US)] += 1
    return seen


def run(folder, seconds, count, interval_s=5, lag_p99_ms=5.0):
    """Watches `count` sites on two servers for so long, then holds the three against each other."""
    authority = Authority(folder)
    pages = real_pages(folder)
    interval = interval_s * MICRO
    with ExitStack() as stack:
        names = stack.enter_context(Names())
        servers = [stack.enter_context(Nginx(folder, authority)), stack.enter_context(Lighttpd(folder, authority))]
        sites = []
        for number in range(count):
            server, secure = servers[number % 2], number // 2 % 2
            path, pattern = pages[number % len(pages)]
            scheme, port = ("https", server.https) if secure else ("http", server.http)
            url = f"{scheme}://s{number}.{server.domain}:{port}{path}"
            sites.append(
                {"name": f"s{number}", "url": url, "expect": {"status": [200], "body": {"matches": [pattern]}}}
            )
        config = write_config(
            folder / "sites.json",
            sites,
            store={"kind": "sqlite", "path": "sites.db"},
            defaults={
                "interval": interval_s,
                "timeout": min(5, interval_s),
                "request": {"resolver": [names.address], "tls": {"ca": str(authority.ca)}},
            },
        )
        with Sitemon(config, folder) as watching:
            busy, since = watching.cpu_seconds(), time.monotonic()
            time.sleep(seconds)
            busy, took = watching.cpu_seconds() - busy, time.monotonic() - since
            memory = watching.resident_bytes()
            stopped_us = now_us()
            code = watching.stop()
            gone_us = now_us()
            assert code == 0, f"run ended with {code}: {watching.said()[-2000:]}"
        assert all(server.stop() == 0 for server in servers)
        requests = [request for server in servers for request in server.requests()]

    stored = by_site(export(config))
    seen = witnessed(requests, {site["name"]: interval for site in sites})
    wrong = []
    expected_sum = 0
    for site in sites:
        name = site["name"]
        must = set(slots(name, interval, watching.ready_us, stopped_us))
        may = set(slots(name, interval, watching.started_us, gone_us))
        expected_sum += len(must)
        in_store, in_log = set(stored[name]), set(seen[name])
        if in_store != in_log:
            wrong.append(
                f"{name}: stored but not asked for {in_store - in_log}, asked for but not stored {in_log - in_store}"
            )
        if must - in_store:
            wrong.append(f"{name}: slots without observation {must - in_store}")
        if in_store - may:
            wrong.append(f"{name}: observations that belong to no slot {in_store - may}")
        if set(seen[name].values()) - {1}:
            wrong.append(f"{name}: slots asked for more than once {seen[name]}")
        for slot, line in stored[name].items():
            if line["verdict"] != "up":
                wrong.append(f"{name}: slot {slot} is {line['verdict']} {line['causes']}")
    lines = [line for site in stored.values() for line in site.values()]
    lags = [
        (micros(line["started_at"]) - micros(line["scheduled_at"])) / 1000 for line in lines if "started_at" in line
    ]
    answers = [line["response_time_us"] / 1000 for line in lines if "response_time_us" in line]
    print(f"{count} sites every {interval_s} s for {seconds:.0f} s, nginx and lighttpd, HTTP and HTTPS by halves")
    print(
        f"  slots expected {expected_sum} (and those of start and stop), stored {len(lines)}, in the servers' logs {len(requests)}"
    )
    assert not wrong, f"{len(wrong)} faults:\n" + "\n".join(wrong[:20])
    print(f"  lag ms: p50 {quantile(lags, 0.5):.3f}  p99 {quantile(lags, 0.99):.3f}  most {max(lags):.3f}")
    print(f"  response time ms: p50 {quantile(answers, 0.5):.2f}  p99 {quantile(answers, 0.99):.2f}")
    per_check = busy * MICRO / (count * took / interval_s)
    print(
        f"  processor time {busy / took * 100:.1f} % of a core, {per_check:.0f} µs a check; resident {memory / 1048576:.0f} MiB"
    )
    assert quantile(lags, 0.99) <= lag_p99_ms, f"lag p99 {quantile(lags, 0.99):.3f} ms, at most {lag_p99_ms} allowed"
    assert any(request.secure for request in requests) and not any(request.resumed for request in requests)
    return lines
