"""Stores and columns that earlier builds made open, and buy nothing again. Each folder of tests/made_before is of the
build of that day: nine records, vectors of eight floats by the FakeProvider. What a build makes is never changed later.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from aembed import Embedder, FakeProvider, PostgresColumn, PostgresStore, Record, SQLiteColumn, SQLiteStore
from tests.stage.postgres import create_database, drop_database

FOLDERS = sorted(path for path in (Path(__file__).parent.parent / "made_before").iterdir() if path.is_dir())
TEXTS = [
    "A cat sat on the mat.",
    "Grüße aus Köln: ein Satz mit Umlauten.",
    "日本語の文章です。",
    "x" * 400,
    "line one\nline two",
    "tab\tand \"quotes\" and 'these'",
    "The same text.",
    "The same text.",
    "numbers 1 2 3",
]
RECORDS = [
    Record(f"id-{n}", text, {"n": n, "tags": ["a", n]} if n % 2 else None, f"file{n % 3}.md" if n % 3 else None)
    for n, text in enumerate(TEXTS)
]
NEW = Record("id-new", "A text that was not there.")

pytestmark = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def unpacked(folder: Path, name: str, there: Path) -> Path:
    path = there / name
    path.write_bytes(gzip.decompress((folder / f"{name}.gz").read_bytes()))
    return path


@pytest.fixture
def restored(postgres: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"aembed_made_before_{folder.name}_{request.function.__name__.split('_')[-1]}"
    yield create_database(postgres, name)
    drop_database(postgres, name)


def dumped(path: Path) -> str:
    """Without the one setting that a PostgreSQL before 17 does not know."""
    return path.read_text(encoding="utf-8").replace("SET transaction_timeout = 0;", "")


async def restore(url: str, dump: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(dump)
    await connection.close()


async def check_store(store: SQLiteStore | PostgresStore) -> None:
    """Nothing is bought for what is there, and what is new goes beside it."""
    provider = FakeProvider(dimensions=8)
    async with Embedder(provider) as embedder:
        report = await embedder.embed_into(store, RECORDS)
        assert (report.unchanged, provider.ledger.requests) == (len(RECORDS), 0)
        report = await embedder.embed_into(store, [*RECORDS, NEW])
        assert (report.stored, provider.ledger.texts) == (1, 1)
        for record in RECORDS[:6]:
            assert (await embedder.search(store, record.text, k=1))[0].id == record.id
    rows = {row.id: row async for row in store.rows()}
    assert {id: (row.text, row.metadata, row.source) for id, row in rows.items()} == {
        record.id: (record.text, record.metadata, record.source) for record in [*RECORDS, NEW]
    }
    await store.aclose()


async def check_column(column: SQLiteColumn | PostgresColumn) -> None:
    provider = FakeProvider(dimensions=8)
    async with Embedder(provider) as embedder:
        report = await embedder.backfill(column)
        assert (report.stored, provider.ledger.requests) == (0, 0)
        assert (await embedder.search(column, TEXTS[3], k=1))[0].text == TEXTS[3]
    await column.aclose()


async def test_a_sqlite_store(folder: Path, tmp_path: Path) -> None:
    await check_store(SQLiteStore(unpacked(folder, "store.db", tmp_path)))


async def test_a_sqlite_column(folder: Path, tmp_path: Path) -> None:
    path = unpacked(folder, "column.db", tmp_path)
    await check_column(SQLiteColumn(path, "sections", text="content", vector="embedding"))


async def test_a_postgresql_store(folder: Path, restored: str) -> None:
    await restore(restored, dumped(folder / "store.sql"))
    await check_store(PostgresStore(restored, table="notes"))


async def test_a_postgresql_column(folder: Path, restored: str) -> None:
    await restore(restored, dumped(folder / "column.sql"))
    column = PostgresColumn(restored, "sections", text="content", vector="embedding", fingerprint="embedded_text")
    await check_column(column)
