"""Roles that may do less: a job works alone with one warning; the GRANTs of docs/table.md are enough."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aembed.embedder import Embedder
from aembed.providers.fake import FakeProvider
from aembed.stores.postgresql_column import PostgresColumn
from aembed.types import Budget
from tests.stage.postgres import run_sql
from tests.stores.tables import backfilled, filled, new_table

PAGE = (Path(__file__).parent.parent.parent / "docs" / "table.md").read_text(encoding="utf-8")
GRANTS = re.findall(r"^GRANT .*;$", PAGE, re.MULTILINE)
WARNING = "may not create the schema aembed, or not write all of it"


@pytest.fixture
async def role(database: str, table: str) -> AsyncIterator[str]:
    """A role that may read and fill the table, and has nothing else; another one has made the schema aembed."""
    await new_table(database, table)
    name = f"r_{table}"
    await run_sql(
        database,
        f"CREATE ROLE {name} LOGIN",
        f"GRANT SELECT ON {table} TO {name}",
        f"GRANT UPDATE (embedding, seen) ON {table} TO {name}",
    )
    yield name
    await run_sql(database, f"DROP OWNED BY {name}", f"DROP ROLE {name}", "DROP SCHEMA IF EXISTS aembed CASCADE")


async def make_schema(database: str) -> None:
    await run_sql(
        database,
        "CREATE TABLE IF NOT EXISTS others (id int PRIMARY KEY, content text, embedding vector(8))",
        "INSERT INTO others VALUES (1, 'one') ON CONFLICT (id) DO UPDATE SET embedding = null",
    )
    assert len((await backfilled(database, "others")).bought) == 1


PARTIAL = {
    "no schema": None,
    "nothing": (),
    "usage": ("GRANT USAGE ON SCHEMA aembed TO {role}",),
    "create": ("GRANT USAGE, CREATE ON SCHEMA aembed TO {role}",),
    "select": ("GRANT USAGE ON SCHEMA aembed TO {role}", "GRANT SELECT ON ALL TABLES IN SCHEMA aembed TO {role}"),
    "tables alone": ("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA aembed TO {role}",),
    "some tables": (
        "GRANT USAGE ON SCHEMA aembed TO {role}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON aembed.columns, aembed.workers TO {role}",
    ),
}


@pytest.mark.parametrize("grants", PARTIAL)
@pytest.mark.parametrize("limit", [None, "budget"])
async def test_t12_a_role_without_the_schema_works_alone_with_one_warning(
    database: str, table: str, role: str, grants: str, limit: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    given = PARTIAL[grants]
    if given is not None:
        await make_schema(database)
        await run_sql(database, *(grant.format(role=role) for grant in given))
    caplog.clear()
    place = database.replace("postgres@", f"{role}@", 1)
    column = PostgresColumn(place, table, text="content", fingerprint="seen")
    budget = Budget(max_billed_tokens=10_000) if limit else None
    async with Embedder(FakeProvider("fake", 8), max_batch_size=20, budget=budget) as embedder:
        assert await column.preflight(embedder.space) == []
        report = await embedder.backfill(column)
        assert (report.stored, report.failed) == (100, 0)
        await run_sql(database, f"UPDATE {table} SET content = ' ' WHERE id = 3")  # noqa: S608
        assert (await embedder.backfill(column)).failed == 1
        assert len(await embedder.search(column, "section 17", k=3)) == 3
    await column.refusals()
    await column.aclose()
    assert len(await filled(database, table)) == 99
    assert caplog.text.count(WARNING) == 1


async def test_t12_the_grants_of_the_docs_are_enough(
    database: str, table: str, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    await make_schema(database)
    assert len(GRANTS) == 2
    await run_sql(database, *(grant.replace("worker", role) for grant in GRANTS))
    caplog.clear()
    place = database.replace("postgres@", f"{role}@", 1)
    column = PostgresColumn(place, table, text="content")
    async with Embedder(FakeProvider("fake", 8)) as embedder:
        assert (await embedder.backfill(column)).stored == 100
    assert await column.space() == embedder.space
    await column.aclose()
    assert caplog.text.count("schema aembed") == 0
