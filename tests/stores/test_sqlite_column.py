from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aembed.embedder import Embedder
from aembed.errors import AembedError, ConfigError, SpaceMismatchError, StoreError
from aembed.stores.sqlite import SQLiteStore
from aembed.stores.sqlite_column import SQLiteColumn
from aembed.types import Record, Refusal, Space
from tests.stores.samples import SPACE, Unprivileged, files, vectors

SECTIONS = "CREATE TABLE sections (id INTEGER PRIMARY KEY, content TEXT, lang TEXT, embedding BLOB)"
Sql = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def sql(path: Path) -> Sql:
    """One statement of the user's own program, on a connection of its own."""

    def run(statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(path, timeout=0.5)) as connection, connection:
            return connection.execute(statement, parameters).fetchall()

    return run


@pytest.fixture
def column(path: Path, sql: Sql) -> SQLiteColumn:
    """Three rows with a text, one without."""
    sql(SECTIONS)
    for content, lang in [("one", "en"), ("two", "de"), (None, "en"), ("four", "en")]:
        sql("INSERT INTO sections (content, lang) VALUES (?, ?)", content, lang)
    return SQLiteColumn(path, "sections", text="content")


async def every(column: SQLiteColumn, limit: int | None = None) -> list[Record]:
    return [record async for record in column.pending(limit)]


async def fill(column: SQLiteColumn, records: Sequence[Record], dimensions: int = 4) -> int:
    matrix = vectors(len(records), dimensions)
    return await column.write([each.id for each in records], [each.text for each in records], matrix)


async def test_it_fills_rows_with_a_text_and_no_vector(column: SQLiteColumn, sql: Sql) -> None:
    assert await column.prepare(SPACE) == SPACE
    pending = await every(column)
    assert [(each.id, each.text, each.source) for each in pending] == [
        ("1", "one", "sections"),
        ("2", "two", "sections"),
        ("4", "four", "sections"),
    ]
    assert await fill(column, pending) == 3
    assert await column.count() == 0
    assert await every(column) == []
    expected = [("blob", row.astype("<f4").tobytes()) for row in vectors(3)]
    assert sql("SELECT typeof(embedding), embedding FROM sections WHERE embedding IS NOT NULL ORDER BY id") == expected
    await column.aclose()


async def test_pending_pages_leave_no_transaction_open(path: Path, sql: Sql) -> None:
    sql(SECTIONS)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO sections (content) VALUES (?)", [(f"text {i}",) for i in range(950)])
    column = SQLiteColumn(path, "sections", text="content")
    seen: list[int] = []
    async for record in column.pending():
        if len(seen) % 100 == 0:
            sql("UPDATE sections SET lang = 'seen' WHERE id = ?", int(record.id))
        seen.append(int(record.id))
    assert seen == list(range(1, 951))
    assert len(await every(column, 501)) == 501


async def test_a_row_that_was_edited_stays_pending(path: Path, sql: Sql) -> None:
    sql("CREATE TABLE sections (id INTEGER PRIMARY KEY, content TEXT COLLATE NOCASE, embedding)")
    for content in ["kept", "edited", "Case", "removed", "emptied"]:
        sql("INSERT INTO sections (content) VALUES (?)", content)
    column = SQLiteColumn(path, "sections", text="content")
    pending = await every(column)
    sql("UPDATE sections SET content = 'edited!' WHERE id = 2")
    sql("UPDATE sections SET content = 'case' WHERE id = 3")
    sql("DELETE FROM sections WHERE id = 4")
    sql("UPDATE sections SET content = NULL WHERE id = 5")
    assert await fill(column, pending) == 1
    assert sql("SELECT id FROM sections WHERE embedding IS NOT NULL") == [(1,)]
    assert [each.text for each in await every(column)] == ["edited!", "case"]


@pytest.mark.parametrize("text", ["", "a\0b", " ", "\U0001f600\n", 'it\'s "quoted"'])
async def test_any_text_is_found_again(path: Path, sql: Sql, text: str) -> None:
    sql(SECTIONS)
    sql("INSERT INTO sections (content) VALUES (?)", text)
    column = SQLiteColumn(path, "sections", text="content")
    pending = await every(column)
    assert [each.text for each in pending] == [text]
    assert await fill(column, pending) == 1


KEYS: dict[str, tuple[str, list[tuple[Any, ...]], list[str]]] = {
    "text": ("k TEXT PRIMARY KEY", [("17",), ("a",), ("é\n",)], ['"17"', '"a"', '"é\\n"']),
    "composite": ("a TEXT, b INTEGER, PRIMARY KEY (b, a)", [("z", 1), ("a", 20)], ['[1, "z"]', '[20, "a"]']),
    "without rowid": ("a TEXT, b REAL, PRIMARY KEY (a, b)", [("x", 0.5), ("x", 2.0)], ['["x", 0.5]', '["x", 2.0]']),
    "rowid": ("a TEXT", [("x",), ("x",)], ["1", "2"]),
    "hidden rowid": ("rowid TEXT", [("x",), ("x",)], ["1", "2"]),
    "bytes": ("k BLOB PRIMARY KEY", [(b"\x00\xff",), (b"\x01",)], ['{"hex": "00ff"}', '{"hex": "01"}']),
    "mixed": ("k PRIMARY KEY", [(-1,), (2,), ("2",), (b"2",)], ["-1", "2", '"2"', '{"hex": "32"}']),
}


@pytest.mark.parametrize("kind", KEYS)
async def test_the_key_is_the_primary_key_or_the_rowid(path: Path, sql: Sql, kind: str) -> None:
    columns, values, ids = KEYS[kind]
    names, _, constraint = columns.partition(", PRIMARY KEY")
    tail = " WITHOUT ROWID" if kind == "without rowid" else ""
    sql(f"CREATE TABLE t ({names}, body TEXT, vec BLOB{', PRIMARY KEY' * bool(constraint)}{constraint}){tail}")
    for value in values:
        sql(f"INSERT INTO t VALUES ({'?, ' * len(value)}?, NULL)", *value, f"text of {value}")  # noqa: S608
    column = SQLiteColumn(path, "t", text="body", vector="vec")
    await column.prepare(SPACE)
    pending = await every(column)
    assert [each.id for each in pending] == ids
    assert await fill(column, pending) == len(ids)
    matches = await column.search(vectors(len(ids))[0], len(ids))
    assert (matches[0].id, matches[0].text, matches[0].score) == (ids[0], f"text of {values[0]}", 1.0)
    assert {match.id for match in matches} == set(ids)


@pytest.mark.parametrize("kind", ["text", "composite", "mixed"])
async def test_keys_are_paged_in_their_order(path: Path, sql: Sql, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aembed.stores.sqlite_column.ROWS_PER_PAGE", 1)
    await test_the_key_is_the_primary_key_or_the_rowid(path, sql, kind)


async def test_another_unique_column_may_be_the_key(path: Path, sql: Sql) -> None:
    sql("CREATE TABLE t (id INTEGER PRIMARY KEY, slug TEXT UNIQUE, kind TEXT, body TEXT, embedding BLOB)")
    sql("INSERT INTO t VALUES (1, 'b', 'k', 'text b', NULL), (2, 'a', 'k', 'text a', NULL)")
    assert [each.id for each in await every(SQLiteColumn(path, "t", text="body", key="slug"))] == ['"a"', '"b"']
    pair = SQLiteColumn(path, "t", text="body", key=["kind", "slug"])
    assert [each.id for each in await every(pair)] == ['["k", "a"]', '["k", "b"]']
    assert [each.id for each in await every(SQLiteColumn(path, "t", text="body", key="rowid"))] == ["1", "2"]
    with pytest.raises(ConfigError, match="key kind of table 't' is not unique"):
        await SQLiteColumn(path, "t", text="body", key="kind").prepare(SPACE)
    sql("UPDATE t SET slug = NULL WHERE id = 1")
    with pytest.raises(ConfigError, match="NULL in its key"):
        await SQLiteColumn(path, "t", text="body", key="slug").prepare(SPACE)


# What is found before money is spent


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({"table": "section"}, "no table 'section'; the file has sections"),
        ({"text": "body"}, "no column 'body'; it has content, embedding, id, lang"),
        ({"vector": "vec"}, "no column 'vec'; it has content, embedding, id, lang"),
        ({"vector": "rowid"}, "no column 'rowid'"),
        ({"key": "slug"}, "no column 'slug'; it has"),
        ({"key": ["id", "slug"]}, "no column 'slug'; it has"),
        ({"vector": "content"}, "'content' of 'sections' cannot be filled"),
        ({"key": "lang"}, "key lang of table 'sections' is not unique"),
        ({"table": "seen"}, r"'seen' is a view, .* name the table under it with  --table  \(the file has hidden, sect"),
        ({"table": "hidden", "text": "oid"}, "columns named rowid, _rowid_, oid hide the numbers .* --key"),
    ],
    ids=str,
)
async def test_a_name_that_is_not_there_is_named(
    column: SQLiteColumn, path: Path, sql: Sql, names: dict[str, Any], sentence: str
) -> None:
    sql("CREATE VIEW seen AS SELECT * FROM sections")
    if names.get("table") in ("hidden", "seen"):
        sql("CREATE TABLE hidden (rowid TEXT, _rowid_ TEXT, oid TEXT, embedding BLOB)")
    wrong = SQLiteColumn(path, **{"table": "sections", "text": "content", **names})
    for question in (wrong.prepare(SPACE), wrong.count(), every(wrong), wrong.write(["1"], ["one"], vectors(1))):
        with pytest.raises(ConfigError, match=sentence):
            await question


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800"])
def test_a_name_that_cannot_be_one_is_refused_at_once(path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name"):
        SQLiteColumn(path, name, text="content")
    with pytest.raises(ConfigError, match="cannot be the name"):
        SQLiteColumn(path, "sections", text="content", key=("id", name))


NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


HOSTILE = st.sampled_from(['"', 'x"; DROP TABLE keep; --', "a]b", "select", "t", "?", "{}", "a, b"])


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        # A column of dates has numbers for its affinity, and would make the number 2024 of the text.
        ({"day": {"gte": "2024"}}, ["1"]),
        ({"day": {"lt": "2024"}}, ["2"]),
        ({"day": {"gte": 1}}, ["3"]),
        ({"lang": {"gte": 5}}, []),
        ({"lang": {"gte": "5"}}, ["1", "2", "3"]),
        ({"lang": "EN"}, ["1"]),
        ({"lang": {"gt": "EN", "lt": "z"}}, []),
        ({"id": "2"}, ["2"]),
        ({"id": {"gte": "2"}}, []),
    ],
    ids=str,
)
async def test_a_range_compares_values_of_one_type(path: Path, sql: Sql, where: dict[str, Any], ids: list[str]) -> None:
    sql("CREATE TABLE sections (id INTEGER PRIMARY KEY, content TEXT, lang TEXT COLLATE NOCASE, day DATE, embedding)")
    sql("INSERT INTO sections VALUES (1, 'a', 'en', '2024-01-31', NULL), (2, 'b', 'zz', '2023-12-31', NULL)")
    sql("INSERT INTO sections VALUES (3, 'c', '9', 2460000.5, NULL)")
    column = SQLiteColumn(path, "sections", text="content")
    await column.prepare(SPACE)
    await fill(column, await every(column))
    assert sorted(match.id for match in await column.search(vectors(1)[0], 9, where=where)) == ids
    await column.aclose()


@settings(max_examples=60, deadline=None)
@given(names=st.lists(NAME | HOSTILE, min_size=4, max_size=4, unique_by=str.lower))
async def test_any_name_is_quoted(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("names") / "app.db"
    table, key, text, vector = names
    with closing(sqlite3.connect(path)) as connection, connection:
        t, *columns = ('"' + name.replace('"', '""') + '"' for name in names)
        connection.execute("CREATE TABLE keep (id)")
        connection.execute(f"CREATE TABLE {t} ({', '.join(columns)}, UNIQUE ({columns[0]}))")
        connection.execute(f"INSERT INTO {t} VALUES ('key', 'text', NULL)")  # noqa: S608
    column = SQLiteColumn(path, table, text=text, vector=vector, key=key)
    await column.prepare(SPACE)
    assert await fill(column, await every(column)) == 1
    assert await column.count() == 0
    assert [match.text for match in await column.search(vectors(1)[0], 1, where={key: "key"})] == ["text"]
    await column.aclose()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM keep").fetchone() == (0,)


@pytest.mark.parametrize(
    ("table", "error"),
    [
        ("(id INTEGER PRIMARY KEY, content TEXT, embedding TEXT) STRICT", StoreError),
        ("(id INTEGER PRIMARY KEY, content TEXT, embedding CHECK (length(embedding) = 12))", StoreError),
        ("(id INTEGER PRIMARY KEY, content TEXT, embedding AS (NULL))", ConfigError),
    ],
    ids=["strict", "check", "generated"],
)
async def test_a_column_that_takes_no_vector_is_found_in_prepare(
    path: Path, sql: Sql, table: str, error: type[Exception]
) -> None:
    sql(f"CREATE TABLE sections {table}")
    sql("INSERT INTO sections (content) VALUES ('one')")
    with pytest.raises(error):
        await SQLiteColumn(path, "sections", text="content").prepare(SPACE)


async def test_prepare_leaves_rows_and_journal_as_they_are(column: SQLiteColumn, sql: Sql) -> None:
    sql("CREATE TABLE log (id)")
    sql("CREATE TRIGGER noted AFTER UPDATE ON sections BEGIN INSERT INTO log VALUES (new.id); END")
    await column.prepare(SPACE)
    assert sql("SELECT count(*) FROM sections WHERE embedding IS NOT NULL") == [(0,)]
    assert sql("SELECT * FROM log") == []
    assert sql("PRAGMA journal_mode") == [("delete",)]
    assert await fill(column, await every(column)) == 3
    assert sql("SELECT count(*) FROM log") == [(3,)]


async def test_no_file_is_made(tmp_path: Path) -> None:
    column = SQLiteColumn(tmp_path / "none.db", "t", text="x")
    for question in (column.prepare(SPACE), column.count(), every(column)):
        with pytest.raises(StoreError, match=r"none\.db does not exist; check the path"):
            await question
    assert files(tmp_path) == []


async def test_s16_a_locked_file_is_found_in_prepare(column: SQLiteColumn, path: Path) -> None:
    impatient = SQLiteColumn(path, "sections", text="content", lock_timeout=0.2)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="stayed locked by another process"):
            await impatient.prepare(SPACE)
        other.execute("COMMIT")
    await impatient.prepare(SPACE)


async def test_s19_a_read_only_file_is_found_in_prepare(public_folder: Path, unprivileged: Unprivileged) -> None:
    path = public_folder / "app.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(SECTIONS)
    os.chmod(path, 0o444)
    column = SQLiteColumn(path, "sections", text="content")
    with unprivileged(), pytest.raises(StoreError, match="read-only"):
        await column.prepare(SPACE)
    await column.aclose()


# Spaces


async def test_i16_a_column_keeps_to_one_space(column: SQLiteColumn, path: Path) -> None:
    await column.prepare(Space("fake", "words", 3))
    assert await column.prepare(SPACE) == SPACE
    await fill(column, (await every(column))[:1])
    again = SQLiteColumn(path, "sections", text="content")
    assert await again.prepare(Space("fake", "letters")) == SPACE
    with pytest.raises(SpaceMismatchError) as caught:
        await again.prepare(Space("fake", "words", 4))
    assert "fake:letters, 4 dimensions; asked for was fake:words, 4 dimensions" in str(caught.value)
    assert str(caught.value).endswith('UPDATE "sections" SET "embedding" = NULL')
    with pytest.raises(SpaceMismatchError, match="these vectors have 3 dimensions"):
        await fill(again, await every(again), 3)


async def test_i16_vectors_of_another_width_are_seen(column: SQLiteColumn, sql: Sql) -> None:
    sql("UPDATE sections SET embedding = zeroblob(12) WHERE id = 1")
    with pytest.raises(SpaceMismatchError, match="3 dimensions"):
        await column.prepare(SPACE)
    assert await column.prepare(Space("fake", "letters", 3)) == Space("fake", "letters", 3)


async def test_unknown_dimensions_are_not_kept(column: SQLiteColumn, sql: Sql) -> None:
    assert await column.prepare(Space("fake", "letters")) == Space("fake", "letters")
    assert sql("SELECT name FROM sqlite_master WHERE name = 'aembed_columns'") == []


async def test_a_store_of_aembed_and_a_column_share_a_file(column: SQLiteColumn, path: Path) -> None:
    refusal = Refusal("2", b"fingerprint", "BadRequestError", "not this one")
    store = SQLiteStore(path)
    await store.prepare(SPACE)
    await column.prepare(SPACE)
    await column.refuse([refusal])
    assert await store.refusals() == []
    assert await column.refusals() == [refusal]
    await column.aclose()
    await store.aclose()


@pytest.mark.parametrize("bad", ["63e9", "eda080"], ids=["latin-1", "surrogate"])
async def test_t53_a_text_that_is_not_utf8_fails_alone(path: Path, sql: Sql, bad: str) -> None:
    sql(SECTIONS)
    sql(f"INSERT INTO sections (id, content) VALUES (1, CAST(x'{bad}' AS TEXT)), (2, 'two'), (3, 'é')")  # noqa: S608
    column, failed = SQLiteColumn(path, "sections", text="content"), dict[str, AembedError]()
    async with Embedder("fake:8") as embedder:
        report = await embedder.backfill(column, on_failure=lambda each: failed.update({each.id: each.error}))
    assert (report.stored, report.failed, list(failed)) == (2, 1, ["1"])
    assert "lone surrogate" in str(failed["1"])
    assert sql("SELECT id FROM sections WHERE embedding IS NULL") == [(1,)]
    await column.aclose()


@pytest.mark.parametrize("fingerprint", [None, "seen"])
async def test_t53_a_text_that_is_edited_to_be_no_utf8_is_read_as_far_as_it_can_be(
    path: Path, sql: Sql, fingerprint: str | None
) -> None:
    sql(SECTIONS)
    sql("INSERT INTO sections (id, content) VALUES (1, 'one'), (2, 'two')")
    column = SQLiteColumn(path, "sections", text="content", fingerprint=fingerprint, create_columns=True)
    async with Embedder("fake:8") as embedder:
        assert (await embedder.backfill(column)).stored == 2
        sql("UPDATE sections SET content = CAST(x'63e9' AS TEXT) WHERE id = 1")
        shown = {match.id: match.text for match in await embedder.search(column, "one", k=2)}
        again = await embedder.backfill(column)
    # With a fingerprint no search finds it by its earlier text, and its vector is cleared.
    assert shown == ({"2": "two"} if fingerprint else {"1": "c\ufffd", "2": "two"})
    assert (again.stored, again.failed) == (0, 1 if fingerprint else 0)
    assert [row and row.text for row in await column.get(["1", "2"])] == [None if fingerprint else "c\ufffd", "two"]
    await column.aclose()
