"""What an exact search of a PostgresStore costs beside the bare query by pgvector's operator, search by search.

    python -m benchmarks.postgresql_search [--rows 100000 1000000] [--dimensions 256] [--searches 14] [--rounds 7]

A round is so many searches in a row on one connection, whose statements may get other plans from the sixth time on;
after each of ours comes the bare one, on its own connection. `bare` has the vector in its text, and so is planned each
time; `generic` is what the sixth search of a prepared statement cost where the vector is a parameter that the plan
parses for each row. The table is in the cache of the system, if not of the server. Of each place in the row the least
of the rounds counts, for whatever else the machine does only adds to it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from time import perf_counter

import asyncpg
import numpy as np

from aembed import PostgresStore, Rows, Space
from aembed.stores._postgresql._wire import literal
from aembed.types import Vector
from benchmarks.results import Bar, finish, median, table
from tests.stage.postgres import Server, create_database

K = 5
BATCH = 5_000
MOST, MOST_OF_GENERIC = 1.15, {100_000: 1 / 25, 1_000_000: 1 / 14}
BARE = "SELECT id, text, 1 - (embedding <=> {v}) FROM {rows} ORDER BY embedding <=> {v} LIMIT {k}"


async def fill(store: PostgresStore, rows: int, dimensions: int) -> None:
    await store.prepare(Space("fake", "random", dimensions))
    random = np.random.default_rng(18)
    for start in range(0, rows, BATCH):
        ids = [f"{start + i:08d}" for i in range(BATCH)]
        matrix = random.standard_normal((BATCH, dimensions), np.float32)
        matrix /= np.linalg.norm(matrix, axis=1)[:, None]
        marks = [id.encode() for id in ids]
        texts = [f"the text of row {id}" for id in ids]
        await store.write(Rows(ids, texts, [None] * BATCH, [None] * BATCH, marks, marks, matrix))


async def time_of_ours(store: PostgresStore, query: Vector) -> float:
    began = perf_counter()
    assert len(await store.search(query, K)) == K
    return perf_counter() - began


async def time_of_bare(connection: asyncpg.Connection, query: Vector) -> float:
    statement = BARE.format(v=f"'{literal(query)}'::vector", rows="measured", k=K)
    began = perf_counter()
    assert len(await connection.fetch(statement)) == K
    return perf_counter() - began


async def round_of_generic(connection: asyncpg.Connection, queries: Sequence[Vector]) -> list[float]:
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    seconds = []
    for query in queries:
        began = perf_counter()
        await connection.fetch(BARE.format(v="$1::text::vector", rows="measured", k=K), literal(query))
        seconds.append(perf_counter() - began)
    await connection.execute("RESET plan_cache_mode")
    return seconds


async def measured(url: str, rows: int, dimensions: int, searches: int, rounds: int) -> dict[str, float]:
    random = np.random.default_rng(9)
    queries = random.standard_normal((searches, dimensions), np.float32)
    queries /= np.linalg.norm(queries, axis=1)[:, None]
    connection, prepared = await asyncpg.connect(url, statement_cache_size=0), await asyncpg.connect(url)
    store = PostgresStore(url, table="measured")
    try:
        await fill(store, rows, dimensions)
        await connection.execute("VACUUM ANALYZE measured")
        await time_of_bare(connection, queries[0])
        ours, bare = list[list[float]](), list[list[float]]()
        for _ in range(rounds):
            # Another store has other connections, on which nothing was searched before.
            await store.aclose()
            store = PostgresStore(url, table="measured")
            await store.info()
            pairs = [(await time_of_ours(store, query), await time_of_bare(connection, query)) for query in queries]
            ours.append([pair[0] for pair in pairs])
            bare.append([pair[1] for pair in pairs])
        generic = await round_of_generic(prepared, queries[:3])
    finally:
        await store.aclose()
        await connection.close()
        await prepared.close()
    each, beside = ([min(place) for place in zip(*found, strict=True)] for found in (ours, bare))
    return {
        "rows": rows,
        "dimensions": dimensions,
        "ours": median(each),
        "bare": median(beside),
        "first": each[0] / beside[0],
        "worst": max(mine / other for mine, other in zip(each, beside, strict=True)),
        "generic": median(generic),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="multiples of 5,000")
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--searches", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    found = []
    for rows in options.rows:
        server = Server()
        try:
            url = create_database(server.url, "search")
            found.append(asyncio.run(measured(url, rows, options.dimensions, options.searches, options.rounds)))
        finally:
            server.stop()
    columns = ("ours", "bare", "generic")
    print(table(["rows", *columns], [[f"{r['rows']:,}", *(f"{r[c] * 1e3:.1f} ms" for c in columns)] for r in found]))
    bars = []
    for each in found:
        where = f"{each['rows']:,} rows of {each['dimensions']}"
        bars.append(Bar(f"{where}, to bare", each["ours"] / each["bare"], most=MOST, unit=" x"))
        bars.append(Bar(f"{where}, worst of {options.searches} places, to bare", each["worst"], most=MOST, unit=" x"))
        if each["rows"] in MOST_OF_GENERIC:
            most = MOST_OF_GENERIC[each["rows"]]
            bars.append(Bar(f"{where}, to a generic plan", each["ours"] / each["generic"], most=most, unit=" x"))
    return finish("postgresql_search", found, bars, keep=set(options.rows) >= set(MOST_OF_GENERIC))


if __name__ == "__main__":
    sys.exit(main())
