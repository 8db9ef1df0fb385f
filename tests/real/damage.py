"""A store that is damaged, too new, another's, or on a medium that cannot be written: exit code 4 and words that help.

Nothing is made worse by trying, nothing panics, and what can be read is read.
"""

import contextlib
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from harness import (
    SITEMON,
    Authority,
    Nginx,
    Process,
    Sitemon,
    export,
    in_namespaces,
    real_pages,
    sitemon,
    write_config,
)

READERS = (["export"], ["status", "--json"], ["stats", "s0", "--json"], ["history", "s0"])
PAGE = 16_384


def filled(folder):
    """A store with pages of every kind: blocks, arrivals, statistics, evidence. Its configuration and its file."""
    authority, pages = Authority(folder), real_pages(folder)
    with Nginx(folder, authority) as nginx:
        sites = [
            {
                "name": f"s{n}",
                "url": f"http://s{n}.{nginx.domain}:{nginx.http}{pages[n % len(pages)][0] if n % 5 else '/missing'}",
                "plugins": ["html-stats"] if n % 2 else [],
            }
            for n in range(30)
        ]
        config = write_config(
            folder / "sites.json",
            sites,
            store={"kind": "sqlite", "path": "sites.db"},
            defaults={"interval": 0.2, "timeout": 0.2, "request": {"connect_to": f"127.0.0.1:{nginx.http}"}},
        )
        for _ in range(2):
            code, _, err = sitemon("compact", "-c", config)
            assert code == 0, err
            with Sitemon(config, folder) as watching:
                time.sleep(3)
                assert watching.stop() == 0, watching.said()
    return config, folder / "sites.db"


def tries(config, folder, put):
    """What each command makes of the store as `put` puts it there: its exit code and what it said."""
    for command in (*READERS, ["compact"]):
        put()
        code, _, err = sitemon(*command, "-c", config, timeout=20)
        yield command[0], code, err
    put()
    # Long enough to be ready, to append and to look after the store.
    with Process([SITEMON, "run", "-c", config, "-q"], folder, "try") as running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(0.35)
        code = running.stop()
        yield "run", code, running.said()
    running.log.unlink()


def put(file, content):
    for end in ("-wal", "-shm"):
        file.with_name(file.name + end).unlink(missing_ok=True)
    file.write_bytes(content)


def damaged(folder):
    """Of each page of the file in turn all bytes are changed, and then only a few."""
    config, file = filled(folder)
    sound = file.read_bytes()
    assert len(sound) % PAGE == 0
    found = Counter()
    for page in range(len(sound) // PAGE):
        for step in (1, 997):
            changed = bytearray(sound)
            for place in range(page * PAGE + step // 10, (page + 1) * PAGE, step):
                changed[place] ^= 0x5A
            for kind, code, err in tries(config, folder, partial(put, file, changed)):
                told = f"page {page}, each {step}. byte: {kind} ended with {code}: {err[-2000:]}"
                assert "panicked" not in err and code in (0, 1, 3, 4), told
                assert code != 4 or ("sites.db" in err and "damaged" in err), told
                found[f"{kind} {'refused' if code == 4 else 'went on'}"] += 1
    print(f"{len(sound) // PAGE} pages, each changed in two ways: {dict(sorted(found.items()))}")
    assert found["export refused"] > 0 and found["run refused"] > 0


def not_ours(folder):
    """A newer version, another program's database, no database, a folder: told, and left as it is."""
    config, file = filled(folder)
    sound = file.read_bytes()

    def changed(statement):
        put(file, sound)
        with contextlib.closing(sqlite3.connect(file)) as database:
            database.executescript(statement)
        return file.read_bytes()

    for content, words in (
        (changed("PRAGMA user_version = 99"), "schema version 99"),
        (changed("PRAGMA application_id = 77"), "another program's database"),
        (b"no database at all" * 1000, "damaged, or no database"),
    ):
        for kind, code, err in tries(config, folder, partial(put, file, content)):
            assert code == 4 and words in err and "sites.db" in err, f"{kind} ended with {code}: {err}"
            assert file.read_bytes() == content, f"{kind} changed a file that is not ours"
    put(file, b"")
    file.unlink()
    file.mkdir()
    for kind, code, err in tries(config, folder, lambda: None):
        assert code == 4 and "sites.db" in err, f"{kind} ended with {code}: {err}"
    print("newer, foreign, garbage, a folder: refused and left as they are")


def read_only():
    """`inside`, where a folder can be made read-only, for root as well."""
    in_namespaces(["-m"], __file__, seconds=120)


def inside(folder):
    (folder / "place").mkdir()
    config, file = filled(folder)
    place = folder / "place"
    moved = write_config(
        folder / "moved.json",
        [{"name": "s0", "url": "http://127.0.0.1:1/"}],
        store={"kind": "sqlite", "path": str(place / file.name)},
    )
    before = export(config)
    shutil.copy(file, place / file.name)
    subprocess.run(["mount", "--bind", place, place], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        for command in ("run", "compact"):
            code, _, err = sitemon(command, "-c", moved, timeout=10)
            assert code == 4 and str(place) in err and "Read-only" in err, f"{command} ended with {code}: {err}"
        # What is there can be read all the same.
        assert export(moved) == before
        for command in READERS[1:]:
            code, out, err = sitemon(*command, "-c", moved)
            assert code in (0, 1, 3) and out, f"{command} ended with {code}: {err}"
    finally:
        subprocess.run(["umount", place], check=True)
    print("a read-only folder: nothing is written, and everything read")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="sitemon-readonly-") as name:
        Path(name).chmod(0o755)
        inside(Path(name))
