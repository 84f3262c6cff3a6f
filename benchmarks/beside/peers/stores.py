"""The libraries that write rows to PostgreSQL beside us, each as a process of its own in the peers' venv."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.beside.peers.environment import failed, python
from benchmarks.beside.peers.writers import ids
from tests.service.own_process import ROOT
from tests.stage.postgres import run_sql

REQUIREMENTS = (
    "langchain-postgres",
    "vecs",
    "llama-index-vector-stores-postgres",
    "psycopg[binary]",
    "numpy",
)


@dataclass(frozen=True, slots=True)
class Peer:
    """`rows` gives the ids and vectors of the table that it made, `drop` ends that."""

    name: str
    distribution: str
    rows: str
    drop: str


PEERS = (
    Peer(
        "langchain-postgres PGVectorStore",
        "langchain-postgres",
        'SELECT langchain_id::text, vector_send(embedding) FROM "{}"',
        'DROP TABLE "{}"',
    ),
    Peer(
        "langchain-postgres PGVector",
        "langchain-postgres",
        """SELECT e.id, vector_send(e.embedding) FROM langchain_pg_embedding e
            JOIN langchain_pg_collection c ON c.uuid = e.collection_id WHERE c.name = '{}'""",
        "TRUNCATE langchain_pg_embedding",
    ),
    Peer("vecs", "vecs", 'SELECT id, vector_send(vec) FROM vecs."{}"', 'DROP TABLE vecs."{}"'),
    Peer(
        "llama-index",
        "llama-index-vector-stores-postgres",
        "SELECT node_id, vector_send(embedding) FROM data_{}",
        "DROP TABLE data_{}",
    ),
)


class Writer:
    """A peer's process that is ready."""

    def __init__(self, peer: Peer, process: Process, url: str, matrix: NDArray[np.float32]) -> None:
        self._peer, self._process, self._url = peer, process, url
        self._right = dict(zip(ids(len(matrix)), (row.astype(">f4").tobytes() for row in matrix), strict=True))
        self.name = peer.name

    async def begin(self, folder: Path) -> None:
        files = {"texts": str(folder / "texts.json"), "matrix": str(folder / "matrix.npy")}
        start = {"writer": self.name, "distribution": self._peer.distribution, "url": self._url, **files}
        self.name += f" {(await self._told(start))['version']}"

    async def rows_per_second(self, table: str) -> float:
        """Of all but the first, written into a new table. Raises ValueError if a row is wrong."""
        seconds: float = (await self._told({"table": table}))["seconds"]
        held = dict(await run_sql(self._url, self._peer.rows.format(table)))
        await run_sql(self._url, self._peer.drop.format(table))
        if {id: sent[4:] for id, sent in held.items()} != self._right:
            raise ValueError(f"{self.name} wrote other rows")
        return (len(self._right) - 1) / seconds

    async def _told(self, message: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise EOFError(f"{self.name} ended without an answer; AEMBED_BENCH_STDERR=1 shows why")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def writers(
    url: str, texts: Sequence[str], matrix: NDArray[np.float32], folder: Path
) -> AsyncIterator[list[Writer]]:
    """Those that could be installed; the others are named."""
    (folder / "texts.json").write_text(json.dumps(list(texts)))
    np.save(folder / "matrix.npy", matrix)
    interpreter = str(await asyncio.to_thread(python, "stores", REQUIREMENTS))
    missing = failed("stores")
    async with AsyncExitStack() as stack:
        ready = []
        for peer in PEERS:
            if peer.distribution in missing:
                print(f"{peer.name} does not take part: {missing[peer.distribution]}")
                continue
            process = await stack.enter_async_context(_running(interpreter))
            ready.append(Writer(peer, process, url, matrix))
            await ready[-1].begin(folder)
        yield ready


@asynccontextmanager
async def _running(interpreter: str) -> AsyncIterator[Process]:
    stderr = None if "AEMBED_BENCH_STDERR" in os.environ else DEVNULL
    command = (interpreter, "-m", "benchmarks.beside.peers.writers")
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=stderr)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
