"""Batch jobs whose processes are killed at random moments, each run again minutes later. Judges: the ledger, the rows.

    python -m benchmarks.promises.batch_kills [--kills 200] [--each 10] [--first 1]

Half of the stores are SQLite files, half tables of PostgreSQL. Each run is a process of its own, against the simulated
service's batch API over real sockets; between two runs the service's clock is advanced beyond the grace. Bars: all rows
are right, and every text was billed once. Exits 1 if one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL
from pathlib import Path
from random import Random

import numpy as np

from aembed import Embedder, Record, open_provider, open_store
from tests.service.batches.faults import Course, Plans
from tests.service.server import Server
from tests.service.vectors import vector_of
from tests.stage.postgres import Server as Postgres
from tests.stage.postgres import create_database

TEXTS = 700
GRACE = 700.0
MODEL = "openai:text-embedding-3-small"
KEY = "sk-simulated"
COURSE = Course(validating=60.0, running=120.0, finalizing=15.0)


def records() -> list[Record]:
    return [Record(str(number), f"text number {number}") for number in range(TEXTS)]


async def run(url: str, store: str, ahead: float) -> None:
    """One run: the work of a process that may be killed."""
    opened = open_store(store)
    async with Embedder(open_provider(MODEL, api_key=KEY, base_url=url, dimensions=64)) as embedder:
        embedder._engine.clock = lambda: time.time() + ahead
        report = await embedder.embed_into(opened, records(), batch=True)
    await opened.aclose()
    sys.exit(0 if report.unchanged + report.stored == TEXTS else 4)


async def run_apart(server: Server, store: str, seconds: float | None) -> int | None:
    """The exit code; None where it was killed after so many seconds."""
    words = ("--run", server.url, store, str(server.batches.ahead))
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", __spec__.name, *words, stderr=DEVNULL)
    try:
        return await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        process.kill()
        await process.wait()
        return None


async def history(store: str, kills: int, chance: Random) -> int:
    """Returns how many processes were killed. Raises AssertionError where a bar is missed."""
    killed, longest = 0, 3.0
    async with Server() as server:
        server.batches.plans, server.batches.epoch = Plans(usual=COURSE), time.time()
        while killed < kills:
            began = time.monotonic()
            code = await run_apart(server, store, chance.uniform(0.3, longest))
            killed += code is None
            if code is not None:
                longest = 0.7 * longest + 0.35 * (time.monotonic() - began)
            server.batches.advance(chance.choice([1.0, GRACE]))
            if code == 0:
                break
        for _ in range(10):
            server.batches.advance(GRACE)
            if await run_apart(server, store, None) == 0:
                break
        await check(server, store)
    return killed


async def check(server: Server, store: str) -> None:
    opened = open_store(store)
    rows = {row.id: row async for row in opened.rows()}
    await opened.aclose()
    assert len(rows) == TEXTS, f"{len(rows)} rows in {store}"
    for record in records():
        assert np.allclose(rows[record.id].vector, vector_of(record.text, 64), atol=1e-6), record.id
    assert server.ledger.texts_again == 0, f"{server.ledger.texts_again} texts were billed again"
    assert len(server.ledger.times_billed) == TEXTS


async def main(kills: int, each: int, first: int) -> int:
    postgres = Postgres()
    done, number = 0, first
    try:
        with tempfile.TemporaryDirectory() as folder:
            while done < kills:
                if number % 2:
                    store = f"sqlite:///{Path(folder, f'{number}.db')}"
                else:
                    store = await asyncio.to_thread(create_database, postgres.url, f"batches_{number}")
                try:
                    done += await history(store, min(each, kills - done), Random(number))
                except AssertionError as error:
                    print(f"history {number}: {error}")
                    return 1
                number += 1
    finally:
        postgres.stop()
    print(
        f"{done} kills in {number - first} histories of SQLite and PostgreSQL: all rows right, every text billed once"
    )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--each", type=int, default=10)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--run", nargs=3)
    given = parser.parse_args()
    if given.run:
        asyncio.run(run(given.run[0], given.run[1], float(given.run[2])))
    sys.exit(asyncio.run(main(given.kills, given.each, given.first)))
