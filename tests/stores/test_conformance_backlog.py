"""What every column of a user's own table does alike: SQLite, PostgreSQL, and PostgreSQL behind a pooler."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aembed.embedder import Embedder
from aembed.errors import AembedError, BadRequestError, ConfigError, InputError, SpaceMismatchError
from aembed.protocols import Backlog, ReadsRows, Refusals
from aembed.providers.fake import FakeProvider
from aembed.results import Report
from aembed.stores import Column, open_column
from aembed.types import Record, Refusal, Space
from tests.stage.postgres import run_sql
from tests.stores.samples import SPACE, vectors

SECTIONS = "CREATE TABLE sections (id INTEGER PRIMARY KEY, content TEXT, lang TEXT, embedding {vector})"
ROWS = "INSERT INTO sections VALUES (1, 'one', 'en'{0}), (2, 'two', 'de'{0}), (3, NULL, 'en'{0}), (10, 'ten', 'en'{0})"


@dataclass(frozen=True)
class Table:
    """A database of the user's own, and a way to open a column of it."""

    sql: Callable[..., Awaitable[list[Any]]]
    vector: str
    open: Callable[..., Column]

    async def backfill(self, embedder: Embedder, **options: Any) -> Report:
        """By a worker that comes and goes."""
        column = self.open()
        report = await embedder.backfill(column, **options)
        await column.aclose()
        return report

    async def filled(self) -> list[int]:
        return [id for (id,) in await self.sql("SELECT id FROM sections WHERE embedding IS NOT NULL ORDER BY id")]


@pytest.fixture(params=["sqlite", "postgresql", "pooled"])
async def empty(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Table]:
    """No table yet."""
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            yield _sqlite(tmp_path / "app.db", stack)
            return
        database: str = request.getfixturevalue("database")
        schema = f"s_{uuid.uuid4().hex[:12]}"
        await run_sql(database, f"CREATE SCHEMA {schema}")
        place = request.getfixturevalue("pooled") if request.param == "pooled" else database
        yield _postgresql(database, place, schema, stack)
        await stack.aclose()
        await run_sql(database, f"DROP SCHEMA {schema} CASCADE", "DROP SCHEMA IF EXISTS aembed CASCADE")


def _sqlite(path: Path, stack: AsyncExitStack) -> Table:
    async def sql(*statements: str) -> list[Any]:
        with closing(sqlite3.connect(path, timeout=5)) as connection, connection:
            return [connection.execute(statement).fetchall() for statement in statements][-1]

    def opened(table: str = "sections", **options: Any) -> Column:
        column = open_column(f"sqlite:///{path}", table, **{"text": "content", **options})
        stack.push_async_callback(column.aclose)
        return column

    return Table(sql, "BLOB", opened)


def _postgresql(database: str, place: str, schema: str, stack: AsyncExitStack) -> Table:
    async def sql(*statements: str) -> list[Any]:
        return await run_sql(database, f"SET search_path = {schema}, public", *statements)

    def opened(table: str = "sections", **options: Any) -> Column:
        column = open_column(place, f"{schema}.{table}", **{"text": "content", **options})
        stack.push_async_callback(column.aclose)
        return column

    return Table(sql, "vector(4)", opened)


@pytest.fixture
async def table(empty: Table) -> Table:
    """Three rows with a text, one without."""
    await empty.sql(SECTIONS.format(vector=empty.vector), ROWS.format(", NULL"))
    return empty


async def every(column: Column, limit: int | None = None) -> list[Record]:
    return [record async for record in column.pending(limit)]


async def fill(column: Column, records: Sequence[Record]) -> int:
    return await column.write([each.id for each in records], [each.text for each in records], vectors(len(records)))


async def refusals(column: Column) -> list[Refusal]:
    assert isinstance(column, Refusals)
    return await column.refusals()


async def test_it_has_the_shape_of_a_backlog(table: Table) -> None:
    column = table.open()
    assert isinstance(column, Backlog)
    assert isinstance(column, Refusals)


@pytest.mark.parametrize("prepared", [True, False])
async def test_it_fills_rows_with_a_text_and_no_vector(table: Table, prepared: bool) -> None:
    column = table.open()
    if prepared:
        assert await column.space() is None
        assert await column.prepare(SPACE) == SPACE
        assert await column.space() == SPACE
    assert await column.count() == 3
    pending = await every(column)
    assert [(each.id, each.text, each.source) for each in pending] == [
        ("1", "one", "sections"),
        ("2", "two", "sections"),
        ("10", "ten", "sections"),
    ]
    assert await fill(column, pending) == 3
    assert await column.count() == 0
    assert await every(column) == []
    assert await table.filled() == [1, 2, 10]
    for record, vector in zip(pending, vectors(3), strict=True):
        (match,) = await column.search(vector, 1)
        assert (match.id, match.text, match.score) == (record.id, record.text, 1.0)


async def test_an_empty_write_writes_nothing(table: Table) -> None:
    column = table.open()
    await column.prepare(SPACE)
    assert await column.write([], [], vectors(0)) == 0
    assert await table.filled() == []


@pytest.mark.parametrize("prepared", [True, False])
async def test_a_limit_ends_the_pending_rows(table: Table, prepared: bool) -> None:
    column = table.open()
    if prepared:
        await column.prepare(SPACE)
    assert [each.id for each in await every(column, 2)] == ["1", "2"]
    assert await every(column, 0) == []
    assert len(await every(column, 9)) == 3


@pytest.mark.parametrize("size", [1, 2, 500])
async def test_pages_follow_the_order_of_a_composite_key(
    empty: Table, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.stores.sqlite_column.ROWS_PER_PAGE", size)
    monkeypatch.setattr("aembed.stores._postgresql._filling.ROWS_PER_PAGE", size)
    await empty.sql(
        f"CREATE TABLE sections (a TEXT, b INTEGER, content TEXT, embedding {empty.vector}, PRIMARY KEY (b, a))",
        "INSERT INTO sections (a, b, content) VALUES ('z', 2, '2z'), ('a', 10, '10a'), ('a', 2, '2a')",
    )
    column = empty.open()
    await column.prepare(SPACE)
    pending = await every(column)
    assert [(each.id, each.text) for each in pending] == [('[2, "a"]', "2a"), ('[2, "z"]', "2z"), ('[10, "a"]', "10a")]
    assert await fill(column, pending) == 3
    assert await column.count() == 0


async def test_a_row_that_was_edited_stays_pending(table: Table) -> None:
    await table.sql("INSERT INTO sections (id, content) VALUES (4, 'Case'), (5, 'removed'), (6, 'emptied')")
    column = table.open()
    await column.prepare(SPACE)
    pending = await every(column)
    await table.sql(
        "UPDATE sections SET content = 'two!' WHERE id = 2",
        "UPDATE sections SET content = 'case' WHERE id = 4",
        "DELETE FROM sections WHERE id = 5",
        "UPDATE sections SET content = NULL WHERE id = 6",
    )
    assert await fill(column, pending) == 2
    assert await table.filled() == [1, 10]
    assert [each.text for each in await every(column)] == ["two!", "case"]


@pytest.mark.parametrize("text", ["", " ", "\U0001f600\n", 'it\'s "quoted" \\', "x" * 100_000])
async def test_any_text_is_found_again(table: Table, text: str) -> None:
    literal = text.replace("'", "''")
    await table.sql(f"UPDATE sections SET content = '{literal}' WHERE id = 3")  # noqa: S608
    column = table.open(where="id = 3")
    await column.prepare(SPACE)
    pending = await every(column)
    assert [each.text for each in pending] == [text]
    assert await fill(column, pending) == 1


async def test_where_narrows_everything(table: Table) -> None:
    english = table.open(where="lang = 'en' OR lang = 'fr' -- ours")
    await english.prepare(SPACE)
    assert await english.count() == 2
    assert [each.id for each in await every(english)] == ["1", "10"]
    everything = table.open()
    await fill(everything, await every(everything))
    assert {match.id for match in await english.search(vectors(1)[0], 9)} == {"1", "10"}


async def test_search_filters_by_columns_and_checks_what_it_is_given(table: Table) -> None:
    column = table.open()
    await column.prepare(SPACE)
    assert await column.search(vectors(1)[0], 3) == []
    await fill(column, await every(column))
    matches = await column.search(vectors(3)[1], 2)
    assert (matches[0].id, matches[0].text, matches[0].metadata, matches[0].score) == ("2", "two", None, 1.0)
    assert len(matches) == 2
    assert {match.id for match in await column.search(vectors(1)[0], 9, where={"lang": "en"})} == {"1", "10"}
    assert [match.id for match in await column.search(vectors(1)[0], 9, where={"lang": "en", "id": 10})] == ["10"]
    with pytest.raises(ConfigError, match="no column 'x\" OR 1'; it has content, embedding, id, lang"):
        await column.search(vectors(1)[0], 1, where={'x" OR 1': 1})
    with pytest.raises(SpaceMismatchError, match="4 dimensions; the query has 3"):
        await column.search(vectors(1, 3)[0], 1)
    with pytest.raises(InputError):
        await column.search(np.full(4, np.nan, np.float32), 1)
    with pytest.raises(ConfigError, match="k=0"):
        await column.search(vectors(1)[0], 0)


TYPED = """CREATE TABLE typed (id INTEGER PRIMARY KEY, content TEXT, lang TEXT, year INTEGER, price NUMERIC(8, 2),
    size DOUBLE PRECISION, day DATE, ok BOOLEAN, embedding {vector})"""
TYPED_ROWS = """INSERT INTO typed VALUES (1, 'one', 'en', 1999, 9.99, 0.5, '2024-01-31', true{0}),
    (2, 'two', 'de', 2024, 10, 1.5, '2024-02-01', false{0}), (3, 'three', NULL, NULL, NULL, NULL, NULL, NULL{0}),
    (4, 'four', 'En', 2010, 100, 1e300, '2023-12-31', true{0})"""


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"lang": ["en", "de"]}, "12"),
        ({"lang": ["en", None]}, "13"),
        ({"lang": [None]}, "3"),
        ({"lang": []}, ""),
        ({"lang": {"ne": "en"}}, "234"),
        ({"lang": {"nin": ["en", None]}}, "24"),
        ({"lang": {"nin": []}}, "1234"),
        ({"lang": {"ne": None}}, "124"),
        # Code point by code point, whatever the order of the database is: "E" comes before "d".
        ({"lang": {"gte": "d"}}, "12"),
        ({"lang": {"lt": "en"}}, "24"),
        ({"lang": {"gt": "e\0"}}, "1"),
        ({"lang": {"in": ["en", "d\0e"]}}, "1"),
        ({"year": [1999, 2010]}, "14"),
        ({"year": "1999"}, "1"),
        ({"year": {"gte": 2010}}, "24"),
        ({"year": {"gt": 1999.5, "lte": 2010}}, "4"),
        ({"year": {"lt": 10_000_000_000}}, "124"),
        ({"year": {"gte": 2000}, "lang": {"ne": "de"}}, "4"),
        ({"price": {"lt": 10}}, "1"),
        ({"price": {"in": [10, 9.99]}}, "12"),
        ({"size": {"gt": 0.5}}, "24"),
        ({"size": {"eq": 1e300}}, "4"),
        ({"day": {"gte": "2024-01-31"}}, "12"),
        ({"day": {"gte": "2024-01-01", "lt": "2024-02-01"}}, "1"),
        ({"day": "2023-12-31"}, "4"),
        ({"ok": True}, "14"),
        ({"ok": {"ne": True}}, "23"),
        ({"ok": [True, False]}, "124"),
    ],
    ids=str,
)
async def test_filters_of_columns_are_of_the_columns_types(empty: Table, where: dict[str, Any], ids: str) -> None:
    await empty.sql(TYPED.format(vector=empty.vector), TYPED_ROWS.format(", NULL"))
    column = empty.open("typed")
    await column.prepare(SPACE)
    await fill(column, await every(column))
    found = await column.search(vectors(1)[0], 9, where=where)
    assert "".join(sorted(match.id for match in found)) == ids


async def test_keys_inside_of_a_column_are_refused(table: Table) -> None:
    column = table.open()
    await column.prepare(SPACE)
    await fill(column, await every(column))
    with pytest.raises(
        ConfigError, match=r"where\['lang'\]\['has'\] is for the metadata of a store: 'lang' is a column"
    ):
        await column.search(vectors(1)[0], 9, where={"lang": {"has": {"x": 1}}})


async def test_i16_a_column_with_vectors_keeps_to_its_space(table: Table) -> None:
    column = table.open()
    await column.prepare(Space("fake", "words", 4))
    assert await column.prepare(SPACE) == SPACE
    await fill(column, (await every(column))[:1])
    again = table.open()
    assert await again.prepare(Space("fake", "letters")) == SPACE
    with pytest.raises(SpaceMismatchError, match="fake:letters, 4 dimensions; asked for was fake:words, 4 dimensions"):
        await again.prepare(Space("fake", "words", 4))
    with pytest.raises(SpaceMismatchError):
        await again.prepare(Space("fake", "letters", 8))


# Texts that were refused


def no_poison(number: int, texts: Sequence[str]) -> BadRequestError | None:
    return BadRequestError("not this one") if "poison" in texts else None


REFUSAL = Refusal("2", b"fingerprint", "BadRequestError", "not this one")


async def test_a_refusal_is_kept_by_its_fingerprint_until_the_row_is_filled(table: Table) -> None:
    column = table.open()
    assert isinstance(column, Refusals)
    await column.prepare(SPACE)
    assert await refusals(column) == []
    await column.refuse([Refusal("2", b"older", "BadRequestError", "before"), REFUSAL])
    again = table.open()
    assert isinstance(again, Refusals)
    assert await again.refused({"1": b"fingerprint", "2": b"fingerprint"}) == {"2": REFUSAL}
    assert await again.refused({"1": b"fingerprint", "2": b"another"}) == {}
    assert await refusals(again) == [REFUSAL]
    await again.prepare(SPACE)
    pending = await every(again)
    assert await fill(again, pending[:1]) == 1
    assert await refusals(again) == [REFUSAL]
    assert await fill(again, pending[1:]) == 2
    assert await refusals(again) == []


async def test_a_backfill_skips_what_was_refused_until_it_changes_or_is_asked_for(table: Table) -> None:
    await table.sql("UPDATE sections SET content = 'poison' WHERE id = 2")
    provider = FakeProvider("fake", 4, script=no_poison)
    async with Embedder(provider) as embedder:
        first = await table.backfill(embedder)
        assert (first.stored, first.failed, first.refused_earlier) == (2, 1, 0)
        second = await table.backfill(embedder)
        assert (second.stored, second.failed, second.refused_earlier, second.requests) == (0, 1, 1, 0)
        assert isinstance(second.failures[0].error, AembedError)
        third = await table.backfill(embedder, retry_failed=True)
        assert (third.failed, third.refused_earlier, third.requests) == (1, 0, 3)  # it, one that is accepted, it again
        assert [refusal.id for refusal in await refusals(table.open())] == ["2"]
        await table.sql("UPDATE sections SET content = 'cured' WHERE id = 2")
        fourth = await table.backfill(embedder)
        assert (fourth.stored, fourth.failed) == (1, 0)
    assert await refusals(table.open()) == []


async def test_a_limit_counts_what_is_tried_and_not_what_was_refused_earlier(table: Table) -> None:
    await table.sql("UPDATE sections SET content = 'poison' WHERE id = 1")
    async with Embedder(FakeProvider("fake", 4, script=no_poison)) as embedder:
        first = await table.backfill(embedder, limit=1)
        assert (first.stored, first.failed) == (0, 1)
        second = await table.backfill(embedder, limit=1)
        assert (second.stored, second.failed, second.refused_earlier) == (1, 1, 1)
        assert await table.filled() == [2]
        third = await table.backfill(embedder, limit=5)
        assert (third.stored, third.refused_earlier) == (1, 1)
    assert await table.filled() == [2, 10]


# What is made, and announced before


async def test_nothing_is_added_unasked(table: Table) -> None:
    await table.sql("ALTER TABLE sections DROP COLUMN embedding")
    column = table.open()
    for question in (column.preflight(SPACE), column.prepare(SPACE), every(column), column.count()):
        with pytest.raises(
            ConfigError, match=r"no column 'embedding'.*--create-columns \(create_columns=True\) adds it"
        ):
            await question


async def test_a_missing_column_is_announced_and_added_when_asked(table: Table) -> None:
    await table.sql("ALTER TABLE sections DROP COLUMN embedding")
    column = table.open(create_columns=True)
    assert await column.count() == 3
    assert len(await every(column)) == 3
    assert await column.search(vectors(1)[0], 1) == []
    added, books = await column.preflight(SPACE)
    assert added.startswith('column "embedding" ')
    assert " aembed" in books
    assert await column.prepare(Space("fake", "letters")) == Space("fake", "letters") or table.vector == "BLOB"
    assert await column.prepare(SPACE) == SPACE
    assert await column.preflight(SPACE) == []
    assert await fill(column, await every(column)) == 3
    assert await table.filled() == [1, 2, 10]


async def test_a_preflight_writes_nothing(table: Table) -> None:
    await table.sql("ALTER TABLE sections DROP COLUMN embedding")
    column = table.open(create_columns=True)
    await column.preflight(SPACE)
    assert len((await table.sql("SELECT * FROM sections WHERE id = 1"))[0]) == 3
    assert await column.space() is None


async def test_a_preflight_finds_what_prepare_finds(table: Table) -> None:
    column = table.open()
    await column.prepare(SPACE)
    await fill(column, await every(column))
    with pytest.raises(SpaceMismatchError):
        await table.open().preflight(Space("fake", "letters", 8))
    with pytest.raises(ConfigError, match="no column 'body'"):
        await table.open(text="body").preflight(SPACE)


# giving rows back (ReadsRows)


async def filled_column(table: Table, **options: Any) -> tuple[Column, ReadsRows]:
    column = table.open(**options)
    await column.prepare(SPACE)
    await fill(column, await every(column))
    assert isinstance(column, ReadsRows)
    return column, column


async def test_the_filled_rows_are_given_back(table: Table, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("aembed.stores._row_pages.ROWS_PER_PAGE", 2)
    monkeypatch.setattr("aembed.stores._row_pages.BULK_BYTES", 2 * 4 * 4)
    _, rows = await filled_column(table)
    found = [row async for row in rows.rows()]
    assert [(row.id, row.index, row.text, row.metadata) for row in found] == [
        ("1", 0, "one", None),
        ("2", 1, "two", None),
        ("10", 2, "ten", None),
    ]
    assert np.array_equal([row.vector for row in found], vectors(3))
    assert [row.id async for row in rows.rows({"lang": "en"})] == ["1", "10"]
    assert [row.id async for row in rows.rows(after="1")] == ["2", "10"]
    assert [row.id async for row in rows.rows({"lang": "en"}, "2")] == ["10"]
    for where, wrong in (({"nothing": 1}, "no column 'nothing'"), ({"lang": {"has": {}}}, "no keys inside")):
        with pytest.raises(ConfigError, match=wrong):
            await rows.matrix(where)
    for after in ("{", "[", '["a", 3]', '"\0"'):
        with pytest.raises(ConfigError, match="is no key of this table"):
            [row async for row in rows.rows(after=after)]
    ids, mapped = await rows.matrix(path=tmp_path / "v.npy")
    assert (ids, np.array_equal(mapped, vectors(3))) == (["1", "2", "10"], True)
    batches = [batch async for batch in rows.to_arrow({"lang": "en"})]
    assert [text for batch in batches for text in batch["text"].to_pylist()] == ["one", "ten"]


async def test_rows_of_a_column_are_got_by_their_keys(table: Table) -> None:
    _, rows = await filled_column(table)
    asked = ["10", "3", "1", "99", '"x"', "[1, 2]", "{", "", "1e400", str(2**70), "nul\0", '"\\u0000"', "01", "10"]
    found = await rows.get(asked)
    assert [row and (row.id, row.index) for row in found] == [("10", 0), None, ("1", 2), *[None] * 10, ("10", 13)]
    assert await rows.has(asked) == {"1", "10"}


async def test_keys_of_two_columns_and_a_condition(empty: Table) -> None:
    await empty.sql(
        f"CREATE TABLE sections (a TEXT, b INTEGER, content TEXT, embedding {empty.vector}, PRIMARY KEY (a, b))",
        "INSERT INTO sections (a, b, content) VALUES ('x', 2, 'x2'), ('x', 1, 'x1'), ('q\"', 1, 'q1')",
        "INSERT INTO sections (a, b, content) VALUES ('no', 1, 'no1')",
    )
    _, rows = await filled_column(empty, where="a <> 'no'")
    assert [row.id async for row in rows.rows()] == ['["q\\"", 1]', '["x", 1]', '["x", 2]']
    assert [row.text async for row in rows.rows(after='["q\\"", 1]')] == ["x1", "x2"]
    found = await rows.get(['["x", 2]', '["no", 1]', '"x"', '["q\\"", 1]'])
    assert [row and row.text for row in found] == ["x2", None, None, "q1"]


async def test_t6_a_vector_of_an_earlier_text_is_not_given(table: Table) -> None:
    _, rows = await filled_column(table, fingerprint="hash", create_columns=True)
    await table.sql("UPDATE sections SET content = 'eleven' WHERE id = 10")
    assert [row.id async for row in rows.rows()] == ["1", "2"]
    assert await rows.has(["1", "10"]) == {"1"}


async def test_a_column_that_is_not_filled_has_nothing_to_give(table: Table) -> None:
    column = table.open()
    assert isinstance(column, ReadsRows)
    assert [row async for row in column.rows()] == []
    assert (await column.matrix())[1].shape == (0, 0)
    assert await column.get(["1"]) == [None]
    absent = table.open(vector="later", create_columns=True)
    assert isinstance(absent, ReadsRows)
    assert [row async for row in absent.rows()] == []
    assert await absent.has(["1"]) == set()
