"""PostgreSQL goes away in the middle of a job: an immediate restart, and an absence of a minute.

    python -m benchmarks.outage [--away 60] [--count 4000]

A user's column and a store of ours are filled; the simulated service is a process of its own. The judges are its ledger
and the table, read by a connection of our own. Exits 1 if a bar is missed: nothing lost, nothing bought again, writing
again within 2 s of the server's readiness, and no request while the server is away but those that had a place.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import asyncpg

from aembed import Embedder, PostgresColumn, PostgresStore, Record, Report
from benchmarks.promises.backfill import create, is_right
from tests.sections import sections
from tests.service.own_process import KEY, MODEL, Service, judged, serving
from tests.stage.postgres import Server, create_database

BATCH, CONCURRENCY = 16, 4
LONGEST_SILENCE = 2.0
"""Seconds from the server's readiness to the next row."""


@dataclass(frozen=True, slots=True)
class SharedBatch:
    """How the rows come into the database, and how they are read there."""

    name: str
    rows: str
    run: Callable[[Embedder, str, Sequence[str]], Awaitable[Report]]


async def backfill(embedder: Embedder, database: str, texts: Sequence[str]) -> Report:
    column = PostgresColumn(database, "sections", text="content")
    try:
        return await embedder.backfill(column)
    finally:
        await column.aclose()


async def embed_into(embedder: Embedder, database: str, texts: Sequence[str]) -> Report:
    store = PostgresStore(database)
    try:
        return await embedder.embed_into(store, (Record(str(i), text) for i, text in enumerate(texts)))
    finally:
        await store.aclose()


WAYS = (
    SharedBatch("column", "content, vector_send(embedding) FROM sections WHERE embedding IS NOT NULL", backfill),
    SharedBatch("store", "text, vector_send(embedding) FROM aembed", embed_into),
)


async def rows_of(way: SharedBatch, database: str) -> int:
    connection = await asyncpg.connect(database)
    try:
        count: int = await connection.fetchval(f"SELECT count(*) FROM {way.rows.partition(' FROM ')[2]}")  # noqa: S608
        return count
    except asyncpg.UndefinedTableError:
        return 0
    finally:
        await connection.close()


async def right_rows(way: SharedBatch, database: str) -> int:
    connection = await asyncpg.connect(database)
    found = await connection.fetch(f"SELECT {way.rows}")
    await connection.close()
    return sum(is_right(text, sent) for text, sent in found)


async def more_rows(way: SharedBatch, database: str, than: int, job: asyncio.Task[Report]) -> float:
    """When there are."""
    while await rows_of(way, database) <= than and not job.done():  # noqa: ASYNC110 - it is the database that tells
        await asyncio.sleep(0.02)
    return time.monotonic()


async def leave(server: Server, away: float, service: Service) -> tuple[float, float]:
    """The server stops at once and comes back; how many requests were sent meanwhile, and when it was ready."""
    await asyncio.to_thread(server.halt)
    before = (await service.ledger())["requests"]
    await asyncio.sleep(away)
    sent = (await service.ledger())["requests"] - before
    await asyncio.to_thread(server.start)
    return sent, time.monotonic()


async def measure(way: SharedBatch, away: float, server: Server, database: str, texts: Sequence[str]) -> list[str]:
    await create(database, texts)
    problems = []
    async with (
        serving("--latency", "1") as service,
        Embedder(MODEL, api_key=KEY, base_url=service.url, concurrency=CONCURRENCY, max_batch_size=BATCH) as embedder,
    ):
        job = asyncio.create_task(way.run(embedder, database, texts))
        await more_rows(way, database, len(texts) // 3, job)
        sent, ready = await leave(server, away, service)
        held, paid = await rows_of(way, database), len(await service.texts())
        silence = await more_rows(way, database, held, job) - ready
        report = await job
        bill = await service.texts()
    again, right = sum(bill.values()) - len(bill), await right_rows(way, database)
    print(f"{way.name:7} away {away:3.0f} s: {held:,} rows stored and {paid - held} paid, {sent} requests while away")
    print(
        f"        first row {silence:.2f} s after; {right:,} rows right, {again} texts billed again; {report}",
        flush=True,
    )
    if silence > LONGEST_SILENCE:
        problems.append(f"{way.name}: {silence:.2f} s until the first row")
    if again or len(bill) != len(texts):
        problems.append(f"{way.name}: {again} texts were billed again, {len(bill)} of {len(texts)} billed")
    if right != len(texts):
        problems.append(f"{way.name}: {right:,} rows are right, of {len(texts):,}")
    if sent > CONCURRENCY:
        problems.append(f"{way.name}: {sent} requests were sent while the server was away")
    return problems


async def measure_all(away: float, count: int, server: Server) -> list[str]:
    texts, problems = sections(count), []
    for way in WAYS:
        for seconds in (0.0, away):
            database = create_database(server.url, f"outage_{way.name}_{seconds:.0f}")
            problems += await measure(way, seconds, server, database, texts)
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--away", type=float, default=60.0, help="seconds")
    parser.add_argument("--count", type=int, default=4_000)
    options = parser.parse_args()
    server = Server()
    try:
        return judged(asyncio.run(measure_all(options.away, options.count, server)))
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
