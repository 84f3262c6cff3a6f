"""Servers that speak PostgreSQL and not all of it: no COPY, connections that never end, one session for all.

PGlite itself is tried where AEMBED_TEST_PGLITE names a folder in which npm has installed @electric-sql/pglite-socket,
@electric-sql/pglite and @electric-sql/pglite-pgvector, of versions that fit each other.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from aembed.embedder import Embedder
from aembed.providers.fake import FakeProvider
from aembed.stores.postgresql import PostgresStore
from aembed.types import Record
from tests.stage.postgres import free_port
from tests.stores.tables import backfilled, filled, new_table

TERMINATE = b"X\0\0\0\4"
COPY_IN = re.compile(rb"G\0\0\0(.)\x01\0(.)", re.DOTALL)
"""CopyInResponse: its length, that it is binary, and how many columns there are, two bytes each. A G before a length is
any value that ends with this byte, as the number of one process of 256 does."""
RECORDS = [Record(f"{i:03d}", f"section {i}", {"i": i}) for i in range(100)]


class Kin:
    """Passes everything on to a real server but what this one does not know."""

    def __init__(self, url: str, *, copies: bool, ends: bool) -> None:
        self._server = urlsplit(url)
        self._copies, self._ends = copies, ends
        self.copies = 0
        self._open: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._server.hostname, self._server.port)
        self._open += [writer, there[1]]
        await asyncio.gather(self._asked(reader, there[1]), self._answered(there[0], writer))

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if data.endswith(TERMINATE) and not self._ends:
                    return
                writer.write(data)
                await writer.drain()
            writer.close()

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if any(length[0] == 7 + 2 * columns[0] for length, columns in COPY_IN.findall(data)):
                    self.copies += 1
                    if not self._copies:
                        break
                writer.write(data)
                await writer.drain()
            writer.close()

    def close(self) -> None:
        for writer in self._open:
            writer.close()


@asynccontextmanager
async def kin(url: str, *, copies: bool = True, ends: bool = True) -> AsyncIterator[tuple[str, Kin]]:
    relative = Kin(url, copies=copies, ends=ends)
    async with await asyncio.start_server(relative.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield urlsplit(url)._replace(netloc=f"postgres@127.0.0.1:{port}").geturl(), relative
        relative.close()
        await asyncio.sleep(0)


async def check_store(url: str, table: str) -> None:
    provider = FakeProvider("fake", 8, keep_texts=True)
    store = PostgresStore(url, table=table)
    async with Embedder(provider, max_batch_size=20) as embedder:
        assert (await embedder.embed_into(store, RECORDS)).stored == 100
        edited = [Record(each.id, each.text + " é'\\", each.metadata, "source") for each in RECORDS]
        assert (await embedder.embed_into(store, edited)).stored == 100
        assert (await embedder.embed_into(store, edited)).unchanged == 100
        (match,) = await embedder.search(store, edited[17].text, k=1)
        assert (match.id, match.text, match.metadata) == ("017", edited[17].text, {"i": 17})
        assert match.score == pytest.approx(1)
    assert sum(len(request.texts) for request in provider.ledger.log if request.input_type == "document") == 200
    await store.aclose()


async def test_t18_a_server_without_copy_is_written_row_by_row(database: str, table: str) -> None:
    async with kin(database, copies=False) as (url, relative):
        await check_store(url, f"{table}_store")
        assert relative.copies == 2
        await new_table(database, table)
        ended = await backfilled(url, table, fingerprint="seen")
        assert relative.copies == 4
    assert ended.report is not None
    assert (ended.report.stored, ended.report.failed) == (100, 0)
    assert set(ended.bought.values()) == {1}
    assert len(await filled(database, table)) == 100


async def test_t18_one_connection_that_is_lost_in_a_copy_is_no_server_without_it(database: str, table: str) -> None:
    async with kin(database, copies=False) as (url, relative):
        store = PostgresStore(url, table=table)
        running = asyncio.create_task(store.prepare(FakeProvider("fake", 8).space))
        while not relative.copies:  # noqa: ASYNC110 - a socket does not call
            await asyncio.sleep(0.001)
        relative._copies = True
        await running
        assert store._database.copies
        await store.aclose()


async def test_t18_a_server_that_ends_no_connection_is_not_missing(database: str, table: str) -> None:
    async with kin(database, ends=False) as (url, _):
        await check_store(url, f"{table}_store")
        await new_table(database, table)
        ended = await backfilled(url, table)
        assert ended.error is None
    assert len(await filled(database, table)) == 100


SERVE = """import { PGlite } from '@electric-sql/pglite'
import { vector } from '@electric-sql/pglite-pgvector'
import { PGLiteSocketServer } from '@electric-sql/pglite-socket'
const db = await PGlite.create({ extensions: { vector } })
await db.exec('CREATE EXTENSION IF NOT EXISTS vector')
const server = new PGLiteSocketServer({ db, port: Number(process.argv[2]), host: '127.0.0.1', maxConnections: 20 })
await server.start()
console.log('ready')
"""


@pytest.fixture
def pglite() -> Iterator[str]:
    folder = os.environ.get("AEMBED_TEST_PGLITE")
    if folder is None:
        pytest.skip("AEMBED_TEST_PGLITE names no folder with PGlite")
    port, program = free_port(), Path(folder, "serve_for_a_test.mjs")
    program.write_text(SERVE)
    process = subprocess.Popen(["node", program.name, str(port)], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
    process.kill()
    process.wait()
    process.stdout.close()
    program.unlink()


async def test_t18_pglite(pglite: str, table: str) -> None:
    """Which ends for good with the first COPY; so the table comes by a store of ours."""
    await check_store(pglite, f"{table}_store")
    await check_store(pglite, f"{table}_again")
