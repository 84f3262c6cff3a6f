"""One of aembed's verbs on so many rows, in a process of its own: `python -m benchmarks.growth_jobs JOB ROWS PLACE`.

The build that is measured is the one that PYTHONPATH names first. What the rows are, and what the marks say that are
printed, stands in benchmarks/beside/peers/growth_rows.py.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.beside.peers.growth_rows import (
    BATCH,
    DIMENSIONS,
    Meter,
    Vectors,
    id_of,
    memory_of,
    metadata_of,
    quiet_output,
    sampled,
    text_of,
)

POLL = 0.02
TICK = 0.001


def provider() -> Any:
    """Answers at once: a text's vector is made from the number that it begins with."""
    from aembed import FakeProvider
    from aembed.types import Reply, Usage

    vectors = Vectors()

    class Instant(FakeProvider):
        async def embed(self, texts: Sequence[str], **_: Any) -> Reply:
            # A bill that is too small for the words would have aembed look for texts that were cut.
            billed = sum(map(len, texts)) // 4
            return Reply(vectors.of([int(text[:9]) for text in texts]), self.space.model, Usage(billed))

        async def embed_prepared(self, texts: Sequence[str], **_: Any) -> Reply:
            return await self.embed(texts)

    return Instant(dimensions=DIMENSIONS)


def counting(kind: type, meter: Meter) -> Any:
    """That store, or column, which tells the meter of each commit."""

    class Counting(kind):
        async def write(self, rows: Any, *others: Any, **named: Any) -> Any:
            result = await super().write(rows, *others, **named)
            meter.add(len(rows))
            return result

    return Counting


# stores


async def into_store(order: str, rows: int, place: str, meter: Meter) -> None:
    from aembed import Embedder, PostgresStore, Record, SQLiteStore

    kind = PostgresStore if place.startswith("postgresql") else SQLiteStore
    store = counting(kind, meter)(_url_or_file(place))
    records = (Record(id_of(n, order), text_of(n), metadata_of(n)) for n in range(rows))
    meter.begin()
    async with Embedder(provider(), max_batch_size=BATCH) as embedder:
        report = await embedder.embed_into(store, records)
    await store.aclose()
    meter.end()
    assert report.stored == rows, report
    meter.read(await asyncio.to_thread(_wrong, order, rows, place))


async def again(order: str, rows: int, place: str, meter: Meter) -> None:
    """Of a store that holds them all: the marks are of what was read."""
    from aembed import Embedder, PostgresStore, Record, SQLiteStore

    def records() -> Iterator[Record]:
        for number in range(rows):
            yield Record(id_of(number, order), text_of(number), metadata_of(number))
            if number % BATCH == BATCH - 1:
                meter.add(BATCH)

    store = (PostgresStore if place.startswith("postgresql") else SQLiteStore)(_url_or_file(place))
    meter.begin()
    async with Embedder(provider(), max_batch_size=BATCH) as embedder:
        report = await embedder.embed_into(store, records())
    meter.add(rows - meter.done)
    await store.aclose()
    meter.end()
    assert report.unchanged == rows, report


def _wrong(order: str, rows: int, place: str) -> int:
    """How many of a hundred rows, read by a connection of our own, are not as they were given."""
    numbers = sampled(rows)
    right = zip(numbers, Vectors().of(numbers), strict=True)
    due = {id_of(n, order): (text_of(n), metadata_of(n), vector.tolist()) for n, vector in right}
    if place.startswith("postgresql"):
        from tests.stage.postgres import sql

        marked = ", ".join(f"'{id}'" for id in due)
        found = sql(place, f"SELECT id, text, metadata::text, embedding::text FROM aembed WHERE id IN ({marked})")  # noqa: S608
        held = {id: (text, json.loads(kept), json.loads(vector)) for id, text, kept, vector in found}
    else:
        with closing(sqlite3.connect(_url_or_file(place))) as connection:
            # One statement, since not every build has an index of the ids.
            marks = ", ".join("?" * len(due))
            statement = f"SELECT id, text, metadata, embedding FROM aembed_rows WHERE id IN ({marks})"  # noqa: S608
            rows_found = connection.execute(statement, list(due)).fetchall()
        held = {id: (text, json.loads(kept), np.frombuffer(v, "<f4")) for id, text, kept, v in rows_found}
    nothing: tuple[Any, ...] = (None, None, [])
    return sum(
        held.get(id, nothing)[:2] != (text, kept) or not np.allclose(held[id][2], vector)
        for id, (text, kept, vector) in due.items()
    )


def _url_or_file(place: str) -> str:
    return place if place.startswith("postgresql") else str(Path(place) / "rows.db")


# columns


async def into_sqlite_column(rows: int, place: str, meter: Meter) -> None:
    from aembed import SQLiteColumn

    path = str(Path(place) / "rows.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, content TEXT, embedding BLOB)")
        given = ((n, text_of(n)) for n in range(rows))
        connection.executemany("INSERT INTO notes (id, content) VALUES (?, ?)", given)
    await _backfill(counting(SQLiteColumn, meter)(path, "notes", text="content"), rows, meter)
    with closing(sqlite3.connect(path)) as connection:
        statement = "SELECT id, embedding FROM notes WHERE id = ?"
        found = [row for n in sampled(rows) for row in connection.execute(statement, (n,))]
    meter.read(_wrong_vectors({n: np.frombuffer(blob, "<f4") for n, blob in found}, rows))


async def into_postgres_column(rows: int, place: str, meter: Meter) -> None:
    import asyncpg

    from aembed import PostgresColumn

    connection = await asyncpg.connect(place)
    await connection.execute(
        f"CREATE TABLE notes (id integer PRIMARY KEY, content text, embedding vector({DIMENSIONS}))"
    )
    await connection.copy_records_to_table(
        "notes", records=((n, text_of(n)) for n in range(rows)), columns=("id", "content")
    )
    await connection.execute("VACUUM ANALYZE notes")
    await connection.execute("CHECKPOINT")
    await _backfill(counting(PostgresColumn, meter)(place, "notes", text="content"), rows, meter)
    found = await connection.fetch("SELECT id, embedding::text FROM notes WHERE id = ANY($1)", sampled(rows))
    await connection.close()
    meter.read(_wrong_vectors({n: json.loads(vector) for n, vector in found}, rows))


async def _backfill(column: Any, rows: int, meter: Meter) -> None:
    from aembed import Embedder

    meter.begin()
    async with Embedder(provider(), max_batch_size=BATCH) as embedder:
        report = await embedder.backfill(column)
    await column.aclose()
    meter.end()
    assert report.stored == rows, report


def _wrong_vectors(found: dict[int, Any], rows: int) -> int:
    numbers = sampled(rows)
    right = zip(numbers, Vectors().of(numbers), strict=True)
    return sum(n not in found or not np.allclose(found[n], vector) for n, vector in right)


# no store


async def into_list(rows: int, place: str, meter: Meter) -> None:
    """Short texts. `stall_ms` is the longest time that the loop did not come round, `held_ms` the most of its thread's
    CPU in one round; `beyond_mb` is the most memory beyond the texts and the vectors."""
    from aembed import Embedder

    texts = [f"{number:09} is a short text" for number in range(rows)]
    source = provider()
    embed = source.embed

    async def counted(texts: Sequence[str], **named: Any) -> Any:
        reply = await embed(texts, **named)
        meter.add(len(texts))
        return reply

    async with Embedder(source, max_batch_size=BATCH) as embedder:
        await embedder.embed_documents(texts[:1])
        source.embed = counted
        before, _ = memory_of("self")
        meter.begin()
        ticking = asyncio.create_task(_longest_stalls(stalls := [0.0, 0.0]))
        await asyncio.sleep(0.05)
        embeddings = await embedder.embed_documents(texts)
        await asyncio.sleep(0.05)
        ticking.cancel()
    peak, _ = memory_of("self")
    beyond = peak - before - rows * DIMENSIONS * 4 / 1e6
    meter.end(stall_ms=stalls[0] * 1e3, held_ms=stalls[1] * 1e3, beyond_mb=beyond)
    matrix = embeddings.vectors
    meter.read(_wrong_vectors({n: matrix[n] for n in sampled(rows)}, rows))


async def _longest_stalls(found: list[float]) -> None:
    while True:
        began, used = time.perf_counter(), time.thread_time()
        await asyncio.sleep(TICK)
        found[0] = max(found[0], time.perf_counter() - began - TICK)
        found[1] = max(found[1], time.thread_time() - used)


# the command


def command(*arguments: str) -> Callable[[int, str, Meter], Awaitable[None]]:
    """`aembed index` with these, in PLACE: what it takes, and the most memory that it has."""

    def run(rows: int, place: str) -> None:
        options = ("--store", "rows.db", "--model", "fake:growth", "--dimensions", str(DIMENSIONS), "--yes", "--json")
        began, peak, anonymous = time.perf_counter(), 0.0, 0.0
        with subprocess.Popen(
            [sys.executable, "-m", "aembed", "index", *arguments, *options],
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            while process.poll() is None:
                now = memory_of(process.pid)
                peak, anonymous = max(peak, now[0]), max(anonymous, now[1])
                time.sleep(POLL)
            assert process.stdout is not None
            told = json.loads(process.stdout.read())
        seconds = time.perf_counter() - began
        cpu, written = _used_by_children()
        print(
            json.dumps(
                {"rows": rows, "seconds": seconds, "cpu": cpu, "written": written, "anonymous_mb": anonymous}
                | {"closed": True, "peak_mb": peak, "wrong": int(process.returncode != 0), "told": told}
            ),
            flush=True,
        )

    return lambda rows, place, _: asyncio.to_thread(run, rows, place)


def _used_by_children() -> tuple[float, int]:
    """Seconds of CPU and bytes that went to a disk."""
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, used.ru_oublock * 512


JOBS: dict[str, Callable[[int, str, Meter], Awaitable[None]]] = {
    "store, in order": partial(into_store, "in order"),
    "store, random": partial(into_store, "random"),
    "again, in order": partial(again, "in order"),
    "again, random": partial(again, "random"),
    "SQLite column": into_sqlite_column,
    "PostgreSQL column": into_postgres_column,
    "list": into_list,
    "folder": command("files"),
    "JSONL, plan": command("rows.jsonl", "--dry-run"),
    "JSONL, job": command("rows.jsonl"),
}


def main() -> None:
    job, rows, place = sys.argv[1:]
    with redirect_stdout(quiet_output()):
        asyncio.run(JOBS[job](int(rows), place, Meter(int(rows))))


if __name__ == "__main__":
    main()
