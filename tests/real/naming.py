"""Names by the built binary: kept as long as they may be, and asked by a C library that hangs."""

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
    micros,
    now_us,
    quantile,
    real_pages,
    slots,
    write_config,
)


def kept(folder, count=20, seconds=9):
    """`dns_cache: ttl` asks once for each time to live, and never uses an address for longer."""
    authority, pages = Authority(folder), real_pages(folder)
    with ExitStack() as stack:
        names = stack.enter_context(Names(ttl=3))
        nginx = stack.enter_context(Nginx(folder, authority))
        sites = [
            {
                "name": f"{cache}-{n}",
                "url": f"http://{cache}-{n}.{nginx.domain}:{nginx.http}{pages[n % len(pages)][0]}",
                "request": {"dns_cache": cache},
            }
            for cache in ("none", "ttl")
            for n in range(count)
        ]
        config = write_config(
            folder / "sites.json",
            sites,
            store={"kind": "sqlite", "path": "sites.db"},
            defaults={"interval": 0.5, "timeout": 0.5, "request": {"resolver": [names.address]}},
        )
        with Sitemon(config, folder) as watching:
            time.sleep(seconds)
            moved_us = now_us()
            # From now on the names are those of an address where nobody listens.
            names.moved = True
            time.sleep(4)
            assert watching.stop() == 0, watching.said()[-2000:]
        asked = Counter(name.split(".")[0] for name, _, _ in names.questions)
    stored = by_site(export(config))
    took = seconds + 4
    for n in range(count):
        checks = len(stored[f"none-{n}"])
        assert asked[f"none-{n}"] == 2 * checks, f"{asked[f'none-{n}']} questions for {checks} checks"
        # Both families, once for each 3 s that began.
        most = 2 * (took // 3 + 2)
        assert 2 <= asked[f"ttl-{n}"] <= most, f"{asked[f'ttl-{n}']} questions in {took} s, {most} at most"
        for cache, after_us in (("none", 0), ("ttl", 3 * MICRO)):
            for slot, line in stored[f"{cache}-{n}"].items():
                old = line["hops"][0]["address"].startswith("127.0.0.1:")
                if slot < moved_us - MICRO // 2:
                    assert old and line["verdict"] == "up", line
                elif slot > moved_us + after_us:
                    assert not old, (
                        f"{cache}: an address was used {(slot - moved_us) / MICRO:.1f} s after it was gone: {line}"
                    )
    questions = {cache: sum(asked[f"{cache}-{n}"] for n in range(count)) for cache in ("none", "ttl")}
    print(
        f"{count} names for {took} s at 0.5 s: {questions['none']} questions, {questions['ttl']} where they are kept for 3 s"
    )


def library_that_hangs():
    """`inside`, where resolv.conf names a server of our own: on a machine of its own."""
    in_namespaces(["-m", "-n"], __file__, seconds=120)


def inside(folder, seconds=12):
    """getaddrinfo hangs for some names: who waits for it is late, nobody is down for it, and no other site is touched."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for path, text in (
        ("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n"),
        ("/etc/nsswitch.conf", "hosts: files dns\n"),
    ):
        (folder / "bound").write_text(text)
        own = (folder / "bound").rename(folder / Path(path).name)
        subprocess.run(["mount", "--bind", own, path], check=True)
    authority, pages = Authority(folder), real_pages(folder)
    with ExitStack() as stack:
        stack.enter_context(Names(port=53))
        nginx = stack.enter_context(Nginx(folder, authority))
        page = pages[0][0]

        def site(name, host, **request):
            return {"name": name, "url": f"http://{host}.{nginx.domain}:{nginx.http}{page}", "request": request}

        good = [site(f"system-{n}", f"s{n}") for n in range(200)]
        good += [site(f"literal-{n}", f"l{n}", connect_to=f"127.0.0.1:{nginx.http}") for n in range(100)]
        libc = [site(f"libc-{n}", f"c{n}", resolver="libc") for n in range(20)]
        hang = [site(f"hang-{n}", f"hang-{n}", resolver="libc") for n in range(60)]
        lags = {}
        for round_, sites in (("alone", good), ("beside", good + libc + hang)):
            config = write_config(
                folder / f"{round_}.json",
                sites,
                store={"kind": "sqlite", "path": f"{round_}.db"},
                defaults={"interval": 1, "timeout": 1},
            )
            with Sitemon(config, folder) as watching:
                time.sleep(seconds)
                stopped_us = now_us()
                assert watching.stop() == 0, watching.said()[-2000:]
            stored = by_site(export(config))
            for one in sites:
                missing = set(slots(one["name"], MICRO, watching.ready_us, stopped_us)) - set(stored[one["name"]])
                assert not missing, f"{one['name']}: slots without observation {missing}"
            ours = [line for one in good for line in stored[one["name"]].values()]
            assert {line["verdict"] for line in ours} == {"up"}
            lags[round_] = quantile([lag_ms(line) for line in ours], 0.99)
    found = {
        kind: Counter(
            (line["verdict"], *(cause["code"] for cause in line["causes"]))
            for name, lines in stored.items()
            if name.startswith(kind)
            for line in lines.values()
        )
        for kind in ("libc", "hang")
    }
    late = [
        lag_ms(line)
        for name, lines in stored.items()
        if name[:4] == "libc"
        for line in lines.values()
        if "hops" in line
    ]
    print(f"getaddrinfo hangs for 2 s for 60 of 80 names: {found}")
    print(
        f"  lag p99 of the other {len(good)} sites: {lags['alone']:.3f} ms alone, {lags['beside']:.3f} ms beside them"
    )
    print(
        f"  those that ask the same library and do not hang are late by {quantile(late, 0.5):.0f} ms (p50), {max(late):.0f} ms at most"
    )
    # Waiting for a thread is lag, and what has none in time is ours; it is never the site's fault.
    ours = {("up",), ("unknown", "own.failure"), ("unknown", "skipped.overlap"), ("unknown", "stopped")}
    assert set(found["libc"]) <= ours, found
    assert set(found["hang"]) <= ours - {("up",)} | {("down", "dns.timeout")}, found
    assert found["hang"][("down", "dns.timeout")] > 60 and found["libc"][("up",)] > 10, found
    # What else the machine does makes both late.
    assert lags["beside"] - lags["alone"] < max(1, lags["alone"]), lags
    for name, lines in stored.items():
        for line in lines.values():
            if name.startswith("libc") and line["verdict"] == "up":
                assert line["hops"][0]["phases"]["dns"]["us"] < MICRO // 2, f"waiting counts as dns: {line}"


def lag_ms(line):
    return (micros(line["started_at"]) - micros(line["scheduled_at"])) / 1000


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="sitemon-names-") as name:
        Path(name).chmod(0o755)
        inside(Path(name))
