"""A vector of an earlier text is cleared where the new text fails, and found by no search meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from aembed.embedder import Embedder
from aembed.errors import BadRequestError
from aembed.providers.fake import FakeProvider
from aembed.stores.postgresql_column import PostgresColumn
from tests.stage.postgres import run_sql
from tests.stores.tables import backfilled, filled, new_table, trigger


def no_bad(number: int, texts: Sequence[str]) -> BadRequestError | None:
    return BadRequestError("not this one", status_code=400) if "bad" in texts else None


@pytest.mark.parametrize("kind", ["bytea", "text"])
@pytest.mark.parametrize("text", ["' '", "'bad'", "repeat('long ', 99999)"], ids=["empty", "refused", "long"])
async def test_t6_the_vector_of_a_text_that_was_edited_into_one_that_fails_is_cleared(
    database: str, table: str, text: str, kind: str
) -> None:
    await new_table(database, table, f"ALTER TABLE {{table}} ALTER seen TYPE {kind} USING null")
    assert len((await backfilled(database, table, fingerprint="seen")).bought) == 100
    await run_sql(database, f"UPDATE {table} SET content = {text} WHERE id = 7")  # noqa: S608
    for _ in range(2):
        provider = FakeProvider("fake", 8, keep_texts=True, script=no_bad)
        ended = await backfilled(database, table, fingerprint="seen", provider=provider)
        assert list(ended.failures) == ["7"]
        assert 7 not in await filled(database, table)
        assert len(await filled(database, table)) == 99
    await run_sql(database, f"UPDATE {table} SET content = 'good again' WHERE id = 7")  # noqa: S608
    ended = await backfilled(database, table, fingerprint="seen")
    assert ended.report is not None
    assert ended.report.stored == 1


@pytest.mark.parametrize("changed", [1, 90])
@pytest.mark.parametrize("indexed", [False, True])
async def test_t6_no_search_finds_a_row_by_what_it_said_before(
    database: str, table: str, changed: int, indexed: bool
) -> None:
    await new_table(database, table, "UPDATE {table} SET content = 'one text' WHERE id <= 90")
    await backfilled(database, table, fingerprint="seen")
    column = PostgresColumn(database, table, text="content", fingerprint="seen")
    if indexed:
        await column.create_index()
    await run_sql(database, f"UPDATE {table} SET content = 'other text' WHERE id <= {changed}")  # noqa: S608
    async with Embedder(FakeProvider("fake", 8)) as embedder:
        found = await embedder.search(column, "one text", k=100)
        assert len(found) == 100 - changed
        assert all(int(match.id) > changed for match in found)
        (best,) = await embedder.search(column, "one text", k=1)
        assert (best.score == 1.0) == (changed < 90)
    await run_sql(database, f"UPDATE {table} SET content = null WHERE id > 95")  # noqa: S608
    async with Embedder(FakeProvider("fake", 8)) as embedder:
        assert len(await embedder.search(column, "one text", k=100)) == 95 - changed
    await column.aclose()


async def test_t6_a_table_that_keeps_its_old_vectors_hinders_no_job(
    database: str, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    await new_table(database, table)
    await backfilled(database, table, fingerprint="seen")
    keeps = "IF new.embedding IS NULL THEN RAISE EXCEPTION 'no'; END IF; RETURN new;"
    await run_sql(database, *(part.format(table=table) for part in trigger(keeps)))
    await run_sql(database, f"UPDATE {table} SET content = ' ' WHERE id IN (3, 4)")  # noqa: S608
    await run_sql(database, f"UPDATE {table} SET content = 'new' WHERE id = 5")  # noqa: S608
    ended = await backfilled(database, table, fingerprint="seen")
    assert ended.report is not None
    assert (ended.report.stored, ended.report.failed) == (1, 2)
    assert "2 rows" in caplog.text
    assert "keep a vector of an earlier text" in caplog.text


async def test_t6_a_vector_whose_text_nobody_noted_is_left_alone(database: str, table: str) -> None:
    await new_table(database, table)
    await backfilled(database, table)
    await run_sql(database, f"UPDATE {table} SET content = ' ' WHERE id = 3")  # noqa: S608
    ended = await backfilled(database, table, fingerprint="seen")
    assert list(ended.failures) == ["3"]
    assert len(await filled(database, table)) == 100
