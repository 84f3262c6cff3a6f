"""Columns of a user's own tables are filled by batches, as stores are."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aembed import Embedder, Report
from aembed.stores import Column, open_column
from tests.batches.provider import BatchFake, refused
from tests.stage.postgres import run_sql

pytestmark = pytest.mark.anyio


@dataclass
class Table:
    """A table `notes` of the user's own."""

    sql: Callable[..., Awaitable[list[Any]]]
    open: Callable[[], Column]

    async def run(self, fake: BatchFake, **options: Any) -> Report:
        """One run of a process of its own."""
        column = self.open()
        async with Embedder(fake) as embedder:
            embedder._engine.clock = lambda: fake.now
            report = await embedder.backfill(column, **options)
        await column.aclose()
        return report

    async def empty(self) -> list[int]:
        return [id for (id,) in await self.sql("SELECT id FROM notes WHERE embedding IS NULL ORDER BY id")]


@pytest.fixture(params=["sqlite", "postgresql"])
async def table(request: pytest.FixtureRequest, tmp_path: Path) -> Table:
    if request.param == "sqlite":
        return await _filled(_sqlite(tmp_path / "app.db"), "BLOB")
    database: str = request.getfixturevalue("database")
    schema = f"s_{uuid.uuid4().hex[:12]}"
    await run_sql(database, f"CREATE SCHEMA {schema}")

    async def sql(statement: str) -> list[Any]:
        return await run_sql(database, f"SET search_path = {schema}, public", statement)

    opened = Table(sql, lambda: open_column(database, f"{schema}.notes", text="body"))
    return await _filled(opened, "vector(64)")


def _sqlite(path: Path) -> Table:
    async def sql(statement: str) -> list[Any]:
        with closing(sqlite3.connect(path)) as connection, connection:
            return connection.execute(statement).fetchall()

    return Table(sql, lambda: open_column(f"sqlite:///{path}", "notes", text="body"))


async def _filled(table: Table, vector: str) -> Table:
    await table.sql(f"CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding {vector})")
    values = ", ".join(f"({id}, 'note {id}')" for id in range(1, 13))
    await table.sql(f"INSERT INTO notes (id, body) VALUES {values}")  # noqa: S608
    return table


@pytest.fixture
def fake() -> BatchFake:
    return BatchFake()


async def test_a_column_is_submitted_and_filled_by_the_next_run(table: Table, fake: BatchFake) -> None:
    first = await table.run(fake, batch=True)
    assert (first.inputs, first.submitted) == (12, 12)
    again = await table.run(fake, batch=True)
    assert (again.submitted, len(fake.states), len(await table.empty())) == (12, 1, 12)
    fake.run_batches()
    done = await table.run(fake, batch=True)
    assert (done.stored, done.submitted, await table.empty()) == (12, 0, [])
    assert set(fake.bought.values()) == {1}
    assert fake.files == {}


async def test_a_live_run_fills_what_is_not_out_and_does_not_wait_for_the_rest(table: Table, fake: BatchFake) -> None:
    await table.run(fake, batch=True)
    await table.sql("INSERT INTO notes (id, body) VALUES (13, 'a new note')")
    live = await table.run(fake)
    assert (live.inputs, live.stored, live.submitted, fake.ledger.texts) == (13, 1, 12, 1)
    fake.run_batches()
    assert (await table.run(fake, batch=True)).stored == 12
    assert fake.ledger.texts == 1


async def test_a_row_that_was_edited_while_its_batch_ran_stays_empty_and_goes_into_the_next(
    table: Table, fake: BatchFake
) -> None:
    await table.run(fake, batch=True)
    await table.sql("UPDATE notes SET body = 'edited' WHERE id = 3")
    fake.run_batches()
    report = await table.run(fake, batch=True)
    assert (report.stored, report.submitted, await table.empty()) == (11, 1, [3])
    fake.run_batches()
    assert (await table.run(fake, batch=True)).stored == 1


async def test_q5_a_bad_row_of_a_column_is_found_live(table: Table, fake: BatchFake) -> None:
    await table.sql("UPDATE notes SET body = 'bad' WHERE id = 3")
    fake.outcome = refused

    def script(number: int, texts: Any) -> Exception | None:
        line = refused("", texts)
        return line.error if line else None

    fake.script = script
    await table.run(fake, batch=True)
    fake.run_batches()
    report = await table.run(fake, batch=True)
    assert (report.stored, report.failed, await table.empty()) == (11, 1, [3])
