"""3,072 dimensions in PostgreSQL, where an index of a vector ends at 2,000: stored, indexed and searched as they come.

    python -m benchmarks.wide [--rows 8000] [--dimensions 3072]

A store of ours and a user's own `vector(3072)` column; nothing is set, the server plans as it likes. Its own log of
plans (auto_explain) is the judge of whether the index was used. Exits 1 if it was not, or if fewer than nine of ten
exact neighbours are found.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from aembed import PostgresColumn, PostgresStore, Record
from aembed.types import Matrix, Rows, Space
from tests.service.own_process import judged
from tests.stage.postgres import Server, create_database, run_sql

NAME, K, QUERIES, BATCH = "wide", 10, 20, 1_000
EXPLAINED = (
    f"ALTER DATABASE {NAME} SET session_preload_libraries = 'auto_explain'",
    f"ALTER DATABASE {NAME} SET auto_explain.log_min_duration = 0",
)
SECTIONS = (
    "CREATE TABLE sections (id int PRIMARY KEY, content text, embedding vector({dimensions}))",
    "INSERT INTO sections SELECT i, 'section ' || i FROM generate_series(0, {rows} - 1) AS i",
)
SCAN = re.compile(r"(Index Scan using aembed_hnsw\w+|Seq Scan) on (\w+)")


def clustered(n: int, dimensions: int) -> Matrix:
    """Unit vectors around 100 centres, as texts are; neighbours at random would all be equally far."""
    random = np.random.default_rng(1)
    centres = random.standard_normal((100, dimensions), dtype=np.float32)
    matrix = centres[random.integers(0, 100, n)] + random.standard_normal((n, dimensions), dtype=np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


async def filled_store(url: str, space: Space, matrix: Matrix) -> PostgresStore:
    store = PostgresStore(url)
    await store.prepare(space)
    for start in range(0, len(matrix), BATCH):
        part = matrix[start : start + BATCH]
        names = [str(i) for i in range(start, start + len(part))]
        marks, nothing = [name.encode() for name in names], [None] * len(part)
        await store.write(Rows(names, [f"section {name}" for name in names], nothing, nothing, marks, marks, part))
    return store


async def filled_column(url: str, space: Space, matrix: Matrix) -> PostgresColumn:
    await run_sql(url, *(each.format(dimensions=matrix.shape[1], rows=len(matrix)) for each in SECTIONS))
    column = PostgresColumn(url, "sections", text="content")
    await column.prepare(replace(space, dimensions=matrix.shape[1]))
    records: Sequence[Record] = [record async for record in column.pending()]
    for start in range(0, len(matrix), BATCH):
        part = records[start : start + BATCH]
        rows = matrix[[int(record.id) for record in part]]
        await column.write([record.id for record in part], [record.text for record in part], rows)
    return column


async def neighbours(place: PostgresStore | PostgresColumn, queries: Matrix) -> tuple[list[set[str]], float]:
    """The ids that are found, and milliseconds a search."""
    began = time.perf_counter()
    found = [{match.id for match in await place.search(query, K)} for query in queries]
    return found, 1_000 * (time.perf_counter() - began) / len(queries)


async def measure(name: str, place: PostgresStore | PostgresColumn, matrix: Matrix, log: Path) -> list[str]:
    queries = matrix[:: len(matrix) // QUERIES][:QUERIES] + np.float32(0.001)
    exact, exact_ms = await neighbours(place, queries)
    began = time.perf_counter()
    await place.create_index(memory="512MB")
    built = time.perf_counter() - began
    found, ms = await neighbours(place, queries)
    await place.aclose()
    recall = sum(len(a & b) for a, b in zip(exact, found, strict=True)) / (K * len(queries))
    scan = SCAN.findall(await asyncio.to_thread(log.read_text, "utf-8", "replace"))[-1][0]
    print(f"{name:7} exact {exact_ms:6.1f} ms a search; index built in {built:.0f} s; then {ms:6.1f} ms by {scan}")
    print(f"        recall {recall:.2f} of the {K} nearest", flush=True)
    problems = [] if scan.startswith("Index Scan") else [f"{name}: the server did not use the index"]
    return problems + ([f"{name}: recall {recall:.2f}"] if recall < 0.9 else [])


async def measure_both(server: Server, rows: int, dimensions: int) -> list[str]:
    url = create_database(server.url, NAME)
    await run_sql(url, *EXPLAINED)
    matrix, space = clustered(rows, dimensions), Space("fake", "large", dimensions)
    log = server.folder / "log"
    problems = await measure("store", await filled_store(url, space, matrix), matrix, log)
    return problems + await measure("column", await filled_column(url, space, matrix), matrix, log)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8_000)
    parser.add_argument("--dimensions", type=int, default=3_072)
    options = parser.parse_args()
    server = Server()
    try:
        return judged(asyncio.run(measure_both(server, options.rows, options.dimensions)))
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
