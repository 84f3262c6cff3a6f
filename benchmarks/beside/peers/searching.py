"""One way of searching, in a process of its own of the peers' interpreter: `searching.py WAY FOLDER make|search`.

`make` writes its file from FOLDER/rows.npy. `search` opens it and prints as JSON the seconds of the first search, from
the opening on, those of each further one, and the numbers of the rows that were found. It imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

K = 5
NEAREST = "SELECT number FROM vectors ORDER BY {} DESC LIMIT ?"
Search = Callable[[Any], "list[int]"]


def rows(folder: Path) -> Any:
    return np.load(folder / "rows.npy", mmap_mode="r")


def units(matrix: Any) -> Any:
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


class SqliteVec:
    def __init__(self, folder: Path) -> None:
        # The sqlite3 module of some Pythons loads no extensions.
        import apsw
        import sqlite_vec

        self.connection = apsw.Connection(str(folder / "sqlite_vec.db"))
        self.connection.enable_load_extension(True)
        self.connection.load_extension(sqlite_vec.loadable_path())

    def make(self, matrix: Any) -> None:
        self.connection.execute(
            f"CREATE VIRTUAL TABLE vectors USING vec0(embedding float[{matrix.shape[1]}] distance_metric=cosine)"
        )
        with self.connection:
            given = ((number, row.tobytes()) for number, row in enumerate(matrix))
            self.connection.executemany("INSERT INTO vectors (rowid, embedding) VALUES (?, ?)", given)

    def search(self, query: Any) -> list[int]:
        sql = "SELECT rowid FROM vectors WHERE embedding MATCH ? AND k = ? ORDER BY distance"
        return [row for (row,) in self.connection.execute(sql, (query.tobytes(), K))]


class DuckDB:
    def __init__(self, folder: Path) -> None:
        import duckdb

        self.connection = duckdb.connect(str(folder / "duckdb.db"))
        self.connection.execute("SET threads = 1")

    def make(self, matrix: Any) -> None:
        import pyarrow

        width = matrix.shape[1]
        self.connection.execute(f"CREATE TABLE vectors (number INTEGER, embedding FLOAT[{width}])")
        for start in range(0, len(matrix), 10_000):
            some = np.ascontiguousarray(matrix[start : start + 10_000])
            values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(some.ravel()), width)
            numbers = pyarrow.array(np.arange(start, start + len(some), dtype=np.int32))
            page = pyarrow.table({"number": numbers, "embedding": values})
            self.connection.register("page", page)
            self.connection.execute("INSERT INTO vectors SELECT number, embedding FROM page")
        self.connection.execute("CHECKPOINT")

    def search(self, query: Any) -> list[int]:
        similarity = f"array_cosine_similarity(embedding, ?::FLOAT[{len(query)}])"
        found = self.connection.execute(NEAREST.format(similarity), [query.tolist(), K])
        return [row for (row,) in found.fetchall()]


class LanceDB:
    """Without an index, as exact as the others."""

    def __init__(self, folder: Path) -> None:
        import lancedb

        self.database = lancedb.connect(str(folder / "lancedb"))
        names = self.database.list_tables().tables if hasattr(self.database, "list_tables") else []
        self.table = self.database.open_table("vectors") if "vectors" in names else None

    def make(self, matrix: Any) -> None:
        import pyarrow

        def pages() -> Any:
            for start in range(0, len(matrix), 10_000):
                some = np.ascontiguousarray(matrix[start : start + 10_000])
                values = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(some.ravel()), matrix.shape[1])
                numbers = pyarrow.array(np.arange(start, start + len(some), dtype=np.int32))
                yield pyarrow.RecordBatch.from_arrays([numbers, values], ["number", "vector"])

        kind = pyarrow.list_(pyarrow.float32(), matrix.shape[1])
        schema = pyarrow.schema([("number", pyarrow.int32()), ("vector", kind)])
        self.database.create_table("vectors", pages(), schema=schema)

    def search(self, query: Any) -> list[int]:
        assert self.table is not None
        found = self.table.search(query).distance_type("cosine").select(["number", "_distance"]).limit(K).to_arrow()
        return list(found["number"].to_pylist())


class Faiss:
    """IndexFlatIP of rows of length 1, read from its file."""

    def __init__(self, folder: Path) -> None:
        import faiss

        self.faiss, self.path = faiss, str(folder / "faiss.index")
        faiss.omp_set_num_threads(1)
        self.index = faiss.read_index(self.path) if os.path.exists(self.path) else None

    def make(self, matrix: Any) -> None:
        index = self.faiss.IndexFlatIP(matrix.shape[1])
        for start in range(0, len(matrix), 10_000):
            index.add(units(np.asarray(matrix[start : start + 10_000])))
        self.faiss.write_index(index, self.path)

    def search(self, query: Any) -> list[int]:
        assert self.index is not None
        _, found = self.index.search(units(query[None]), K)
        return list(found[0].tolist())


class USearch:
    """Its exact search over a mapped float32 matrix."""

    def __init__(self, folder: Path) -> None:
        self.matrix = rows(folder)

    def make(self, matrix: Any) -> None: ...

    def search(self, query: Any) -> list[int]:
        from usearch.index import search

        return [int(key) for key in search(self.matrix, query, K, "cos", exact=True, threads=1).keys]


class MappedFloats:
    """numpy over a mapped float32 matrix of length 1: what no store does, as the measure of a read."""

    def __init__(self, folder: Path) -> None:
        path = folder / "units.npy"
        self.path = path
        self.matrix = np.load(path, mmap_mode="r") if path.exists() else None

    def make(self, matrix: Any) -> None:
        np.save(self.path, units(np.asarray(matrix)))

    def search(self, query: Any) -> list[int]:
        assert self.matrix is not None
        scores = self.matrix @ units(query[None])[0]
        best = np.argpartition(scores, -K)[-K:]
        return [int(number) for number in best[np.argsort(-scores[best])]]


WAYS = {
    "sqlite-vec": SqliteVec,
    "duckdb": DuckDB,
    "lancedb": LanceDB,
    "faiss": Faiss,
    "usearch": USearch,
    "mapped float32": MappedFloats,
}


def main() -> None:
    way, folder, action = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if action == "make":
        WAYS[way](folder).make(rows(folder))
        return
    queries = np.load(folder / "queries.npy")
    seconds, found = [], []
    for number, query in enumerate(queries):
        began = time.perf_counter()
        if number == 0:
            place = WAYS[way](folder)
        found.append(place.search(query))
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"first": seconds[0], "next": seconds[1:], "found": found}))


if __name__ == "__main__":
    main()
