"""A machine that lacks something: descriptors, IPv6. Slower or unknown, never a false down."""

import socket
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from harness import (
    MICRO,
    Authority,
    Names,
    Nginx,
    Sitemon,
    by_site,
    export,
    in_namespaces,
    now_us,
    real_pages,
    slots,
    write_config,
)


def verdicts(observations):
    """How often each verdict with its causes occurs."""
    return Counter((line["verdict"], *sorted(cause["code"] for cause in line["causes"])) for line in observations)


def few_files(folder, files=256, count=1000, seconds=45):
    """1,000 sites at 5 s that take 2 s each, with 256 descriptors: more are due than can be open at once.

    Each has its turn, and none has it again before the others.
    """
    authority = Authority(folder)
    pages = real_pages(folder, smallest=12_000, largest=20_000)
    with ExitStack() as stack:
        names = stack.enter_context(Names())
        # The body comes in two pieces, a second or so apart.
        nginx = stack.enter_context(Nginx(folder, authority, extra="limit_rate 8k;"))
        sites = [
            {"name": f"s{n}", "url": f"http://s{n}.{nginx.domain}:{nginx.http}{pages[n % len(pages)][0]}"}
            for n in range(count)
        ]
        config = write_config(
            folder / "sites.json",
            sites,
            store={"kind": "sqlite", "path": "sites.db"},
            defaults={"interval": 5, "timeout": 5, "request": {"resolver": [names.address]}},
        )
        with Sitemon(config, folder, files=files) as watching:
            time.sleep(seconds)
            stopped_us = now_us()
            assert watching.stop(30) == 0, watching.said()[-2000:]
    observations = export(config)
    found = verdicts(observations)
    stored = by_site(observations)
    turns = Counter(sum(line["verdict"] == "up" for line in stored[site["name"]].values()) for site in sites)
    print(f"{count} sites at 5 s, {files} descriptors, {seconds} s: {dict(found)}")
    print(f"  sites by how often they were up: {dict(sorted(turns.items()))}")
    assert not [key for key in found if key[0] in ("down", "degraded")], found
    assert {cause for key in found if key[0] == "unknown" for cause in key[1:]} <= {
        "own.failure",
        "skipped.overload",
        "skipped.overlap",
    }
    assert min(turns) >= 1, f"some were never checked: {turns}"
    assert max(turns) <= 2 + min(turns), f"some had their turn again and again: {turns}"
    for site in sites:
        missing = set(slots(site["name"], 5 * MICRO, watching.ready_us, stopped_us)) - set(stored[site["name"]])
        assert not missing, f"{site['name']}: slots without observation {missing}"


def without_ipv6():
    """Runs `inside` on a machine of its own (a network namespace) that has no IPv6."""
    in_namespaces(["-n"], __file__, seconds=120)


def inside(folder):
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    try:
        for scope in ("all", "default", "lo"):
            Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")
    except OSError:
        subprocess.run(["ip", "-6", "addr", "flush", "dev", "lo"], check=True)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        assert probe.connect_ex(("::1", 9)) != 0, "there still is IPv6"
    authority, pages = Authority(folder), real_pages(folder)
    with ExitStack() as stack:
        names = stack.enter_context(Names())
        nginx = stack.enter_context(Nginx(folder, authority))
        page = pages[0][0]
        kinds = {"four": "", "dual": "dual-", "six": "six-"}
        sites = [
            {"name": f"{kind}-{n}", "url": f"http://{prefix}{n}.{nginx.domain}:{nginx.http}{page}"}
            for kind, prefix in kinds.items()
            for n in range(10)
        ]
        sites += [
            {"name": f"only-{n}", "url": f"http://dual-{n}.{nginx.domain}:{nginx.http}{page}", "request": {"ip": "6"}}
            for n in range(10)
        ]
        sites += [{"name": "literal-0", "url": f"http://[::1]:{nginx.http}{page}"}]
        config = write_config(
            folder / "sites.json",
            sites,
            store={"kind": "sqlite", "path": "sites.db"},
            defaults={"interval": 1, "timeout": 1, "request": {"resolver": [names.address]}},
        )
        with Sitemon(config, folder) as watching:
            time.sleep(5)
            assert watching.stop() == 0, watching.said()[-2000:]
    stored = by_site(export(config))
    for kind in ("four", "dual", "six", "only", "literal"):
        found = verdicts(
            line for name, lines in stored.items() if name.split("-")[0] == kind for line in lines.values()
        )
        print(f"no IPv6, {kind}: {dict(found)}")
        expected = {("up",)} if kind in ("four", "dual") else {("unknown", "own.failure")}
        assert set(found) == expected and sum(found.values()) >= 4, f"{kind}: {found}, expected {expected}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="sitemon-noipv6-") as folder:
        inside(Path(folder))
