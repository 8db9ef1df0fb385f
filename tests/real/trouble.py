"""The store in trouble: locked by another process, or on a disk that is full. No check is late, nothing is lost."""

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
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
    quantile,
    real_pages,
    slots,
    write_config,
)


def through(folder, place, count, trouble):
    """Watches `count` sites at 1 s with the store in `place`, has `trouble` happen, and then misses nothing."""
    authority, pages = Authority(folder), real_pages(folder)
    with ExitStack() as stack:
        nginx = stack.enter_context(Nginx(folder, authority))
        sites = [
            {"name": f"s{n}", "url": f"http://s{n}.{nginx.domain}:{nginx.http}{pages[n % len(pages)][0]}"}
            for n in range(count)
        ]
        config = write_config(
            folder / "sites.json",
            sites,
            store={"kind": "sqlite", "path": str(place / "sites.db")},
            defaults={"interval": 1, "timeout": 1, "request": {"connect_to": f"127.0.0.1:{nginx.http}"}},
        )
        with Sitemon(config, folder) as watching:
            time.sleep(3)
            before = watching.resident_bytes()
            seconds = trouble(place)
            after = watching.resident_bytes()
            time.sleep(3)
            stopped_us = now_us()
            assert watching.stop(30) == 0, watching.said()[-2000:]
    stored = by_site(export(config))
    lags = []
    for site in sites:
        name = site["name"]
        missing = set(slots(name, MICRO, watching.ready_us, stopped_us)) - set(stored[name])
        assert not missing, f"{name}: slots without observation {missing}\n{watching.said()[-2000:]}"
        for slot, line in stored[name].items():
            assert line["verdict"] == "up", line
            lags.append((micros(line["started_at"]) - slot) / 1000)
    total = sum(len(lines) for lines in stored.values())
    print(
        f"{count} sites at 1 s, {seconds:.0f} s of trouble: all {total} stored, lag p99 {quantile(lags, 0.99):.3f} ms,"
    )
    print(f"  resident {before / 1048576:.0f} MiB before, {after / 1048576:.0f} MiB at its end")
    assert quantile(lags, 0.99) <= 5, "checks were late"
    assert after - before < 64 << 20, "memory grew without bound"


def locked(folder, seconds=30, count=200):
    """Another process holds the database's write lock."""

    def trouble(place):
        with sqlite3.connect(place / "sites.db", isolation_level=None, timeout=10) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)
            other.execute("ROLLBACK")
        other.close()
        return seconds

    through(folder, folder, count, trouble)


def full(seconds=20):
    """The disk is full: a small file system in a mount namespace of its own."""
    space = ["unshare", "-m"] if os.getuid() == 0 else ["unshare", "-r", "-m"]
    done = subprocess.run(
        [*space, sys.executable, __file__, str(seconds)], capture_output=True, text=True, timeout=seconds + 120
    )
    print(done.stdout)
    assert done.returncode == 0, (
        f"{done.stdout}{done.stderr}\n(A mount namespace is needed: root, or a kernel that lets users make them: "
        "sysctl kernel.unprivileged_userns_clone=1)"
    )


def inside(folder, seconds, count=200):
    place = folder / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", place], check=True)

    def trouble(place):
        with open(place / "filler", "wb", buffering=0) as filler:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                try:
                    filler.write(b"\0" * 4096)
                except OSError:
                    time.sleep(0.02)
        (place / "filler").unlink()
        return seconds

    try:
        through(folder, place, count, trouble)
    finally:
        subprocess.run(["umount", place], check=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="sitemon-full-") as name:
        Path(name).chmod(0o755)
        inside(Path(name), float(sys.argv[1]))
