"""One peer that keeps rows, in a process of its own of the peers' interpreter: `growing.py WAY ORDER ROWS PLACE`.

It writes the rows of growth_rows.py to PLACE (a folder, or a database's URL) in commits of 2,048, prints marks while it
does, and reads a hundred of them again. Each replaces rows by their id, keeps text, metadata and vector, and takes
arrays where it can. It imports nothing of ours.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.beside.peers.growth_rows import (
    DIMENSIONS,
    Meter,
    Vectors,
    batches,
    id_of,
    metadata_of,
    quiet_output,
    sampled,
    text_of,
)

Kept = tuple[str, dict[str, Any], Sequence[float]]
"""Text, metadata and vector."""


class Place(Protocol):
    def write(self, ids: list[str], texts: list[str], metadata: list[dict[str, Any]], matrix: Any) -> None:
        """Inserts or replaces; committed on return."""

    def read(self, ids: list[str]) -> Mapping[str, Kept]: ...

    def close(self) -> None: ...


class LanceDB:
    """merge_insert by id, as it is: it syncs nothing, so that a commit may not outlive a power cut."""

    def __init__(self, place: str) -> None:
        import lancedb
        import pyarrow

        self.arrow = pyarrow
        kind = pyarrow.list_(pyarrow.float32(), DIMENSIONS)
        columns = [(name, pyarrow.string()) for name in ("id", "text", "metadata")]
        self.schema = pyarrow.schema([*columns, ("vector", kind)])
        self.table = lancedb.connect(place).create_table("rows", schema=self.schema)

    def write(self, ids: list[str], texts: list[str], metadata: list[dict[str, Any]], matrix: Any) -> None:
        values = self.arrow.FixedSizeListArray.from_arrays(self.arrow.array(matrix.ravel()), DIMENSIONS)
        strings = [self.arrow.array(column) for column in (ids, texts, [json.dumps(each) for each in metadata])]
        page = self.arrow.Table.from_arrays([*strings, values], schema=self.schema)
        merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(page)

    def read(self, ids: list[str]) -> Mapping[str, Kept]:
        wanted = ", ".join(f"'{id}'" for id in ids)
        rows = self.table.search().where(f"id IN ({wanted})").limit(len(ids) + 1).to_list()
        return {row["id"]: (row["text"], json.loads(row["metadata"]), row["vector"]) for row in rows}

    def close(self) -> None: ...


class LanceDBSynced(LanceDB):
    """With a commit that is on disk: each new file and its folder are synced after it."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.folder = Path(place) / "rows.lance"
        self.synced: set[Path] = set()

    def write(self, ids: list[str], texts: list[str], metadata: list[dict[str, Any]], matrix: Any) -> None:
        super().write(ids, texts, metadata, matrix)
        new = [path for path in self.folder.rglob("*") if path not in self.synced]
        for path in {*new, *(path.parent for path in new)}:
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.close(file)
        self.synced.update(new)


class SqliteVec:
    """A vec0 table, which cannot replace: rows of these ids are deleted first, in the same transaction."""

    def __init__(self, place: str) -> None:
        # The sqlite3 module of some Pythons loads no extensions.
        import apsw
        import sqlite_vec

        self.connection = apsw.Connection(str(Path(place) / "rows.db"))
        self.connection.enable_load_extension(True)
        self.connection.load_extension(sqlite_vec.loadable_path())
        self.connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")
        self.connection.execute(
            f"CREATE VIRTUAL TABLE vectors USING vec0"
            f"(id TEXT PRIMARY KEY, embedding float[{DIMENSIONS}], +text TEXT, +metadata TEXT)"
        )

    def write(self, ids: list[str], texts: list[str], metadata: list[dict[str, Any]], matrix: Any) -> None:
        documents = (json.dumps(each) for each in metadata)
        blobs = (row.tobytes() for row in matrix)
        with self.connection:
            self.connection.executemany("DELETE FROM vectors WHERE id = ?", ((id,) for id in ids))
            self.connection.executemany(
                "INSERT INTO vectors (id, embedding, text, metadata) VALUES (?, ?, ?, ?)",
                zip(ids, blobs, texts, documents, strict=True),
            )

    def read(self, ids: list[str]) -> Mapping[str, Kept]:
        sql = "SELECT id, text, metadata, embedding FROM vectors WHERE id = ?"
        rows = [row for id in ids for row in self.connection.execute(sql, (id,))]
        return {id: (text, json.loads(kept), np.frombuffer(blob, "<f4")) for id, text, kept, blob in rows}

    def close(self) -> None:
        self.connection.close()


class DuckDB:
    """INSERT OR REPLACE from an Arrow table."""

    def __init__(self, place: str) -> None:
        import duckdb
        import pyarrow

        self.arrow = pyarrow
        self.connection = duckdb.connect(str(Path(place) / "rows.db"))
        self.connection.execute(
            "CREATE TABLE vectors "
            f"(id VARCHAR PRIMARY KEY, text VARCHAR, metadata VARCHAR, embedding FLOAT[{DIMENSIONS}])"
        )

    def write(self, ids: list[str], texts: list[str], metadata: list[dict[str, Any]], matrix: Any) -> None:
        values = self.arrow.FixedSizeListArray.from_arrays(self.arrow.array(matrix.ravel()), DIMENSIONS)
        documents = [json.dumps(each) for each in metadata]
        page = self.arrow.table({"id": ids, "text": texts, "metadata": documents, "embedding": values})
        self.connection.register("page", page)
        self.connection.execute("INSERT OR REPLACE INTO vectors SELECT * FROM page")

    def read(self, ids: list[str]) -> Mapping[str, Kept]:
        found = self.connection.execute("SELECT * FROM vectors WHERE list_contains(?, id)", [ids]).fetchall()
        return {id: (text, json.loads(kept), vector) for id, text, kept, vector in found}

    def close(self) -> None:
        self.connection.close()


class LangChain:
    """PGVectorStore, over asyncpg. Its ids are UUIDs."""

    def __init__(self, place: str) -> None:
        from langchain_core.embeddings import DeterministicFakeEmbedding
        from langchain_postgres import PGEngine, PGVectorStore

        engine = PGEngine.from_connection_string(place.replace("postgresql://", "postgresql+asyncpg://"))
        engine.init_vectorstore_table("langchain_rows", DIMENSIONS)
        self.url = place
        self.store = PGVectorStore.create_sync(engine, DeterministicFakeEmbedding(size=4), "langchain_rows")

    def write(self, ids: list[str], texts: list[str], metadata: list[dict[str, Any]], matrix: Any) -> None:
        self.store.add_embeddings(texts, matrix.tolist(), metadata, [_uuid_of(id) for id in ids])

    def read(self, ids: list[str]) -> Mapping[str, Kept]:
        import asyncpg

        async def fetched() -> list[Any]:
            connection = await asyncpg.connect(self.url)
            sql = """SELECT langchain_id::text, content, langchain_metadata::text, embedding::text FROM langchain_rows
                WHERE langchain_id = ANY($1::uuid[])"""
            rows = await connection.fetch(sql, [_uuid_of(id) for id in ids])
            await connection.close()
            return list(rows)

        found = {id: (text, json.loads(kept), json.loads(vector)) for id, text, kept, vector in asyncio.run(fetched())}
        return {id: found[_uuid_of(id)] for id in ids if _uuid_of(id) in found}

    def close(self) -> None: ...


WAYS: dict[str, Callable[[str], Place]] = {
    "lancedb": LanceDB,
    "lancedb, synced": LanceDBSynced,
    "sqlite-vec": SqliteVec,
    "duckdb": DuckDB,
    "langchain-postgres": LangChain,
}


def _uuid_of(id: str) -> str:
    return id if "-" in id else f"00000000-0000-0000-0000-{int(id):012}"


def write_all(way: str, order: str, rows: int, place: str) -> None:
    vectors, opened, meter = Vectors(), WAYS[way](place), Meter(rows)
    meter.begin()
    for numbers in batches(rows):
        ids, texts = [id_of(number, order) for number in numbers], [text_of(number) for number in numbers]
        opened.write(ids, texts, [metadata_of(number) for number in numbers], vectors.of(numbers))
        meter.add(len(numbers))
    meter.read(_wrong(opened, order, rows, vectors))
    opened.close()
    meter.end(version=metadata.version(way.partition(",")[0]))


def _wrong(opened: Place, order: str, rows: int, vectors: Vectors) -> int:
    """How many of the rows that are read again are not as they were given."""
    numbers = sampled(rows)
    found, right = opened.read([id_of(number, order) for number in numbers]), vectors.of(numbers)
    wrong = 0
    for number, vector in zip(numbers, right, strict=True):
        text, kept, held = found.get(id_of(number, order), ("", {}, ()))
        same = len(held) == DIMENSIONS and np.allclose(held, vector)
        wrong += not (text == text_of(number) and kept == metadata_of(number) and same)
    return wrong


def main() -> None:
    way, order, rows, place = sys.argv[1:]
    with redirect_stdout(quiet_output()):
        write_all(way, order, int(rows), place)


if __name__ == "__main__":
    main()
