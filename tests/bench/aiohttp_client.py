"""What one would write in an afternoon: aiohttp, a pattern, SQLite. A baseline of `make bench`.

It does the same work as Sitemon's check: a new connection each time, verified TLS without resumption, the body streamed
through the pattern, a row stored. The plan says either how many checks are under way at any time, so that its core is
busy, or the interval at which a task for each site wakes.
"""

import asyncio
import json
import re
import signal
import sqlite3
import ssl
import sys
import time
from pathlib import Path

import aiohttp

FLUSH_S = 0.2


class Loopback(aiohttp.abc.AbstractResolver):
    """Names cost nothing here: that is to the baseline's advantage."""

    async def resolve(self, host, port=0, family=0):
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self):
        pass


class Rows:
    """Rows that wait for the next transaction."""

    def __init__(self, path):
        self.database = sqlite3.connect(path, check_same_thread=False)
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute("PRAGMA synchronous=FULL")
        self.database.execute(
            "CREATE TABLE observations (site TEXT, due REAL, started REAL, status INTEGER, matched INTEGER, took REAL)"
        )
        self.waiting, self.stored, self.bad = [], 0, 0

    def flush(self):
        batch, self.waiting[:] = self.waiting[:], []
        self.database.executemany("INSERT INTO observations VALUES (?, ?, ?, ?, ?, ?)", batch)
        self.database.commit()
        self.stored += len(batch)
        self.bad += sum(not row[4] for row in batch)

    async def store(self):
        while True:
            await asyncio.sleep(FLUSH_S)
            # Another thread waits for the disk.
            await asyncio.to_thread(self.flush)


async def main(plan):
    tls = ssl.create_default_context(cafile=plan["ca"])
    rows = Rows(plan["database"])
    sites = [(site["name"], site["url"], re.compile(site["pattern"].encode())) for site in plan["sites"]]
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)

    async def check(session, due, name, url, pattern):
        started, begun = time.time(), time.perf_counter()
        status, matched = 0, False
        try:
            async with session.get(url) as answer:
                status, tail = answer.status, b""
                async for piece in answer.content.iter_any():
                    tail = tail[-200:] + piece
                matched = pattern.search(tail) is not None
        except (TimeoutError, aiohttp.ClientError):
            pass  # status 0 is the row of a failure
        rows.waiting.append((name, due, started, status, matched, time.perf_counter() - begun))

    connector = aiohttp.TCPConnector(ssl=tls, force_close=True, limit=0, resolver=Loopback())
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5)) as session:

        async def work(first):
            number = first
            while not stopped.is_set():
                await check(session, time.time(), *sites[number % len(sites)])
                number += plan["side_by_side"]

        async def watch(number, first, interval):
            slot = first + interval * number / len(sites)
            while True:
                await asyncio.sleep(slot - time.time())
                if stopped.is_set():
                    return
                await check(session, slot, *sites[number])
                slot += interval

        storing = asyncio.create_task(rows.store())
        if "interval" in plan:
            first = time.time() + 0.5
            tasks = [asyncio.create_task(watch(n, first, plan["interval"])) for n in range(len(sites))]
        else:
            tasks = [asyncio.create_task(work(first)) for first in range(plan["side_by_side"])]
        print("ready", file=sys.stderr, flush=True)
        await stopped.wait()
        await asyncio.wait(tasks, timeout=plan.get("interval", 0) + 2)
        storing.cancel()
        await asyncio.wait([storing])
    rows.flush()
    print(json.dumps({"stored": rows.stored, "bad": rows.bad}))


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
