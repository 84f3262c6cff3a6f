"""How fast rows are written to PostgreSQL, against psql's \\copy, pgvector's binary codec and other libraries.

    python -m benchmarks.stores [--rows 19207] [--runs 5] [--peer-rows 1025] [--json FILE]

Ways alternate in each run, on new tables of one server; figures are medians, and what was written is compared row
by row. The bars: a column at 0.55 of \\copy, new rows at 0.85 of it, not slower than executemany with a binary codec,
and ten times each other library. These live in a venv of their own (benchmarks/peers/environment.py), are slow, and
write fewer rows; their clock runs without connecting, creating the table and the first row.

An UPDATE does more than a \\copy of new rows: it reads, compares and replaces. What compares with it is the same work
by psql: \\copy into a staging table and one UPDATE from it. Both are shown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from hashlib import md5, sha256
from pathlib import Path

import asyncpg
import numpy as np

from aembed.stores._postgresql._wire import copy_pieces, vector_fields
from aembed.stores.postgresql import PostgresStore
from aembed.stores.postgresql_column import PostgresColumn
from aembed.types import Rows, Space
from benchmarks.beside.peers.stores import Writer, writers
from tests.sections import sections
from tests.service.own_process import judged
from tests.stage.postgres import Server, create_database, run_sql

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
SharedBatch = Callable[[str, str, Sequence[Rows]], Awaitable[None]]


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
            pieces = [piece async for piece in copy_pieces(columns, rows.matrix, "vector")]
            file.write(b"".join(pieces[(1 if number else 0) : -1]))
        file.write(b"\xff\xff")


def psql(server: Server, path: Path, update: str | None = None) -> SharedBatch:
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


Speeds = dict[str, list[float]]
"""Rows a second of each run, by what is done and who does it."""


@dataclass(frozen=True, slots=True)
class Contest:
    """Rows to write, and what they must be when they are read back. `peers` write the first of them."""

    url: str
    parts: Sequence[Rows]
    right: Mapping[str, str]
    new: Mapping[str, SharedBatch]
    again: Mapping[str, SharedBatch]
    filled: Mapping[str, SharedBatch]
    peers: Sequence[Writer]
    speeds: Speeds

    async def run(self, number: int) -> None:
        tables = [f"t{number}_{i}" for i in range(len(self.new))]
        for table, (name, way) in zip(tables, self.new.items(), strict=True):
            await new_table(self.url, table)
            await self._timed(f"new rows: {name}", way, table, table)
        for name, way in self.again.items():
            await self._timed(f"every row again: {name}", way, table, table)
        for name, way in self.filled.items():
            await new_column(self.url, table)
            await self._timed(f"a column: {name}", way, table, f"{table}_filled")
        await run_sql(self.url, f"DROP TABLE {', '.join([*tables, f'{table}_filled'])}")
        for peer in self.peers:
            await run_sql(self.url, "CHECKPOINT")
            self._note(f"new rows: {peer.name}", await peer.rows_per_second(f"p{number}"))

    async def _timed(self, name: str, way: SharedBatch, table: str, written: str) -> None:
        """Raises ValueError for a row that is wrong."""
        await run_sql(self.url, "CHECKPOINT")
        began = time.perf_counter()
        await way(self.url, table, self.parts)
        self._note(name, len(self.right) / (time.perf_counter() - began))
        if dict(await run_sql(self.url, f"SELECT id, md5(vector_send(embedding)) FROM {written}")) != self.right:  # noqa: S608
            raise ValueError(f"{name}: other rows were written")

    def _note(self, name: str, speed: float) -> None:
        self.speeds.setdefault(name, []).append(speed)


def sums(parts: Sequence[Rows]) -> dict[str, str]:
    """MD5 of what PostgreSQL sends of each vector: its width and big-endian float32."""
    head = DIMENSIONS.to_bytes(2, "big") + b"\0\0"
    rows = ((id, row) for part in parts for id, row in zip(part.ids, part.matrix.astype(">f4"), strict=True))
    return {id: md5(head + row.tobytes()).hexdigest() for id, row in rows}


async def measure(server: Server, rows: int, runs: int, peer_rows: int) -> Speeds:
    url, parts = create_database(server.url, "bench"), batches(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.bin"
        await copy_file(path, parts)
        async with AsyncExitStack() as stack:
            texts, matrix = parts[0].texts[:peer_rows], parts[0].matrix[:peer_rows]
            few = await stack.enter_async_context(writers(url, texts, matrix, Path(folder))) if peer_rows else []
            contest = Contest(
                url,
                parts,
                sums(parts),
                new={"psql \\copy": psql(server, path), "executemany, codec": executemany, "aembed": store},
                again={"psql \\copy, UPDATE": psql(server, path, UPDATE_ROWS), "aembed": updated},
                filled={
                    "psql \\copy, UPDATE": psql(server, path, UPDATE_COLUMN),
                    "executemany, codec": executemany_column,
                    "aembed": column,
                },
                peers=few,
                speeds={},
            )
            for number in range(runs):
                await contest.run(number)
                print(f"run {number + 1} of {runs}", file=sys.stderr, flush=True)
    return contest.speeds


COPY, CODEC, OURS = "new rows: psql \\copy", "new rows: executemany, codec", "new rows: aembed"
COLUMN = "a column: aembed"


def ratio(speeds: Speeds, name: str, base: str) -> float:
    """The median of the runs' ratios: what else the machine does slows both sides of one run."""
    return statistics.median(a / b for a, b in zip(speeds[name], speeds[base], strict=True))


def missed(speeds: Speeds) -> list[str]:
    """New rows: 0.85 of \\copy, not slower than the codec, 10 times each other library. A column: 0.55 of \\copy."""
    peers = [name for name in speeds if name.startswith("new rows: ") and name not in (COPY, CODEC, OURS)]
    bars = [(OURS, COPY, 0.85), (OURS, CODEC, 1.0), *((OURS, peer, 10.0) for peer in peers), (COLUMN, COPY, 0.55)]
    times = [(ours, base, ratio(speeds, ours, base), bar) for ours, base, bar in bars]
    return [f"{ours} is {found:.2f} x {base}, not {bar}" for ours, base, found, bar in times if found < bar]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=19_207)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peer-rows", type=int, default=1_025, help="at most 2,048; 0: without other libraries")
    parser.add_argument("--json", type=Path, help="where to write every run's figures too")
    asked = parser.parse_args()
    server = Server()
    try:
        speeds = asyncio.run(measure(server, asked.rows, asked.runs, asked.peer_rows))
    finally:
        server.stop()
    for name, found in speeds.items():
        ours = f"{name.partition(':')[0]}: aembed"
        times = f"{ratio(speeds, name, COPY):6.3f} of \\copy, aembed {ratio(speeds, ours, name):5.2f} x that"
        print(f"{name:48} {statistics.median(found):8,.0f} rows/s {times}")
    if asked.json:
        asked.json.write_text(json.dumps({"rows_per_second": speeds}, indent=1))
    return judged(missed(speeds))


if __name__ == "__main__":
    sys.exit(main())
