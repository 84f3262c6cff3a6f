"""Roles that may do less: a job works alone with one warning; the GRANTs of docs/table.md are enough."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from aembed.embedder import Embedder
from aembed.errors import SpaceMismatchError
from aembed.limits import Budget
from aembed.preparation import Preparation
from aembed.providers.fake import FakeProvider
from aembed.stores.postgresql_column import PostgresColumn
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


@pytest.mark.parametrize(("grants", "keeps"), [("no schema", False), ("select", False), ("some tables", True)])
async def test_a25_a_role_that_cannot_keep_how_texts_are_prepared_prepares_none_unasked(
    database: str, table: str, role: str, grants: str, keeps: bool
) -> None:
    """Else the next run would not know, and vectors of both kinds would stand beside each other."""
    given = PARTIAL[grants]
    if given is not None:
        await make_schema(database)
        await run_sql(database, *(grant.format(role=role) for grant in given))
    place, prefixes = database.replace("postgres@", f"{role}@", 1), Preparation("passage: ", "query: ")
    prefix = "passage: " if keeps else ""
    chosen = FakeProvider("fake", 8)
    chosen.space = replace(chosen.space, preparation=str(prefixes))
    if not keeps:
        async with Embedder(chosen) as embedder:
            with pytest.raises(SpaceMismatchError, match=r"docs/table\.md has the GRANTs"):
                await embedder.backfill(column := PostgresColumn(place, table, text="content"))
        await column.aclose()
        assert chosen.ledger.requests == 0
    for _ in range(2):
        provider = FakeProvider("fake", 8, keep_texts=True, preparation=prefixes)
        async with Embedder(provider) as embedder:
            column = PostgresColumn(place, table, text="content", fingerprint="seen")
            assert (await embedder.backfill(column)).stored in (1, 100)
            await embedder.search(column, "section 1")
            await column.aclose()
        *documents, query = [text for sent in provider.ledger.log for text in sent.texts]
        assert all(text.startswith(f"{prefix}section ") for text in documents)
        assert query == ("query: section 1" if keeps else "section 1")
        await run_sql(database, f"UPDATE {table} SET content = 'section 0' WHERE id = 3")  # noqa: S608
