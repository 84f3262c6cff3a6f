"""Row A11: a store whose model has another address, or another name, is moved and buys nothing again."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
import pytest

from aembed import (
    ConfigError,
    Embedder,
    MemoryStore,
    PostgresStore,
    SpaceMismatchError,
    SQLiteColumn,
    SQLiteStore,
    Store,
    open_provider,
)
from aembed.stores import Column, open_column
from tests.cli.command import aembed
from tests.hostile.jobs import KEY, QUICK
from tests.jobs import records, words
from tests.service.faults import Always, Mutate
from tests.service.server import Server
from tests.stage.postgres import run_sql

Run: TypeAlias = Callable[[str], Awaitable[None]]

MODEL = "text-embedding-3-small"


def at(server: Server, name: str = f"openai:{MODEL}", **options: Any) -> Embedder:
    return Embedder(open_provider(name, base_url=server.url, api_key=KEY, **options), retry=QUICK, max_batch_size=10)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    match request.param:
        case "memory":
            return MemoryStore()
        case "sqlite":
            return SQLiteStore(tmp_path / "a.db")
        case _:
            return PostgresStore(request.getfixturevalue("database"), table=f"notes_{uuid4().hex}")


@pytest.mark.parametrize("name", [f"openai:{MODEL}", f"tei:{MODEL}"])
async def test_a11_the_same_vectors_at_another_address_or_name_are_taken_over(store: Store, name: str) -> None:
    texts = records(words(100))
    async with Server() as before, Server() as after:
        async with at(before) as embedder:
            await embedder.embed_into(store, texts)
            nearest = await embedder.search(store, "word", k=3)
        async with at(after, name) as embedder:
            with pytest.raises(SpaceMismatchError):
                await embedder.embed_into(store, texts)
            similarity = await embedder.move(store)
            assert similarity == pytest.approx(1.0, abs=1e-5)
            assert (bought := sum(after.ledger.times_billed.values())) <= 8
            report = await embedder.embed_into(store, records(words(105)))
            assert (report.unchanged, report.stored) == (100, 5)
            assert sum(after.ledger.times_billed.values()) == bought + 5
            assert (await embedder.plan(store, texts)).unchanged == 100
            assert await embedder.search(store, "word", k=3) == nearest
        async with at(before) as embedder:
            assert await embedder.move(store) == pytest.approx(1.0, abs=1e-5)
            assert (await embedder.embed_into(store, texts)).unchanged == 100
    await store.aclose()


async def test_a11_other_vectors_are_not(store: Store) -> None:
    def turned(reply: dict[str, Any]) -> Any:
        for item in reply["data"]:
            item["embedding"] = list(reversed(item["embedding"]))
        return reply

    async with Server() as before, Server(script=Always(Mutate(turned))) as after:
        async with at(before, encoding="float") as embedder:
            await embedder.embed_into(store, records(words(20)))
        async with at(after, encoding="float") as embedder:
            with pytest.raises(SpaceMismatchError, match=r"of 8 texts that were embedded again one has a cosine"):
                await embedder.move(store)
            with pytest.raises(SpaceMismatchError):
                await embedder.embed_into(store, records(words(20)))
        async with at(before, encoding="float") as embedder:
            assert (await embedder.embed_into(store, records(words(20)))).unchanged == 20
    await store.aclose()


async def test_a11_another_width_is_not() -> None:
    store = MemoryStore()
    async with Server() as server:
        async with at(server) as embedder:
            await embedder.embed_into(store, records(words(20)))
        async with at(server, dimensions=512) as embedder:
            with pytest.raises(SpaceMismatchError, match="has 1536 dimensions, the model gives vectors of 512"):
                await embedder.move(store)


async def test_a11_a_store_without_rows_has_nothing_to_move() -> None:
    async with Embedder("fake:letters") as embedder:
        with pytest.raises(ConfigError, match="the store holds no rows"):
            await embedder.move(MemoryStore())


async def test_a11_a_model_whose_replies_name_it_otherwise_is_moved_too(store: Store) -> None:
    """A router that calls a model by another name from some day on."""

    def renamed(reply: dict[str, Any]) -> Any:
        return reply | {"model": "embedding-router-2"}

    async with Server() as server:
        async with at(server) as embedder:
            await embedder.embed_into(store, records(words(20)))
        server.service.script = Always(Mutate(renamed))
        async with at(server) as embedder:
            with pytest.raises(SpaceMismatchError, match="aembed move"):
                await embedder.embed_into(store, records(words(25)))
        async with at(server) as embedder:
            assert await embedder.move(store) == pytest.approx(1.0, abs=1e-5)
            report = await embedder.embed_into(store, records(words(25)))
        assert (report.unchanged, report.stored) == (20, 5)
        assert np.isfinite(report.seconds)
    await store.aclose()


@pytest.mark.parametrize("filled", [False, True])
async def test_t9_a_store_that_was_moved_is_copied_without_a_request(
    store: Store, filled: bool, tmp_path: Path
) -> None:
    """Its fingerprints name the model as it was called before. The copy may have rows already, named as it is now."""
    copy, again = SQLiteStore(tmp_path / "copy.db"), MemoryStore()
    async with Server() as before, Server() as after:
        async with at(before) as embedder:
            await embedder.embed_into(store, records(words(60)))
        async with at(after, f"tei:{MODEL}") as embedder:
            await embedder.move(store)
            if filled:
                await embedder.embed_into(copy, records(words(20)))
            bought = sum(after.ledger.times_billed.values())
            report = await embedder.embed_into(copy, store)
            assert (report.stored + report.unchanged, report.requests) == (60, 0)
            assert (await embedder.embed_into(copy, records(words(60)))).unchanged == 60
            assert (await embedder.embed_into(again, copy)).requests == 0
            assert (await embedder.embed_into(store, copy)).unchanged == 60
            assert sum(after.ledger.times_billed.values()) == bought
    await store.aclose()
    await copy.aclose()


SECTIONS = "CREATE TABLE {0} (id int PRIMARY KEY, body text, embedding {1}, seen text)"
ROWS = """INSERT INTO {0} (id, body) WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 19)
    SELECT i, 'text ' || i FROM n"""


@pytest.fixture(params=["sqlite", "postgresql"])
async def column(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Column, Run]]:
    """A column of 20 rows that are empty, and a way to run SQL beside it."""
    table = f"sections_{uuid4().hex[:8]}"
    statements = (SECTIONS, ROWS)
    if request.param == "sqlite":
        path = str(tmp_path / "app.db")

        async def sql(statement: str) -> None:
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute(statement.format(table, "BLOB"))
    else:
        path = request.getfixturevalue("database")

        async def sql(statement: str) -> None:
            await run_sql(path, statement.format(table, "vector(1536)"))

    for statement in statements:
        await sql(statement)
    column = open_column(path, table, text="body", fingerprint="seen")
    yield column, sql
    await column.aclose()


async def test_a11_a_column_is_moved_where_the_vectors_are_the_same(column: tuple[Column, Run]) -> None:
    opened, sql = column
    async with Server() as before, Server() as after:
        async with at(before) as embedder:
            with pytest.raises(ConfigError, match="not known which vectors"):
                await embedder.move(opened)
            await embedder.backfill(opened)
        await sql("UPDATE {0} SET body = 'edited' WHERE id < 3")
        async with at(after, f"tei:{MODEL}") as embedder:
            with pytest.raises(SpaceMismatchError, match=r"aembed move|Embedder\.move"):
                await embedder.backfill(opened)
            assert await embedder.move(opened) == pytest.approx(1.0, abs=1e-5)
            assert sum(after.ledger.times_billed.values()) == 8
            await sql("INSERT INTO {0} (id, body) VALUES (20, 'new')")
            assert (await embedder.backfill(opened)).stored == 4
            assert sum(after.ledger.times_billed.values()) == 8 + 3 + 1 - 2, "three edited texts are one"
            assert (await embedder.search(opened, "new", k=1))[0].id == "20"
        async with at(before) as embedder:
            with pytest.raises(SpaceMismatchError):
                await embedder.backfill(opened)


async def test_a11_a_column_of_other_vectors_is_not(column: tuple[Column, Run]) -> None:
    def turned(reply: dict[str, Any]) -> Any:
        for item in reply["data"]:
            item["embedding"] = list(reversed(item["embedding"]))
        return reply

    opened, _ = column
    async with Server() as before, Server(script=Always(Mutate(turned))) as after:
        async with at(before, encoding="float") as embedder:
            await embedder.backfill(opened)
        held = await opened.space()
        async with at(after, encoding="float") as embedder:
            with pytest.raises(SpaceMismatchError, match=r"of 8 texts that were embedded again one has a cosine"):
                await embedder.move(opened)
        assert await opened.space() == held


async def test_a11_the_command_moves_a_column(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        connection.executemany("INSERT INTO notes (body) VALUES (?)", [(text,) for text in words(10)])
    async with Server() as before, Server() as after:
        async with at(before) as embedder:
            await embedder.backfill(SQLiteColumn(tmp_path / "a.db", "notes", text="body"))
        command = ("move", "-s", "a.db", "--table", "notes", "--text", "body", "--base-url", after.url)
        ran = await asyncio.to_thread(aembed, tmp_path, *command, env={"OPENAI_API_KEY": KEY})
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith(f"notes.embedding of a.db is of openai:{MODEL}, 1536 dimensions at {after.url} now (")


async def test_a11_the_command(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "a.db")
    async with Server() as before, Server() as after:
        async with at(before) as embedder:
            await embedder.embed_into(store, records(words(20)))
        await store.aclose()
        command = ("move", "-s", "a.db", "--base-url", after.url)
        ran = await asyncio.to_thread(aembed, tmp_path, *command, env={"OPENAI_API_KEY": KEY})
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith(f"20 rows of a.db are of openai:{MODEL}, 1536 dimensions at {after.url} now (least ")
        assert sum(after.ledger.times_billed.values()) == 8
