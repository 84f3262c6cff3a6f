"""How fast rows are written to PostgreSQL, against psql's \\copy of the same rows and against pgvector's binary codec.

    python -m benchmarks.stores --rows 19207 --runs 5

Ways alternate in each run, on new tables of one server; the figure is the median. The bar: 0.8 of \\copy, and not
slower than executemany with a binary codec.

An UPDATE does more than a \\copy of new rows: it reads, compares and replaces. What compares with it is the same work
by psql: \\copy into a staging table and one UPDATE from it. Both are shown.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import asyncpg
import numpy as np

from aembed.stores._postgresql._wire import copied, vector_fields
from aembed.stores.postgresql import PostgresStore
from aembed.stores.postgresql_column import PostgresColumn
from aembed.types import Rows, Space
from benchmarks.sections import sections
from tests.postgres import Server, create_database, run_sql

DIMENSIONS = 1_536
BATCH = 2_048
SPACE = Space("fake", "large", DIMENSIONS)
COLUMNS = "id, text, metadata, source, fingerprint, digest, embedding"
UPSERT = """INSERT INTO {} (id, text, metadata, source, fingerprint, digest, embedding)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (id) DO UPDATE SET text = excluded.text, metadata = excluded.metadata, source = excluded.source,
    fingerprint = excluded.fingerprint, digest = excluded.digest, embedding = excluded.embedding"""
STAGE = """CREATE TEMP TABLE staged (id text, text text, metadata jsonb, source text, fingerprint bytea, digest bytea,
    embedding vector); ALTER TABLE staged ALTER COLUMN embedding SET STORAGE PLAIN"""
UPDATE_ROWS = """UPDATE {} AS t SET text = s.text, metadata = s.metadata, source = s.source,
    fingerprint = s.fingerprint, digest = s.digest, embedding = s.embedding, updated_at = now()
    FROM staged AS s WHERE s.id = t.id"""
UPDATE_COLUMN = "UPDATE {}_filled AS t SET embedding = s.embedding FROM staged AS s WHERE s.id = t.id"
FILL = """UPDATE {}_filled AS t SET embedding = $3
    WHERE t.id = $1 AND sha256(convert_to(t.text, 'UTF8')) = $2"""
Way = Callable[[str, str, Sequence[Rows]], Awaitable[None]]


def batches(n: int) -> list[Rows]:
    texts = sections(n)
    matrix = np.random.default_rng(1).standard_normal((n, DIMENSIONS), dtype=np.float32)
    marks = [f"{i:016d}".encode() for i in range(n)]
    nothing = [None] * n
    whole = Rows([f"section-{i:06d}" for i in range(n)], texts, nothing, nothing, marks, marks, matrix)
    return [part(whole, slice(start, start + BATCH)) for start in range(0, n, BATCH)]


def part(rows: Rows, at: slice) -> Rows:
    columns = (rows.ids, rows.texts, rows.metadata, rows.sources, rows.fingerprints, rows.digests)
    return Rows(*(column[at] for column in columns), rows.matrix[at])


async def copy_file(path: Path, parts: Sequence[Rows]) -> None:
    with path.open("wb") as file:
        for number, rows in enumerate(parts):
            columns = [
                [id.encode() for id in rows.ids],
                [text.encode() for text in rows.texts],
                *([None] * len(rows) for _ in range(2)),
                list(rows.fingerprints),
                list(rows.digests),
            ]
            pieces = [piece async for piece in copied(columns, rows.matrix, "vector")]
            file.write(b"".join(pieces[(1 if number else 0) : -1]))
        file.write(b"\xff\xff")


def psql(server: Server, path: Path, update: str | None = None) -> Way:
    """\\copy of the file into the table, or into a staging table from which it is updated."""

    async def run(url: str, table: str, parts: Sequence[Rows]) -> None:
        copy = f"\\copy {'staged' if update else table} ({COLUMNS}) FROM {path} WITH (FORMAT binary)"
        commands = [STAGE, copy, update.format(table)] if update else [copy]
        options = [option for command in commands for option in ("-c", command)]
        program = [str(server.bin / "psql"), url, "-q", "--set=ON_ERROR_STOP=1", *options]
        await asyncio.to_thread(subprocess.run, program, check=True)

    return run


async def executemany(url: str, table: str, parts: Sequence[Rows]) -> None:
    connection = await asyncpg.connect(url)
    await connection.set_type_codec("vector", schema="public", encoder=bytes, decoder=bytes, format="binary")
    for rows in parts:
        columns = (rows.ids, rows.texts, rows.metadata, rows.sources, rows.fingerprints, rows.digests)
        vectors = vector_fields(rows.matrix, "vector")
        await connection.executemany(UPSERT.format(table), list(zip(*columns, vectors, strict=True)))
    await connection.close()


async def executemany_column(url: str, table: str, parts: Sequence[Rows]) -> None:
    connection = await asyncpg.connect(url)
    await connection.set_type_codec("vector", schema="public", encoder=bytes, decoder=bytes, format="binary")
    for rows in parts:
        hashes = [sha256(text.encode()).digest() for text in rows.texts]
        vectors = vector_fields(rows.matrix, "vector")
        await connection.executemany(FILL.format(table), list(zip(rows.ids, hashes, vectors, strict=True)))
    await connection.close()


async def store(url: str, table: str, parts: Sequence[Rows]) -> None:
    opened = PostgresStore(url, table=table)
    for rows in parts:
        await opened.write(rows)
    await opened.aclose()


async def column(url: str, table: str, parts: Sequence[Rows]) -> None:
    """Fills an empty column of rows that are there."""
    opened = PostgresColumn(url, f"{table}_filled", text="text")
    for rows in parts:
        await opened.write([f'"{id}"' for id in rows.ids], rows.texts, rows.matrix)
    await opened.aclose()


async def updated(url: str, table: str, parts: Sequence[Rows]) -> None:
    """Every row again."""
    opened = PostgresStore(url, table=table)
    for rows in parts:
        await opened.write(replace(rows, digests=rows.fingerprints))
    await opened.aclose()


async def new_table(url: str, table: str) -> None:
    opened = PostgresStore(url, table=table)
    await opened.prepare(SPACE)
    await opened.aclose()


async def new_column(url: str, table: str) -> None:
    await run_sql(
        url,
        f"DROP TABLE IF EXISTS {table}_filled",
        f"CREATE TABLE {table}_filled (id text PRIMARY KEY, text text, embedding vector({DIMENSIONS}))",
        f"INSERT INTO {table}_filled SELECT id, text FROM {table}",  # noqa: S608
    )


async def measure(server: Server, rows: int, runs: int) -> dict[str, list[float]]:
    url = create_database(server.url, "bench")
    parts = batches(rows)
    speeds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.bin"
        await copy_file(path, parts)
        new: dict[str, Way] = {"psql \\copy": psql(server, path), "executemany, codec": executemany, "aembed": store}
        again: dict[str, Way] = {"psql \\copy, UPDATE": psql(server, path, UPDATE_ROWS), "aembed": updated}
        filled: dict[str, Way] = {
            "psql \\copy, UPDATE": psql(server, path, UPDATE_COLUMN),
            "executemany, codec": executemany_column,
            "aembed": column,
        }
        for run in range(runs):
            for number, (name, way) in enumerate(new.items()):
                table = f"t{run}_{number}"
                await new_table(url, table)
                await timed(f"new rows: {name}", way, url, table, parts, speeds)
            for name, way in again.items():
                await timed(f"every row again: {name}", way, url, table, parts, speeds)
            for name, way in filled.items():
                await new_column(url, table)
                await timed(f"a column: {name}", way, url, table, parts, speeds)
            for number in range(len(new)):
                await run_sql(url, f"DROP TABLE t{run}_{number}")
            await run_sql(url, f"DROP TABLE {table}_filled")
    return speeds


async def timed(
    name: str, way: Way, url: str, table: str, parts: Sequence[Rows], speeds: dict[str, list[float]]
) -> None:
    await run_sql(url, "CHECKPOINT")
    began = time.perf_counter()
    await way(url, table, parts)
    speeds.setdefault(name, []).append(sum(map(len, parts)) / (time.perf_counter() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=19_207)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    server = Server()
    try:
        speeds = asyncio.run(measure(server, asked.rows, asked.runs))
    finally:
        server.stop()
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    copy = medians["new rows: psql \\copy"]
    for name, median in medians.items():
        work = name.partition(":")[0]
        same = next(each for each in medians if each.startswith(work))
        print(
            f"{name:38} {median:8,.0f} rows/s  {median / copy:5.2f} of \\copy  {median / medians[same]:5.2f} of {same}"
        )


if __name__ == "__main__":
    main()
