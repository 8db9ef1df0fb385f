"""What one would write in an afternoon: aiohttp, a pattern, SQLite. The baseline of `make bench`.

It does the same work as Sitemon's check: a new connection each time, verified TLS without resumption, the body streamed
through the pattern, a row stored. So many checks are under way at any time that its core is busy.
"""

import asyncio
import json
import re
import sqlite3
import ssl
import sys
import time
from pathlib import Path

import aiohttp


class Loopback(aiohttp.abc.AbstractResolver):
    """Names cost nothing here: that is to the baseline's advantage."""

    async def resolve(self, host, port=0, family=0):
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self):
        pass


async def main(plan):
    tls = ssl.create_default_context(cafile=plan["ca"])
    database = sqlite3.connect(plan["database"])
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE observations (site TEXT, at REAL, status INTEGER, matched INTEGER, took REAL)")
    sites = [
        (site["name"], site["url"], re.compile(site["pattern"].replace(r"\z", r"\Z").encode()))
        for site in plan["sites"]
    ]
    rows = []

    async def check(session, name, url, pattern):
        begun = time.perf_counter()
        status, matched = 0, False
        try:
            async with session.get(url) as answer:
                status, tail = answer.status, b""
                async for piece in answer.content.iter_any():
                    tail = tail[-200:] + piece
                matched = pattern.search(tail) is not None
        except (TimeoutError, aiohttp.ClientError):
            pass  # status 0 is the row of a failure
        rows.append((name, time.time(), status, matched, time.perf_counter() - begun))

    async def store():
        while True:
            await asyncio.sleep(0.2)
            batch, rows[:] = rows[:], []
            database.executemany("INSERT INTO observations VALUES (?, ?, ?, ?, ?)", batch)
            database.commit()

    connector = aiohttp.TCPConnector(ssl=tls, force_close=True, limit=0, resolver=Loopback())
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5)) as session:
        storing = asyncio.create_task(store())
        print("ready", file=sys.stderr, flush=True)

        async def work(first):
            number = first
            while True:
                await check(session, *sites[number % len(sites)])
                number += plan["side_by_side"]

        await asyncio.gather(storing, *(work(first) for first in range(plan["side_by_side"])))


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
