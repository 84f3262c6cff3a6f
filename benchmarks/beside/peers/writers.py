"""One library that writes rows to PostgreSQL, in a process of its own, told in JSON lines what to do:

< {"writer": "vecs", "url": "postgresql://...", "texts": "texts.json", "matrix": "matrix.npy"}
> {"version": "0.4.5"}                       ready: imported, rows as the library wants them
< {"table": "p1"}                            makes that table and writes a first row; then all others, by the clock
> {"seconds": 2.1}
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 2_048
Write = Callable[[slice], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Data:
    """Rows as lists of Python floats, which all of these want; made before the clock runs."""

    url: str
    texts: list[str]
    vectors: list[list[float]]

    @property
    def ids(self) -> list[str]:
        return ids(len(self.texts))

    def driver(self, name: str) -> str:
        return self.url.replace("postgresql://", f"postgresql+{name}://")


def ids(n: int) -> list[str]:
    return [str(uuid.UUID(int=i + 1)) for i in range(n)]


async def langchain_store(data: Data, table: str) -> Write:
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_postgres import PGEngine, PGVectorStore

    engine, names = PGEngine.from_connection_string(data.driver("asyncpg")), data.ids
    await engine.ainit_vectorstore_table(table, len(data.vectors[0]))
    store = await PGVectorStore.create(engine, DeterministicFakeEmbedding(size=4), table)
    return lambda at: store.aadd_embeddings(data.texts[at], data.vectors[at], ids=names[at])


async def langchain_collection(data: Data, table: str) -> Write:
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_postgres import PGVector

    store, names = (
        PGVector(DeterministicFakeEmbedding(size=4), connection=data.driver("psycopg"), collection_name=table),
        data.ids,
    )

    async def write(at: slice) -> None:
        store.add_embeddings(data.texts[at], data.vectors[at], ids=names[at])

    return write


async def vecs(data: Data, table: str) -> Write:
    import vecs

    docs = vecs.create_client(data.url).get_or_create_collection(table, dimension=len(data.vectors[0]))
    rows = zip(data.ids, data.vectors, data.texts, strict=True)
    records = [(id, vector, {"text": text}) for id, vector, text in rows]

    async def write(at: slice) -> None:
        docs.upsert(records[at])

    return write


async def llama_index(data: Data, table: str) -> Write:
    from llama_index.core.schema import TextNode
    from llama_index.vector_stores.postgres import PGVectorStore

    store = PGVectorStore(
        connection_string=data.driver("psycopg2"),
        async_connection_string=data.driver("asyncpg"),
        table_name=table,
        schema_name="public",
        embed_dim=len(data.vectors[0]),
    )
    rows = zip(data.ids, data.texts, data.vectors, strict=True)
    nodes = [TextNode(id_=id, text=text, embedding=vector) for id, text, vector in rows]

    async def write(at: slice) -> None:
        store.add(nodes[at])

    return write


WRITERS: dict[str, Callable[[Data, str], Awaitable[Write]]] = {
    "langchain-postgres PGVectorStore": langchain_store,
    "langchain-postgres PGVector": langchain_collection,
    "vecs": vecs,
    "llama-index": llama_index,
}


def _batches(n: int) -> Iterator[slice]:
    for start in range(1, n, BATCH):
        yield slice(start, min(n, start + BATCH))


async def timed(write: Write, n: int) -> float:
    await write(slice(0, 1))
    began = time.perf_counter()
    for at in _batches(n):
        await write(at)
    return time.perf_counter() - began


def data_of(asked: dict[str, str]) -> Data:
    return Data(asked["url"], json.loads(Path(asked["texts"]).read_text()), np.load(asked["matrix"]).tolist())


async def serve(lines: Iterator[str], say: Callable[[Any], None]) -> None:
    asked = json.loads(next(lines))
    data = data_of(asked)
    say({"version": metadata.version(asked["distribution"])})
    for line in lines:
        write = await WRITERS[asked["writer"]](data, json.loads(line)["table"])
        say({"seconds": await timed(write, len(data.texts))})


def main() -> None:
    out, sys.stdout = sys.stdout, sys.stderr
    asyncio.run(serve(iter(sys.stdin.readline, ""), lambda value: print(json.dumps(value), file=out, flush=True)))


if __name__ == "__main__":
    main()
