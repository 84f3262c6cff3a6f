"""Searches of one SQLite store, or column, beside a job that fills it: what each costs the other.

    python -m benchmarks.search_beside [--rows 40000] [--clients 40] [--place column [--journal delete]] [--texts 3000]

Alone, then together, `--runs` times: a job whose provider answers in 0.5 s writes new rows in replies of 100, and
clients search one after another, each for itself, as the requests of a web app do. The bars: the job takes at most 1.5
times as long, and 95 of 100 searches at most 1.5 times.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aembed import Embedder, FakeProvider, Record, SQLiteColumn, SQLiteStore
from aembed.stores._sqlite._database import blobs
from aembed.types import Rows, Space
from benchmarks.results import Bar, finish, median, table

DIMENSIONS, BATCH, K = 1_536, 1_000, 5
ANSWERS_AFTER, REPLY = 0.5, 100
REST = 1.0
ALONE = 6.0
"""Seconds of searches without a job."""
MOST = 1.5


@dataclass(slots=True)
class Place:
    kind: str
    path: Path
    count: int
    journal: str = "wal"
    """Of a column's file."""
    place: SQLiteStore | SQLiteColumn = field(init=False)

    async def fill(self) -> None:
        random = np.random.default_rng(1)
        space = Space("fake", "fake", DIMENSIONS)
        self.place = SQLiteStore(self.path)
        if self.kind == "column":
            with closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute("PRAGMA page_size = 32768")
                connection.execute(f"PRAGMA journal_mode = {self.journal}")
                connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, content TEXT, embedding BLOB)")
            self.place = SQLiteColumn(self.path, "notes", text="content")
        await self.place.prepare(space)
        for start in range(0, self.count, BATCH):
            names = [f"docs/{number}.md#part" for number in range(start, start + BATCH)]
            matrix = random.standard_normal((BATCH, DIMENSIONS), dtype=np.float32)
            if isinstance(self.place, SQLiteStore):
                marks, nothing = [name.encode() for name in names], [None] * BATCH
                await self.place.write(
                    Rows(names, [f"{name} " * 40 for name in names], nothing, nothing, marks, marks, matrix)
                )
            else:
                with closing(sqlite3.connect(self.path)) as connection, connection:
                    rows = ((f"{name} " * 40, blob) for name, blob in zip(names, blobs(matrix), strict=True))
                    connection.executemany("INSERT INTO notes (content, embedding) VALUES (?, ?)", rows)

    async def job(self, run: int, texts: int) -> float:
        """Seconds."""
        provider = FakeProvider(dimensions=DIMENSIONS, latency=ANSWERS_AFTER)
        records = [Record(f"new/{run}/{number}", f"text {run} {number}") for number in range(texts)]
        if isinstance(self.place, SQLiteColumn):
            with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
                connection.executemany("INSERT INTO notes (content) VALUES (?)", [(each.text,) for each in records])
        async with Embedder(provider, max_batch_size=REPLY) as embedder:
            began = time.perf_counter()
            if isinstance(self.place, SQLiteStore):
                report = await embedder.embed_into(self.place, records)
            else:
                report = await embedder.backfill(self.place)
            assert report.stored == texts
            took = time.perf_counter() - began
        await self._forget([record.id for record in records])
        return took

    async def _forget(self, ids: list[str]) -> None:
        """Each job begins with as many rows."""
        if isinstance(self.place, SQLiteStore):
            await self.place.delete(ids)
            return
        with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            connection.execute("DELETE FROM notes WHERE id > ?", (self.count,))


class Clients:
    """Search until they are told to stop."""

    def __init__(self, place: SQLiteStore | SQLiteColumn, clients: int) -> None:
        self._place = place
        self._seconds: list[float] = []
        queries = np.random.default_rng(2).standard_normal((clients, DIMENSIONS), dtype=np.float32)
        self._running = [asyncio.create_task(self._search(query)) for query in queries]

    async def _search(self, query: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
        while True:
            began = time.perf_counter()
            assert len(await self._place.search(query, K)) == K
            self._seconds.append(time.perf_counter() - began)

    async def warm(self) -> None:
        """Waits until the vectors are in memory."""
        await self._place.search(np.ones(DIMENSIONS, np.float32), K)
        await asyncio.sleep(REST)
        self._seconds.clear()

    async def stop(self) -> tuple[float, int]:
        """The 95th of 100, in seconds, and how many there were."""
        for task in self._running:
            task.cancel()
        await asyncio.wait(self._running)
        return statistics.quantiles(self._seconds, n=20)[-1], len(self._seconds)


async def measured(place: Place, clients: int, texts: int, runs: int) -> Iterator[dict[str, float]]:
    rows = []
    for run in range(runs):
        alone = await place.job(2 * run, texts)
        await asyncio.sleep(REST)
        searching = Clients(place.place, clients)
        await searching.warm()
        await asyncio.sleep(ALONE)
        p95, searches = await searching.stop()
        searching = Clients(place.place, clients)
        await searching.warm()
        beside = await place.job(2 * run + 1, texts)
        p95_beside, searches_beside = await searching.stop()
        rows.append(
            {
                "job_alone": alone,
                "job_beside": beside,
                "p95_alone": p95,
                "p95_beside": p95_beside,
                "searches_alone": searches / ALONE,
                "searches_beside": searches_beside / beside,
            }
        )
        print(", ".join(f"{name} {value:.2f}" for name, value in rows[-1].items()), flush=True)
    return iter(rows)


async def measure(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(options.place, Path(folder) / "notes.db", options.rows, options.journal)
        await place.fill()
        rows = list(await measured(place, options.clients, options.texts, options.runs))
        await place.place.aclose()
    names = list(rows[0])
    print(table(["", *names], [["median", *(f"{median(row[name] for row in rows):.2f}" for name in names)]]))
    bars = [
        Bar("the job", median(row["job_beside"] / row["job_alone"] for row in rows), most=MOST, unit=" x alone"),
        Bar("searches, p95", median(row["p95_beside"] / row["p95_alone"] for row in rows), most=MOST, unit=" x alone"),
    ]
    return finish(f"search_beside_{options.place}", rows, bars, keep=options.keep)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--texts", type=int, default=3_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--place", choices=["store", "column"], default="store")
    parser.add_argument("--journal", choices=["wal", "delete"], default="wal", help="of a column's file")
    parser.add_argument("--keep", action="store_true", help="write results/")
    return asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
