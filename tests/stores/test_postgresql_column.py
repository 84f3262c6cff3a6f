from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aembed.embedder import Embedder
from aembed.errors import ConfigError, SpaceMismatchError, StoreError
from aembed.stores._postgresql._names import quote_name
from aembed.stores.postgresql_column import PostgresColumn
from aembed.types import Record, Refusal, Space
from tests.stage.postgres import run_sql
from tests.stores.samples import SPACE, vectors

Sql = Callable[..., Awaitable[list[Any]]]
Open = Callable[..., PostgresColumn]
INSERT = "INSERT INTO t VALUES ({}, 'text {}')"
SECTIONS = "CREATE TABLE sections (id bigint PRIMARY KEY, content text, lang text, embedding vector(4))"
END_OTHERS = """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
direct = pytest.mark.parametrize("url", ["direct"], indirect=True)
"""For what a pooler does not carry: settings and roles of a connection, a session."""


@pytest.fixture
async def schema(database: str) -> AsyncIterator[str]:
    """A schema of the test's own, first in the path; what aembed keeps is dropped too."""
    name = f"s_{uuid.uuid4().hex[:12]}"
    await run_sql(database, f"CREATE SCHEMA {name}")
    yield name
    await run_sql(database, f"DROP SCHEMA {name} CASCADE", "DROP SCHEMA IF EXISTS aembed CASCADE")


@pytest.fixture(params=["direct", "pooled"])
async def url(request: pytest.FixtureRequest, database: str, schema: str) -> AsyncIterator[str]:
    """The schema is first in the path. A pooler takes no settings at connection: there the path is the database's."""
    if request.param == "direct":
        yield f"{database}?options=-c%20search_path%3D{schema},public"
        return
    pooled, path = request.getfixturevalue("pooled"), f"ALTER DATABASE {urlsplit(database).path[1:]} {{}} search_path"
    await run_sql(database, f"{path.format('SET')} = {schema}, public", END_OTHERS)
    yield pooled
    await run_sql(database, path.format("RESET"), END_OTHERS)


@pytest.fixture
def sql(database: str, schema: str) -> Sql:
    """Statements of the user's own program, on a connection of its own."""

    async def run(*statements: str) -> list[Any]:
        return await run_sql(database, f"SET search_path = {schema}, public", *statements)

    return run


@pytest.fixture
async def column_of(url: str) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        def opened(table: str = "sections", **options: Any) -> PostgresColumn:
            named = options if "text_sql" in options else {"text": "content", **options}
            column = PostgresColumn(named.pop("place", url), table, **named)
            stack.push_async_callback(column.aclose)
            return column

        yield opened


@pytest.fixture
async def column(sql: Sql, column_of: Open) -> PostgresColumn:
    """Three rows with a text, one without."""
    await sql(
        SECTIONS,
        "INSERT INTO sections VALUES (1, 'one', 'en'), (2, 'two', 'de'), (3, NULL, 'en'), (4, 'four', 'en')",
    )
    return column_of()


async def every(column: PostgresColumn, limit: int | None = None) -> list[Record]:
    return [record async for record in column.pending(limit)]


async def fill(column: PostgresColumn, records: Sequence[Record], dimensions: int = 4) -> int:
    matrix = vectors(len(records), dimensions)
    return await column.write([each.id for each in records], [each.text for each in records], matrix)


async def test_it_fills_rows_with_a_text_and_no_vector(column: PostgresColumn, sql: Sql) -> None:
    assert await column.prepare(SPACE) == SPACE
    assert await column.space() == SPACE
    pending = await every(column)
    assert [(each.id, each.text) for each in pending] == [("1", "one"), ("2", "two"), ("4", "four")]
    assert await fill(column, pending) == 3
    assert await column.count() == 0
    assert await every(column) == []
    held = await sql("SELECT vector_send(embedding) FROM sections WHERE embedding IS NOT NULL ORDER BY id")
    assert [sent[4:] for (sent,) in held] == [row.astype(">f4").tobytes() for row in vectors(3)]


async def test_pending_pages_leave_no_transaction_open(sql: Sql, column_of: Open, database: str) -> None:
    await sql(SECTIONS, "INSERT INTO sections SELECT i, 'text ' || i FROM generate_series(1, 1950) AS i")
    seen: list[int] = []
    async for record in column_of().pending():
        if len(seen) % 400 == 0:
            await sql("ALTER TABLE sections ALTER COLUMN lang SET DEFAULT 'x'")
        seen.append(int(record.id))
    assert seen == list(range(1, 1951))
    assert len(await every(column_of(), 1001)) == 1001


KEYS: dict[str, tuple[str, list[str], list[str]]] = {
    "text": ("k text PRIMARY KEY", ["'17'", "'a'", "E'é\\n'"], ['"17"', '"a"', '"é\\n"']),
    "uuid": ("k uuid PRIMARY KEY", ["'" + "a" * 32 + "'"], ['"aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"']),
    "composite": ("a text, b int, PRIMARY KEY (b, a)", ["'z', 1", "'a', 20"], ['[1, "z"]', '[20, "a"]']),
    "numeric": ("k numeric PRIMARY KEY", ["1.50", "12345678901234567890.5"], ["1.50", "12345678901234567890.5"]),
    "double": ("k float8 PRIMARY KEY", ["-1e300", "0.1", "'NaN'"], None),  # type: ignore[dict-item]
    "bool": ("k bool PRIMARY KEY", ["false", "true"], ["false", "true"]),
    "time": ("k timestamptz PRIMARY KEY", ["'2024-02-29 12:00:00.123456+02'"], None),  # type: ignore[dict-item]
    "bytes": ("k bytea PRIMARY KEY", ["'\\x00ff'", "'\\x01'"], ['"\\\\x00ff"', '"\\\\x01"']),
    "enum": ("k mood PRIMARY KEY", ["'sad'", "'ok'"], ['"sad"', '"ok"']),
    "array": ("k int[] PRIMARY KEY", ["'{1,2}'", "'{3}'"], ['"{1,2}"', '"{3}"']),
    "jsonb": ("k jsonb PRIMARY KEY", ["'{\"a\": 1}'"], None),  # type: ignore[dict-item]
    "char": ("k char(5) PRIMARY KEY", ["'ab'", "'b'"], None),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("page", [1, 500])
async def test_the_key_may_be_of_any_type(
    sql: Sql, column_of: Open, kind: str, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.stores._postgresql._filling.ROWS_PER_PAGE", page)
    columns, values, ids = KEYS[kind]
    names, _, constraint = columns.partition(", PRIMARY KEY")
    await sql(
        "CREATE TYPE mood AS ENUM ('sad', 'ok')",
        f"CREATE TABLE t ({names}, body text, vec vector(4){', PRIMARY KEY' * bool(constraint)}{constraint})",
        *(INSERT.format(value, i) for i, value in enumerate(values)),
    )
    column = column_of("t", text="body", vector="vec")
    await column.prepare(SPACE)
    pending = await every(column)
    assert [each.text for each in pending] == [f"text {i}" for i in range(len(values))]
    assert ids is None or [each.id for each in pending] == ids
    assert await fill(column, pending) == len(values)
    matches = await column.search(vectors(len(values))[0], len(values))
    assert (matches[0].id, matches[0].text, matches[0].score) == (pending[0].id, "text 0", 1.0)


async def test_another_unique_column_may_be_the_key(sql: Sql, column_of: Open) -> None:
    await sql(
        "CREATE TABLE sections (id int, slug text UNIQUE, kind text, content text, embedding vector(4))",
        "INSERT INTO sections VALUES (1, 'b', 'k', 'text b'), (2, 'a', 'k', 'text a')",
    )
    assert [each.id for each in await every(column_of(key="slug"))] == ['"a"', '"b"']
    assert [each.id for each in await every(column_of(key=["kind", "slug"]))] == ['["k", "a"]', '["k", "b"]']
    with pytest.raises(ConfigError, match="has no primary key; name columns"):
        await column_of().prepare(SPACE)
    with pytest.raises(ConfigError, match=r"key kind of table .* is not unique"):
        await column_of(key="kind").prepare(SPACE)
    await sql("UPDATE sections SET slug = NULL WHERE id = 1")
    with pytest.raises(ConfigError, match="NULL in its key"):
        await column_of(key="slug").prepare(SPACE)


async def test_where_and_text_sql_are_the_users_own_sql(column: PostgresColumn, sql: Sql, column_of: Open) -> None:
    await sql("CREATE FUNCTION shout(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)'")
    english = column_of(text_sql="lang || ': ' || shout(content)", where="lang = 'en' OR lang = 'fr' -- ours")
    await english.prepare(SPACE)
    assert await english.count() == 2
    pending = await every(english)
    assert [(each.id, each.text) for each in pending] == [("1", "en: ONE"), ("4", "en: FOUR")]
    await sql("UPDATE sections SET lang = 'fr' WHERE id = 4")
    assert await fill(english, pending) == 1
    assert [match.text for match in await english.search(vectors(1)[0], 9)] == ["en: ONE"]
    with pytest.raises(ConfigError, match=r"--where .* syntax error"):
        await column_of(where="lang = = 1").prepare(SPACE)


@pytest.mark.parametrize("kind", ["text", "bytea"])
async def test_a_fingerprint_shows_rows_whose_text_changed(
    column: PostgresColumn, sql: Sql, column_of: Open, kind: str
) -> None:
    await sql(f"ALTER TABLE sections ADD COLUMN seen {kind}")
    marked = column_of(fingerprint="seen")
    await marked.prepare(SPACE)
    assert await fill(marked, await every(marked)) == 3
    assert await marked.count() == 0
    await sql("UPDATE sections SET content = 'two!' WHERE id = 2")
    assert [(each.id, each.text) for each in await every(marked)] == [("2", "two!")]
    assert await fill(marked, await every(marked)) == 1
    assert await marked.count() == 0


# What is found before money is spent


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({"table": "section"}, 'no table "section"; the schema has sections'),
        ({"text": "body"}, "no column 'body'; it has id, content, lang, embedding"),
        ({"vector": "vec"}, "no column 'vec'.* --create-columns"),
        ({"key": "slug"}, "no column 'slug'"),
        ({"fingerprint": "seen"}, "no column 'seen'"),
        ({"vector": "lang"}, "column 'lang' of \"sections\" is text, not a vector"),
        ({"key": "lang"}, 'key lang of table "sections" is not unique'),
    ],
    ids=str,
)
async def test_s13_a_name_that_is_not_there_is_named(
    column: PostgresColumn, column_of: Open, names: dict[str, Any], sentence: str
) -> None:
    wrong = column_of(**names)
    for question in (wrong.prepare(SPACE), wrong.count(), every(wrong), wrong.write(["1"], ["one"], vectors(1))):
        with pytest.raises(ConfigError, match=sentence):
            await question


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * 64])
def test_z4_a_name_that_cannot_be_one_is_refused_at_once(name: str) -> None:
    for named in ({"text": name}, {"text": "a", "key": ("id", name)}, {"text": "a", "vector": name}):
        with pytest.raises(ConfigError, match="name"):
            PostgresColumn("postgresql://h/db", "sections", **named)  # type: ignore[arg-type]


def test_the_text_is_a_column_or_an_expression() -> None:
    for named in ({}, {"text": "a", "text_sql": "b"}):
        with pytest.raises(ConfigError, match="text_sql"):
            PostgresColumn("postgresql://h/db", "sections", **named)
    with pytest.raises(ConfigError, match="cannot be filled"):
        PostgresColumn("postgresql://h/db", "sections", text="a", vector="a")


NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
HOSTILE = st.sampled_from(['"', 'x"; DROP TABLE keep; --', "a.b", "select", "t", "$1", "{}", "a, b", "it's"])


@settings(max_examples=40, deadline=None)
@given(names=st.lists(NAME | HOSTILE, min_size=5, max_size=5, unique=True))
async def test_z4_any_name_is_quoted(database: str, names: list[str]) -> None:
    schema, key, text, vector, mark = names
    schema = f"s {schema}"
    k, t, v, m = map(quote_name, (key, text, vector, mark))
    table = f"{quote_name(schema)}.{quote_name(key)}"
    await run_sql(
        database,
        f"DROP SCHEMA IF EXISTS {quote_name(schema)} CASCADE",
        f"CREATE SCHEMA {quote_name(schema)}",
        f"CREATE TABLE {table} ({k} text PRIMARY KEY, {t} text, {v} vector(4), {m} text)",
        f"INSERT INTO {table} VALUES ('key', 'text')",  # noqa: S608
    )
    column = PostgresColumn(database, table, text=text, vector=vector, key=key, fingerprint=mark)
    await column.prepare(SPACE)
    assert await fill(column, await every(column)) == 1
    assert await column.count() == 0
    assert [match.text for match in await column.search(vectors(1)[0], 1, where={key: "key"})] == ["text"]
    await column.aclose()


async def test_s11_the_width_of_the_column_is_compared_before_paying(column: PostgresColumn, sql: Sql) -> None:
    with pytest.raises(SpaceMismatchError, match=r"is vector\(4\), the model gives 8; add --dimensions 4"):
        await column.prepare(Space("fake", "letters", 8))
    await sql("ALTER TABLE sections ALTER COLUMN embedding TYPE vector")
    await sql("UPDATE sections SET embedding = '[1,2,3]' WHERE id = 1")
    with pytest.raises(SpaceMismatchError, match=r"vector\(3\), the model gives 4"):
        await column.prepare(SPACE)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE sections ADD CHECK (embedding IS NULL)",
        "ALTER TABLE sections ADD COLUMN n int GENERATED ALWAYS AS (1 / (vector_dims(embedding) - 4)) STORED",
    ],
    ids=["check", "generated"],
)
async def test_s13_a_table_that_takes_no_vector_is_found_in_prepare(
    column: PostgresColumn, sql: Sql, change: str
) -> None:
    await sql(change)
    with pytest.raises(StoreError):
        await column.prepare(SPACE)


@direct
async def test_s13_permissions_and_policies_are_found_in_prepare(
    column: PostgresColumn, sql: Sql, schema: str, url: str, column_of: Open, caplog: pytest.LogCaptureFixture
) -> None:
    role = f"r_{schema}"
    place = url.replace("postgres@", f"{role}:x@", 1)
    await sql(f"CREATE ROLE {role} LOGIN PASSWORD 'x'", f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    try:
        with pytest.raises(StoreError, match="permission denied for table sections"):
            await column_of(place=place).prepare(SPACE)
        await sql(f"GRANT SELECT ON sections TO {role}")
        with pytest.raises(StoreError, match="permission denied for table sections"):
            await column_of(place=place).prepare(SPACE)
        await sql(f"GRANT UPDATE (embedding) ON sections TO {role}")
        modest = column_of(place=place)
        with caplog.at_level(logging.WARNING, "aembed"):
            await modest.prepare(SPACE)
        assert "may not create the schema aembed" in caplog.text
        assert await modest.space() is None
        assert await fill(modest, await every(modest)) == 3
        await modest.refuse([Refusal("1", b"fingerprint", "BadRequestError", "not this one")])
        assert await modest.refusals() == []
        assert await modest.preflight(SPACE) == []
        with pytest.raises(StoreError, match=r'only the owner of .*"sections" may add "vec"'):
            await column_of(place=place, vector="vec", create_columns=True).preflight(SPACE)
        await sql(
            "UPDATE sections SET embedding = NULL",
            "ALTER TABLE sections ENABLE ROW LEVEL SECURITY",
            f"CREATE POLICY seen ON sections FOR SELECT TO {role} USING (true)",
        )
        with pytest.raises(StoreError, match="row-level security"):
            await column_of(place=place).prepare(SPACE)
    finally:
        await sql(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@direct
async def test_s13_a_read_only_server_is_found_in_prepare(column: PostgresColumn, url: str, column_of: Open) -> None:
    place = url.replace("options=", "options=-c%20default_transaction_read_only%3Don%20")
    with pytest.raises(StoreError, match="read-only; connect to the primary"):
        await column_of(place=place).prepare(SPACE)


@direct
@pytest.mark.parametrize(("dimensions", "type"), [(1_536, "vector(1536)"), (3_072, "halfvec(3072)")])
async def test_s12_columns_are_added_as_pgvector_can_index_them(
    sql: Sql, column_of: Open, dimensions: int, type: str
) -> None:
    await sql("CREATE TABLE sections (id int PRIMARY KEY, content text)", "INSERT INTO sections VALUES (1, 'one')")
    column = column_of(create_columns=True, fingerprint="embedded")
    space = Space("fake", "large", dimensions)
    vector, mark, *_ = await column.preflight(space, index=True)
    assert (type in vector, '"embedded" bytea' in mark) == (True, True)
    unknown = await column.preflight(Space("fake", "large"), index=True)
    assert [line.partition("aembed_")[2][:5] for line in unknown] == ["", "words"]
    await column.prepare(space)
    lines = await column.preflight(space, index=True)
    assert [line.partition("aembed_")[2][:5] for line in lines] == ["hnsw_", "words"]
    await column.create_index()
    await column.index_words()
    assert await column.preflight(space, index=True) == []
    assert await sql(
        """SELECT attname, format_type(atttypid, atttypmod), attstorage::text FROM pg_attribute
        WHERE attrelid = 'sections'::regclass AND attname LIKE 'embed%' ORDER BY 1"""
    ) == [("embedded", "bytea", "x"), ("embedding", type, "e")]
    assert await fill(column, await every(column), dimensions) == 1
    assert await column.count() == 0


@direct
async def test_too_wide_a_column_is_refused_before_it_is_added(column: PostgresColumn, column_of: Open) -> None:
    wide = column_of(vector="wide", create_columns=True)
    with pytest.raises(ConfigError, match="16,000"):
        await wide.preflight(Space("fake", "large", 20_000))
    with pytest.raises(ConfigError, match="4,000 dimensions"):
        await wide.preflight(Space("fake", "large", 5_000), index=True)


async def test_prepare_leaves_the_rows_as_they_are(column: PostgresColumn, sql: Sql) -> None:
    await sql(
        "CREATE TABLE log (id int)",
        """CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO log VALUES (new.id); RETURN new; END $$""",
        "CREATE TRIGGER noted AFTER UPDATE ON sections FOR EACH ROW EXECUTE FUNCTION note()",
    )
    await column.prepare(SPACE)
    assert await sql("SELECT FROM sections WHERE embedding IS NOT NULL") == []
    assert await sql("SELECT * FROM log") == []
    assert await fill(column, await every(column)) == 3
    assert len(await sql("SELECT * FROM log")) == 3


async def test_halfvec_columns_are_filled(sql: Sql, column_of: Open) -> None:
    await sql(
        "CREATE TABLE sections (id int PRIMARY KEY, content text, embedding halfvec(3072))",
        "INSERT INTO sections VALUES (1, 'one'), (2, 'two')",
    )
    column = column_of()
    await column.prepare(Space("fake", "large", 3072))
    assert await fill(column, await every(column), 3072) == 2
    (match, *_) = await column.search(vectors(2, 3072)[1], 1)
    assert (match.id, round(match.score, 5)) == ("2", 1.0)


@direct
async def test_a_pool_is_left_as_it_was(column: PostgresColumn, url: str, column_of: Open) -> None:
    async def init(connection: Any) -> None:
        await connection.set_type_codec("vector", schema="public", encoder=str, decoder=lambda text: ("ours", text))

    path = {"search_path": url.rpartition("%3D")[2]}
    pool = await asyncpg.create_pool(url.partition("?")[0], min_size=1, max_size=1, init=init, server_settings=path)
    own = column_of(place=pool)
    await own.prepare(SPACE)
    assert await fill(own, await every(own)) == 3
    assert (await pool.fetchval("SELECT embedding FROM sections WHERE id = 1"))[0] == "ours"
    await own.aclose()
    await pool.close()


@direct
@pytest.mark.parametrize("type", ["vector", "halfvec"])
@pytest.mark.parametrize("is_pool", [False, True])
async def test_every_piece_of_a_write_is_filled_by_its_whole_key(
    type: str, is_pool: bool, sql: Sql, url: str, column_of: Open
) -> None:
    dimensions, count = 1_536, 400
    await sql(
        f"CREATE TABLE sections (part text, number int, content text, embedding {type}, PRIMARY KEY (part, number))",
        f"INSERT INTO sections SELECT 'a \"b\"', i, 'section ' || i FROM generate_series(1, {count}) AS i",  # noqa: S608
    )
    path = {"search_path": url.rpartition("%3D")[2]}
    async with asyncpg.create_pool(url.partition("?")[0], min_size=1, server_settings=path) as pool:
        column = column_of(place=pool) if is_pool else column_of()
        await column.prepare(Space("fake", "large", dimensions))
        records, matrix = await every(column), vectors(count, dimensions)
        texts = [record.text for record in records]
        assert await column.write([record.id for record in records], ["edited since", *texts[1:]], matrix) == count - 1
        found = await column.get([record.id for record in records])
        assert found[0] is None
        rows = np.stack([row.vector for row in found[1:] if row is not None])
        np.testing.assert_allclose(rows, matrix[1:], rtol=0, atol=2e-3 if type == "halfvec" else 0)
        await column.aclose()


# Spaces


# With an Embedder


async def test_backfill_fills_the_table_and_finds_nothing_the_second_time(sql: Sql, column_of: Open) -> None:
    await sql(
        "CREATE TABLE sections (id int PRIMARY KEY, content text, embedding vector)",
        "INSERT INTO sections SELECT i, 'section ' || i FROM generate_series(1, 3000) AS i",
    )
    column = column_of()
    async with Embedder("fake:8") as embedder:
        report = await embedder.backfill(column)
        assert (report.stored, report.failed, report.pending) == (3000, 0, 0)
        again = await embedder.backfill(column)
        assert (again.inputs, again.requests) == (0, 0)
        (match,) = await embedder.search(column, "section 17", k=1)
        assert (match.id, match.text) == ("17", "section 17")


# Many workers


async def take(column: PostgresColumn, n: int) -> list[Record]:
    """The first n, while the pass goes on: what was read stays held."""
    taken: list[Record] = []
    async with aclosing(column.pending()) as pending:
        async for record in pending:
            taken.append(record)
            if len(taken) == n:
                break
    return taken


@pytest.fixture
async def long(sql: Sql) -> None:
    await sql(SECTIONS, "INSERT INTO sections SELECT i, 'section ' || i FROM generate_series(1, 1200) AS i")


async def test_a_limit_claims_no_more_rows_than_it_needs(long: None, column_of: Open, sql: Sql) -> None:
    column, other = column_of(), column_of()
    await column.prepare(SPACE)
    assert len(await every(column, 7)) == 7
    assert await sql("SELECT count(*) FROM aembed.leases") == [(7,)]
    async with Embedder("fake:8", dimensions=4) as embedder:
        report = await embedder.backfill(other, limit=5)
    assert (report.stored, report.inputs) == (5, 5)
    assert await sql("SELECT id FROM sections WHERE embedding IS NOT NULL ORDER BY 1") == [(id,) for id in range(8, 13)]


async def test_c6_two_workers_never_hold_the_same_row(
    long: None, column_of: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.stores._postgresql._filling.ROWS_PER_PAGE", 100)
    workers = [column_of() for _ in range(3)]
    for worker in workers:
        await worker.prepare(SPACE)
    taken = await asyncio.gather(*(take(worker, 150) for worker in workers))
    ids = [record.id for records in taken for record in records]
    assert len(ids) == len(set(ids)) == 450
    for worker, records in zip(workers, taken, strict=True):
        assert await fill(worker, records) == 150
    for worker in workers[1:]:
        await worker.aclose()
    assert len(await every(workers[0])) == 1200 - 450


async def test_c7_rows_of_a_worker_that_is_gone_are_taken_over_and_its_late_write_changes_nothing(
    column: PostgresColumn, sql: Sql, column_of: Open
) -> None:
    zombie, heir = column_of(lease_seconds=0.6), column_of()
    await zombie.prepare(SPACE)
    await heir.prepare(SPACE)
    held = await take(zombie, 3)
    assert zombie._worker is not None
    await zombie._worker.stop_beating()
    began = asyncio.get_running_loop().time()
    taken = await every(heir)
    assert 0.2 < asyncio.get_running_loop().time() - began < 5
    assert [record.id for record in taken] == [record.id for record in held]
    assert await fill(zombie, held) == 0
    assert await fill(heir, taken) == 3
    assert await sql("SELECT FROM aembed.leases") == []


async def test_c7_rows_that_are_given_up_behind_a_pass_are_found_by_the_next(
    column: PostgresColumn, sql: Sql, column_of: Open
) -> None:
    """The lease runs out while the heir is busy with later rows, so that nobody works any more once it asks."""
    zombie, heir = column_of(lease_seconds=0.5), column_of()
    await zombie.prepare(SPACE)
    await heir.prepare(SPACE)
    held = await take(zombie, 3)
    assert zombie._worker is not None
    await zombie._worker.stop_beating()
    await sql("INSERT INTO sections VALUES (11, 'later 1', 'en'), (12, 'later 2', 'en')")
    taken = []
    async for record in heir.pending():
        taken.append(record)
        if len(taken) == 1:
            while await heir._has_other_workers():  # noqa: ASYNC110 - it is the database that tells
                await asyncio.sleep(0.05)
    assert sorted(record.text for record in taken) == sorted([*(each.text for each in held), "later 1", "later 2"])


class Overtaken(PostgresColumn):
    """Asks whether others work, and is overtaken by one before it looks for rows itself."""

    overtake: Callable[[], Awaitable[object]] | None = None

    async def _has_other_workers(self) -> bool:
        answer = await super()._has_other_workers()
        overtake, self.overtake = self.overtake, None
        if overtake:
            await overtake()
        return answer


async def test_c7_a_worker_that_was_overtaken_waits_for_what_the_other_may_leave(
    column: PostgresColumn, url: str, column_of: Open
) -> None:
    first = column_of(lease_seconds=0.5)
    second = Overtaken(url, "sections", text="content")
    await first.prepare(SPACE)
    await second.prepare(SPACE)

    async def take_and_die() -> None:
        await take(first, 3)
        assert first._worker is not None
        await first._worker.stop_beating()

    second.overtake = take_and_die
    assert [record.id for record in await every(second)] == ["1", "2", "4"]
    await second.aclose()


async def test_c7_a_worker_that_lives_keeps_its_rows(column: PostgresColumn, column_of: Open) -> None:
    slow, other = column_of(lease_seconds=0.3), column_of(lease_seconds=0.3)
    await slow.prepare(SPACE)
    await other.prepare(SPACE)
    held = await take(slow, 3)
    waiting = asyncio.create_task(every(other))
    done, _ = await asyncio.wait([waiting], timeout=1.2)
    assert not done
    assert await fill(slow, held) == 3
    assert await asyncio.wait_for(waiting, 10) == []


async def test_c7_a_worker_that_was_idle_for_long_is_alive_again_when_it_goes_on(
    column: PostgresColumn, column_of: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a provider that answered nobody for a while."""
    monkeypatch.setattr("aembed.stores._postgresql._leases.IDLE_SECONDS", 0.3)
    slow, other = column_of(lease_seconds=2.0), column_of(lease_seconds=2.0)
    await slow.prepare(SPACE)
    await other.prepare(SPACE)
    held = await take(slow, 3)
    await asyncio.sleep(0.7)
    waiting = asyncio.create_task(every(other))
    for _ in range(12):
        await slow.fail([])
        await asyncio.sleep(0.2)
    assert not waiting.done()
    assert await fill(slow, held) == 3
    assert await asyncio.wait_for(waiting, 10) == []


async def test_c7_nobody_waits_for_a_row_that_failed(column: PostgresColumn, column_of: Open) -> None:
    first, second = column_of(), column_of()
    await first.prepare(SPACE)
    await second.prepare(SPACE)
    held = await take(first, 3)
    await first.fail([record.id for record in held])
    assert await asyncio.wait_for(every(second), 10) == []
    await first.aclose()
    assert len(await every(second)) == 3


async def test_c6_three_embedders_share_a_table_and_no_row_is_paid_twice(
    sql: Sql, column_of: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.stores._postgresql._leases.MOST_CLAIMED", 600)
    await sql(
        "CREATE TABLE sections (id int PRIMARY KEY, content text, embedding vector)",
        "INSERT INTO sections SELECT i, 'section ' || i FROM generate_series(1, 5000) AS i",
        "INSERT INTO sections VALUES (0, ' ')",
    )

    async def work(late: float) -> tuple[int, int, int]:
        await asyncio.sleep(late)
        async with Embedder("fake:8", max_batch_size=100) as embedder:
            column = column_of()
            report = await embedder.backfill(column)
            await column.aclose()
            return report.stored, report.requests, report.failed

    reports = await asyncio.gather(work(0), work(0), work(0.2))
    assert sum(stored for stored, *_ in reports) == 5000
    assert await sql("SELECT id FROM sections WHERE embedding IS NULL") == [(0,)]
    assert await sql("SELECT FROM aembed.leases") == []
    async with Embedder("fake:8") as embedder:
        column = column_of()
        (match,) = await embedder.search(column, "section 4321", k=1)
        assert match.id == "4321"


async def test_without_the_tables_of_leases_one_worker_fills_alone(
    column: PostgresColumn, sql: Sql, column_of: Open
) -> None:
    await column.prepare(SPACE)
    await sql("DROP TABLE aembed.leases, aembed.workers")
    alone = column_of()
    await alone.prepare(SPACE)
    assert await fill(alone, await every(alone)) == 3


# Indexes


@direct
async def test_s12_a_wide_column_is_indexed_as_halfvec(sql: Sql, column_of: Open, url: str) -> None:
    await sql(
        'CREATE TABLE sections (id int PRIMARY KEY, content text, lang text, "the vector" vector(3072))',
        "INSERT INTO sections SELECT i, 'text ' || i, 'l' || i % 5 FROM generate_series(1, 300) AS i",
    )
    scans = "options=-c%20enable_seqscan%3Doff%20-c%20enable_sort%3Doff%20"
    column = column_of(vector="the vector", place=url.replace("options=", scans))
    await column.prepare(Space("fake", "large", 3072))
    assert await fill(column, await every(column), 3072) == 300
    await column.create_index(memory="64MB")
    await sql("ANALYZE sections")
    found = await column.search(vectors(300, 3072)[41], 5)
    assert (found[0].id, found[0].score, len(found)) == ("42", 1.0, 5)
    assert len(await column.search(vectors(1, 3072)[0], 50, where={"lang": "l2"})) == 50
    await column.aclose()
    used = await sql("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname LIKE 'aembed_hnsw%'")
    assert used[0][0] > 0


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"day": {"gte": 2024}}, r"where\['day'\]: 2024 is a number, and column 'day' of .* is .*date"),
        ({"lang": {"gte": 2024}}, "2024 is a number, and column 'lang' of .*; compare it with a str"),
        ({"day": {"gte": "soon"}}, "a value is not what its column of .* holds .'day' is .*date"),
        ({"day": "2024-13-01"}, "a value is not what its column of .* holds"),
        ({"id": "x", "lang": "en"}, "'id' is .*int8.*, 'lang' is .*text"),
        ({"id": {"gte": "x"}}, "a value is not what its column of .* holds"),
        ({"id": [1, 2.5]}, "a value is not what its column of .* holds"),
        ({"small": 100_000}, "a value is not what its column of .* holds"),
    ],
    ids=str,
)
@direct
async def test_a_filter_that_the_columns_type_cannot_be(
    sql: Sql, column_of: Open, url: str, where: dict[str, Any], says: str
) -> None:
    await sql(SECTIONS, "ALTER TABLE sections ADD COLUMN day date, ADD COLUMN small smallint")
    await sql("INSERT INTO sections VALUES (1, 'one', 'en')")
    column = column_of()
    await column.prepare(SPACE)
    await column.write(["1"], ["one"], vectors(1))
    with pytest.raises(ConfigError, match=says):
        await column.search(vectors(1)[0], 1, where=where)
    assert len(await column.search(vectors(1)[0], 1, where={"id": 1})) == 1
