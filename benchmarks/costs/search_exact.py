"""Answers of searches by a map against float64 over all rows, while another process writes.

    python -m benchmarks.search_exact [--queries 10000] [--rows 3000] [--dimensions 64]

Vectors of all kinds of tests/stores/vector_kinds.py: equal, zero, tiny, huge, near ties, of one direction. An answer is
compared where nobody wrote between the two readings; ids, order and scores must be the same.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np

from aembed import SQLiteStore
from aembed.stores._search import Best, NearestQuery
from aembed.stores._sqlite import _making
from aembed.types import Space, Vector
from benchmarks.results import Bar, finish
from tests.stores.samples import rows
from tests.stores.vector_kinds import KINDS

WRITER = """
import random, sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
connection.execute("PRAGMA synchronous = OFF")
chance = random.Random(1)
print("began", flush=True)
while True:
    a, b = (f"{chance.randrange(int(sys.argv[2])):05}" for _ in range(2))
    connection.execute(chance.choice([
        "UPDATE aembed_rows SET embedding = (SELECT embedding FROM aembed_rows WHERE id = ?1), fingerprint = ?3"
        " WHERE id = ?2 AND EXISTS (SELECT 1 FROM aembed_rows WHERE id = ?1)",
        "INSERT OR REPLACE INTO aembed_rows (number, id, fingerprint, digest, updated_at, text, embedding)"
        " SELECT (SELECT number FROM aembed_rows WHERE id = ?2), ?2, ?3, digest, updated_at, text, embedding"
        " FROM aembed_rows WHERE id = ?1",
        "DELETE FROM aembed_rows WHERE id = ?1 AND ?2 > ?3",
    ]), (a, b, chance.randbytes(8)))
    time.sleep(chance.choice([0.005, 0.05, 0.2]))
"""


def true_answer(connection: sqlite3.Connection, query: Vector, k: int) -> list[tuple[str, float]]:
    best = Best(NearestQuery(query, k), [])
    cursor = connection.execute("SELECT id, embedding FROM aembed_rows")
    while page := cursor.fetchmany(1_000):
        best.add([id for id, _ in page], np.stack([np.frombuffer(blob, "<f4") for _, blob in page]))
    return best.found()


async def compare(kind: str, path: Path, options: argparse.Namespace) -> dict[str, object]:
    random = np.random.default_rng(7)
    store = SQLiteStore(path)
    await store.prepare(Space("fake", "fake", options.dimensions))
    ids = [f"{number:05}" for number in range(options.rows)]
    await store.write(rows(ids, KINDS[kind](random, options.rows, options.dimensions)))
    compared = wrong = by_map = asked = 0
    command = [sys.executable, "-c", WRITER, str(path), str(options.rows)]
    with (
        await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE, text=True) as writer,
        closing(sqlite3.connect(path, timeout=30)) as connection,
    ):
        assert writer.stdout
        writer.stdout.readline()
        while compared < options.queries // len(KINDS):
            made = KINDS[kind if asked % 3 else "plain"](random, 1, options.dimensions)[0]
            query, k, asked = made, 1 + asked % 12, asked + 1
            before = _version(connection)
            found = [(match.id, match.score) for match in await store.search(query, k)]
            true = true_answer(connection, query, k)
            if _version(connection) == before:
                compared, wrong = compared + 1, wrong + (found != true)
                by_map += store._map._mapped is not None
        writer.kill()
    await store.aclose()
    return {"kind": kind, "compared": compared, "wrong": wrong, "by_map": by_map}


def _version(connection: sqlite3.Connection) -> int:
    # It is read anew only by a statement that reads the file.
    connection.execute("SELECT 1 FROM aembed_meta").fetchone()
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=3_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--keep", action="store_true", help="write results/")
    options = parser.parse_args()
    _making.MAPPED_FROM_BYTES, _making._REST, _making._MOST_UNKNOWN = 1, 1, 100
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            found.append(asyncio.run(compare(kind, Path(folder) / f"{kind}.db", options)))
            print(found[-1], flush=True)
    compared = sum(int(str(each["compared"])) for each in found)
    bars = [
        Bar("answers that are not those of float64", sum(int(str(each["wrong"])) for each in found), most=0),
        Bar("answers compared", compared, least=options.queries),
        Bar("of them by a map", sum(int(str(each["by_map"])) for each in found) / compared, least=0.9),
    ]
    return finish("search_exact", found, bars, keep=options.keep)


if __name__ == "__main__":
    sys.exit(main())
