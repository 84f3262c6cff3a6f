"""A user's own PostgreSQL table is filled: by one worker that is killed three times, and by three of which one dies.

    python -m benchmarks.backfill [--count 19207] [--seed 1]

Workers are processes of their own, the simulated service is another. The judges are the service's ledger and the table,
read by a connection of our own. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from random import Random

import asyncpg
import numpy as np

from aembed import Embedder, PostgresColumn
from tests.sections import SECTIONS, sections
from tests.service.own_process import KEY, MODEL, ROOT, Service, judged, serving
from tests.service.vectors import vector_of
from tests.stage.postgres import Server, create_database

BATCH, CONCURRENCY = 64, 4
CREATE = """
    DROP TABLE IF EXISTS sections;
    DROP SCHEMA IF EXISTS aembed CASCADE;
    CREATE TABLE sections (id serial PRIMARY KEY, content text, embedding vector(1536));
"""
IN_FLIGHT = BATCH * CONCURRENCY


async def fill(database: str, url: str) -> None:
    """One worker, from start to end."""
    column = PostgresColumn(database, "sections", text="content", vector="embedding")
    embedder = Embedder(MODEL, api_key=KEY, base_url=url, concurrency=CONCURRENCY, max_batch_size=BATCH)
    async with embedder:
        print(await embedder.backfill(column), flush=True)
    await column.aclose()


async def worker(database: str, service: Service, name: str = "only") -> Process:
    """The ledger counts by name, which is the project that its requests carry. It has begun to pay."""
    command = (sys.executable, "-m", "benchmarks.promises.backfill", "--database", database, "--url", service.url)
    environment, before = os.environ | {"OPENAI_PROJECT_ID": name}, await paid(service, name)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, env=environment)
    while process.returncode is None and await paid(service, name) == before:  # noqa: ASYNC110 - a ledger does not call
        await asyncio.sleep(0.05)
    return process


async def paid(service: Service, name: str) -> int:
    """Tokens."""
    by_name: dict[str, int] = (await service.ledger())["tokens_by_project"]
    return by_name.get(name, 0)


async def finished(process: Process) -> str:
    output, _ = await process.communicate()
    return output.decode().strip() or f"exit code {process.returncode}"


async def create(database: str, texts: Sequence[str]) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(CREATE)
    await connection.copy_records_to_table("sections", records=[(text,) for text in texts], columns=["content"])
    await connection.close()


async def filled(database: str) -> int:
    connection = await asyncpg.connect(database)
    count: int = await connection.fetchval("SELECT count(*) FROM sections WHERE embedding IS NOT NULL")
    await connection.close()
    return count


async def wrong_rows(database: str, count: int) -> list[str]:
    connection = await asyncpg.connect(database)
    rows = await connection.fetch("SELECT id, content, vector_send(embedding) AS sent FROM sections")
    await connection.close()
    wrong = [f"row {row['id']} is wrong" for row in rows if not is_right(row["content"], row["sent"])]
    return wrong + ([f"{len(rows):,} rows instead of {count:,}"] if len(rows) != count else [])


def is_right(text: str, sent: bytes | None) -> bool:
    return sent is not None and np.array_equal(np.frombuffer(sent, ">f4", offset=4), vector_of(text))


async def one_worker_killed(database: str, texts: Sequence[str], random: Random) -> list[str]:
    problems, lost_before = [], 0
    async with serving("--latency", "1.0") as service:
        for _ in range(3):
            process = await worker(database, service)
            await asyncio.sleep(random.uniform(1.0, 6.0) * len(texts) / SECTIONS)
            process.kill()
            await process.wait()
            await asyncio.sleep(1.0)
            # The rows of those that were killed before stay leased to them for a while.
            lost_in_all = len(await service.texts()) - await filled(database)
            lost, lost_before = lost_in_all - lost_before, lost_in_all
            print(f"killed at {await filled(database):,} rows; {lost} texts billed and not stored")
            if lost > IN_FLIGHT:
                problems.append(f"{lost} texts were lost at one kill, {IN_FLIGHT} were in flight")
        print("first ", await finished(await worker(database, service)))
        before = await service.ledger()
        print("again ", await finished(await worker(database, service)))
        after = await service.ledger()
        if after["requests"] != before["requests"]:
            problems.append("the second run sent requests")
        again = sum(times - 1 for times in (await service.texts()).values())
        print(f"{again} texts billed twice, at most {3 * IN_FLIGHT} were in flight at three kills")
        if again > 3 * IN_FLIGHT:
            problems.append(f"{again} texts were billed twice")
    return problems + await wrong_rows(database, len(texts))


async def three_workers(database: str, texts: Sequence[str], random: Random) -> list[str]:
    async with serving("--latency", "1.0") as service:
        first, second = [await worker(database, service, name) for name in ("first", "second")]
        await asyncio.sleep(random.uniform(1.0, 6.0) * len(texts) / SECTIONS)
        first.kill()
        await first.wait()
        print(f"killed at {await filled(database):,} rows; it had paid {await paid(service, 'first'):,} tokens")
        late = await worker(database, service, "late")
        ends = [await finished(process) for process in (second, late)]
        print("worker", "\nworker ".join(ends))
        again = sum(times - 1 for times in (await service.texts()).values())
    resent = BATCH * sum(int(retries) for end in ends for retries in re.findall(r"(\d+) retries", end))
    print(f"{again} texts billed twice; {IN_FLIGHT} were in flight with the worker that died, {resent} were retried")
    problems = [f"{again} texts were billed twice"] if again > IN_FLIGHT + resent else []
    return problems + await wrong_rows(database, len(texts))


async def measure(count: int, seed: int, database: str) -> int:
    texts, random = sections(count), Random(seed)
    await create(database, texts)
    problems = await one_worker_killed(database, texts, random)
    await create(database, texts)
    problems += await three_workers(database, texts, random)
    return judged(problems)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=SECTIONS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.url:
        asyncio.run(fill(arguments.database, arguments.url))
        return
    server = Server()
    try:
        database = create_database(server.url, "aembed_backfill")
        raise SystemExit(asyncio.run(measure(arguments.count, arguments.seed, database)))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
