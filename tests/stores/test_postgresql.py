from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import asyncpg
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aembed.embedder import Embedder
from aembed.errors import ConfigError, InputError, SpaceMismatchError, StoreError
from aembed.providers.fake import FakeProvider
from aembed.stores._postgresql._kept import MOST_KEY_BYTES
from aembed.stores._postgresql._names import parse_name, quote_name
from aembed.stores.postgresql import PostgresStore
from aembed.stores.postgresql_column import PostgresColumn
from aembed.types import Matrix, Record, Rows, Space
from tests.stage.postgres import drop_database, free_port, run_sql, with_database
from tests.stores.samples import SPACE, digests, fingerprint, fingerprints, rows, unit, vectors

TYPE_OF = """SELECT format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = '{}'::regclass AND attname = 'embedding'"""
KILL_COPY = """SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'COPY%'
    AND datname = current_database() AND pg_terminate_backend(pid)"""
NO_SCANS = "-c%20enable_seqscan%3Doff%20-c%20enable_sort%3Doff"
"""A small table is read faster than its index."""
ODD_INDEXES = "SELECT count(*) FROM pg_indexes WHERE tablename = '{}' AND indexname LIKE 'aembed_odd_%'"
DROP_ODD = """DO $$ DECLARE found text; BEGIN FOR found IN SELECT indexname FROM pg_indexes
    WHERE tablename = '{}' AND indexname LIKE 'aembed_odd_%' LOOP EXECUTE 'DROP INDEX ' || found; END LOOP; END $$"""
INDEX_SCANS = """SELECT idx_scan AS scans, pg_get_indexdef(indexrelid) AS definition FROM pg_stat_user_indexes
    WHERE relname = '{}' AND indexrelname LIKE 'aembed_hnsw%'"""
CANARY = "canary-7f3a-in-the-text"


@pytest.fixture(params=["direct", "pooled"])
def place(request: pytest.FixtureRequest, database: str) -> str:
    """The database itself, or by way of a pooler in transaction mode."""
    return database if request.param == "direct" else str(request.getfixturevalue("pooled"))


@pytest.fixture
async def store(place: str, table: str) -> AsyncIterator[PostgresStore]:
    async with opened(place, table=table) as store:
        await store.prepare(SPACE)
        yield store


@asynccontextmanager
async def opened(place: Any, **options: Any) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(place, **options)
    try:
        yield store
    finally:
        await store.aclose()


async def ids(store: PostgresStore) -> list[str]:
    return [row.id async for row in store.rows()]


async def as_role(database: str, role: str, *statements: str) -> str:
    """A URL of a new role that may log in."""
    await run_sql(database, f"CREATE ROLE {role} LOGIN PASSWORD 'x'", *statements)
    return database.replace("postgres@", f"{role}:x@", 1)


# What PostgreSQL cannot hold is refused before it is paid for


@pytest.mark.parametrize(
    "record",
    [
        Record("a\0b", "text"),
        Record("a", "te\0xt"),
        Record("a", "text", source="s\0"),
        Record("a", "text", {"k\0": 1}),
        Record("a", "text", {"k": ["\\\0"]}),
    ],
    ids=["id", "text", "source", "key", "value"],
)
def test_i8_nul_is_rejected(record: Record) -> None:
    rejection = PostgresStore("postgresql://h/db").reject(record)
    assert isinstance(rejection, InputError)
    assert "NUL" in str(rejection)


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "EUC_JP"])
async def test_i8_what_the_encoding_of_the_database_has_not_fails_alone(
    postgres: str, table: str, encoding: str
) -> None:
    await run_sql(postgres, f"CREATE DATABASE {table} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    place = with_database(postgres, table)
    await run_sql(place, "CREATE EXTENSION vector")
    store, provider = PostgresStore(place), FakeProvider("fake", 4)
    odd = [Record("text", "😀"), Record("😀", "id"), Record("source", "x", source="😀"), Record("key", "x", {"😀": 1})]
    async with Embedder(provider) as embedder:
        report = await embedder.embed_into(store, [Record("plain", "one"), *odd, Record("last", "two")])
    assert (report.stored, report.failed, provider.ledger.texts) == (2, 4, 2)
    assert "the encoding of the database" in str(store.reject(odd[0]))
    await store.aclose()
    drop_database(postgres, table)


async def test_i12_the_longest_id_is_stored_and_a_longer_one_rejected(store: PostgresStore) -> None:
    text = "".join(map(chr, np.random.default_rng(1).integers(0x21, 0x7E, MOST_KEY_BYTES)))
    await store.write(replace(rows(["x"]), ids=[text], sources=[text[::-1]]))
    assert await ids(store) == [text]
    assert store.reject(Record(text, "text", source=text)) is None
    assert "2,692" in str(store.reject(Record(text + "x", "text")))
    assert "2,692" in str(store.reject(Record("a", "text", source=text + "x")))
    with pytest.raises(StoreError, match="54000"):
        await store.write(replace(rows(["x"]), ids=[text + "x"]))


# Names


NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=15)
HOSTILE = st.sampled_from(['"', 'x"; DROP TABLE keep; --', "a.b", "select", "%s", "$1", "{rows}", "it's", "a b", "\\"])


@settings(max_examples=40, deadline=None)
@given(schema=NAME | HOSTILE, table=NAME | HOSTILE)
async def test_z4_any_name_is_quoted(database: str, schema: str, table: str) -> None:
    schema = f"s {schema}"
    await run_sql(
        database, f"DROP SCHEMA IF EXISTS {quote_name(schema)} CASCADE", f"CREATE SCHEMA {quote_name(schema)}"
    )
    async with opened(database, table=f"{quote_name(schema)}.{quote_name(table)}") as store:
        await store.prepare(SPACE)
        await store.write(rows(["a"]))
        await store.write(rows(["a", "b"]))
        assert await ids(store) == ["a", "b"]
        assert (await store.info()).rows == 2
    found = await run_sql(database, f"SELECT count(*) FROM {quote_name(schema)}.{quote_name(table)}")  # noqa: S608
    assert found[0][0] == 2


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", "x" * 64, "é" * 32])
def test_z4_a_name_that_would_be_cut_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        quote_name(name)


@pytest.mark.parametrize("text", ["a.b.c", "a.", ".a", 'a"b', "", '"a"b', "x" * 55])
def test_z4_a_table_that_cannot_be_one_is_refused_at_once(text: str) -> None:
    with pytest.raises(ConfigError):
        PostgresStore("postgresql://h/db", table=text or '""')


def test_a_name_is_read_with_its_schema() -> None:
    assert str(parse_name("Notes")) == '"Notes"'
    assert str(parse_name("app.notes")) == '"app"."notes"'
    assert str(parse_name('"a.b"."c""d"')) == '"a.b"."c""d"'


async def test_z5_names_in_front_of_ours_change_nothing(database: str, table: str) -> None:
    await run_sql(
        database,
        "DROP SCHEMA IF EXISTS evil CASCADE",
        "CREATE SCHEMA evil",
        "CREATE DOMAIN evil.vector AS text",
        "CREATE FUNCTION evil.vector_send(public.vector) RETURNS bytea LANGUAGE sql AS $$ SELECT ''::bytea $$",
        "CREATE FUNCTION evil.count(\"any\") RETURNS bigint LANGUAGE internal AS 'pg_backend_pid'",
        "CREATE FUNCTION evil.never(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false'",
        "CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never)",
    )
    path = quote("-c search_path=evil,pg_catalog,public", safe="")
    async with opened(f"{database}?options={path}", table=f"public.{table}") as store:
        await store.prepare(SPACE)
        matrix = vectors(2)
        await store.write(rows(["a", "b"], matrix))
        assert (await store.known(digests(["a"]), {})).unchanged == {"a"}
        assert (await store.vectors({fingerprint("b")}))[fingerprint("b")].tobytes() == matrix[1].tobytes()
        assert (await store.info()).rows == 2


# Widths and types


async def test_s12_more_than_2000_dimensions_are_stored_as_halfvec(place: str, database: str, table: str) -> None:
    async with opened(place, table=table) as store:
        await store.prepare(Space("fake", "large", 3072))
        matrix = vectors(3, 3072)
        await store.write(rows(["a", "b", "c"], matrix))
        await store.write(rows(["a", "b", "c", "d"], vectors(4, 3072)))
        (match, *_) = await store.search(matrix[1], 1)
        assert (match.id, round(match.score, 5)) == ("b", 1.0)
        with pytest.raises(StoreError, match="65,504"):
            await store.write(rows(["e"], np.full((1, 3072), 70_000, np.float32)))
    kind = await run_sql(database, TYPE_OF.format(table))
    assert kind[0][0] == "halfvec(3072)"


async def test_storage_is_chosen_in_the_url_or_by_the_option(place: str, table: str) -> None:
    async with opened(f"{place}?table={table}&storage=halfvec") as store:
        await store.prepare(SPACE)
        await store.write(rows(["a"], unit(1, 2, 3, 4)[None]))
        assert (await store.vectors({fingerprint("a")}))[fingerprint("a")].tolist() == [1, 2, 3, 4]
    with pytest.raises(ConfigError, match="storage='float'"):
        PostgresStore(place, storage="float")  # type: ignore[arg-type]


async def test_s12_more_dimensions_than_can_be_stored_are_refused(place: str, table: str) -> None:
    async with opened(place, table=table) as store:
        with pytest.raises(ConfigError, match="16,000"):
            await store.prepare(Space("fake", "huge", 16_001))


async def test_s11_another_width_is_refused_by_the_server_too(store: PostgresStore, place: str, table: str) -> None:
    async with opened(place, table=table) as other:
        await other.prepare(Space("fake", "words", 3))
    with pytest.raises(SpaceMismatchError, match="expected 3 dimensions, not 4"):
        await store.write(rows(["a"]))


async def test_the_text_can_be_left_out(place: str, table: str) -> None:
    async with opened(place, table=table, store_text=False) as store:
        await store.prepare(SPACE)
        await store.write(rows(["a"]))
        assert [match.text for match in await store.search(vectors(1)[0], 1)] == [None]


# Before money is spent


async def test_s13_what_cannot_be_written_is_found_in_prepare(database: str, table: str) -> None:
    role = f"r_{table}"
    url = await as_role(database, role)
    async with opened(url, table=table) as store:
        with pytest.raises(StoreError, match=r"permission denied for schema public \(42501\); the role may not"):
            await store.prepare(SPACE)
    async with opened(f"{database}?options=-c%20default_transaction_read_only%3Don", table=table) as store:
        with pytest.raises(StoreError, match="read-only"):
            await store.prepare(SPACE)
    async with opened(database, table=table) as store:
        await store.prepare(SPACE)
    await run_sql(database, f"GRANT SELECT ON {table}, {table}_meta, {table}_refusals TO {role}")
    async with opened(url, table=table) as store:
        with pytest.raises(StoreError, match="GRANT INSERT"):
            await store.prepare(SPACE)
        assert (await store.info()).rows == 0
    await run_sql(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgresql://u:hunter2@127.0.0.1:{free}/db", "cannot be reached.*check host and port"),
        ("postgresql://u:hunter2@no-such-host.invalid/db", "name of the host is not known"),
        ("{database}_missing", r"3D000\); check the name of the database"),
    ],
)
async def test_n1_a_server_that_is_not_there_is_said_at_once(database: str, url: str, sentence: str) -> None:
    async with opened(url.format(free=free_port(), database=database)) as store:
        with pytest.raises(StoreError, match=sentence) as caught:
            await asyncio.wait_for(store.prepare(SPACE), 20)
    assert "hunter2" not in repr(caught.value)


async def test_s13_a_table_of_somebody_else_is_left_alone(place: str, database: str, table: str) -> None:
    await run_sql(database, f"CREATE TABLE {table} (id int)")
    async with opened(place, table=table) as store:
        for question in (store.prepare(SPACE), store.info(), store.write(rows(["a"]))):
            with pytest.raises(StoreError, match="is not aembed's"):
                await question


async def test_a_database_without_pgvector_gets_it(postgres: str, database: str, table: str) -> None:
    name = f"aembed_bare_{table}"
    await run_sql(postgres, f"CREATE DATABASE {name} TEMPLATE template0")
    url = database.rpartition("/")[0] + f"/{name}"
    try:
        await run_sql(url, "CREATE SCHEMA extensions")
        async with opened(url) as store:
            await store.prepare(SPACE)
            await store.write(rows(["a"]))
            assert (await store.search(vectors(1)[0], 1))[0].id == "a"
    finally:
        await run_sql(postgres, f"DROP DATABASE {name} WITH (FORCE)")


async def test_two_processes_may_prepare_at_once(place: str, table: str) -> None:
    stores = [PostgresStore(place, table=table) for _ in range(6)]
    assert await asyncio.gather(*(store.prepare(SPACE) for store in stores)) == [SPACE] * 6
    await asyncio.gather(*(store.aclose() for store in stores))


# Writers beside each other


async def upsert_all(store: PostgresStore, batches: Sequence[Rows]) -> None:
    for batch in batches:
        await store.write(batch)


async def test_s5_s6_writers_of_the_same_rows_do_not_stop_each_other(place: str, table: str) -> None:
    stores = [PostgresStore(place, table=table) for _ in range(8)]
    await stores[0].prepare(SPACE)
    names = [f"{i:03d}" for i in range(200)]
    random = np.random.default_rng(3)
    batches = [[rows(random.permutation(names).tolist(), vectors(200, seed=s)) for _ in range(4)] for s in range(8)]
    await asyncio.gather(*map(upsert_all, stores, batches))
    assert await ids(stores[0]) == names
    await asyncio.gather(*(store.aclose() for store in stores))


async def test_s20_more_ids_than_parameters(store: PostgresStore) -> None:
    names = [str(i) for i in range(40_000)]
    assert (await store.known(digests(names), fingerprints(names))).unchanged == frozenset()
    await store.write(rows(names))
    assert len((await store.known(digests(names), fingerprints(names))).unchanged) == 40_000
    assert await store.delete(names) == 40_000


# The user's own pool


async def test_a_pool_is_left_as_it_was(database: str, table: str) -> None:
    async def init(connection: Any) -> None:
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
        await connection.set_type_codec("vector", schema="public", encoder=str, decoder=lambda text: ("ours", text))

    pool = await asyncpg.create_pool(database, min_size=1, max_size=1, init=init)
    async with opened(pool, table=table) as store:
        await store.prepare(SPACE)
        await store.write(rows(["a"], unit(1, 2, 3, 4)[None], metadata=[{"n": 1}]))
        await store.write(rows(["a"], unit(1, 2, 3, 4)[None], metadata=[{"n": 1}]))
        assert [match.metadata for match in await store.search(unit(1, 2, 3, 4), 1, where={"n": 1})] == [{"n": 1}]
    row = await pool.fetchrow(f"SELECT embedding, metadata, current_setting('search_path') FROM {table}")  # noqa: S608
    assert tuple(row) == (("ours", "[1,2,3,4]"), {"n": 1}, '"$user", public')
    await pool.close()


async def test_a_closed_store_says_so(store: PostgresStore) -> None:
    await store.aclose()
    with pytest.raises(StoreError, match="was closed; open the store again"):
        await store.info()


def test_x7_a_store_serves_one_loop_after_another(place: str, table: str) -> None:
    store = PostgresStore(place, table=table)

    async def write(name: str) -> int:
        await store.prepare(SPACE)
        await store.write(rows([name]))
        found = (await store.info()).rows
        await store._database.disconnect()
        return found

    assert [asyncio.run(write("a")), asyncio.run(write("b"))] == [1, 2]


# Messages


async def test_s22_no_message_quotes_a_text(store: PostgresStore, database: str, table: str) -> None:
    await run_sql(
        database,
        f"ALTER TABLE {table} ADD CONSTRAINT no_canary CHECK (text NOT LIKE '%canary%')",
        f"""CREATE FUNCTION raise_{table}() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'refused %', new.text; END $$""",
    )
    sample = rows(["a"])
    batch = Rows(["a"], [CANARY], sample.metadata, sample.sources, sample.fingerprints, sample.digests, sample.matrix)
    with pytest.raises(StoreError, match=r"'no_canary'.*23514") as caught:
        await store.write(batch)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    await run_sql(
        database,
        f"ALTER TABLE {table} DROP CONSTRAINT no_canary",
        f"CREATE TRIGGER r BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION raise_{table}()",
    )
    with pytest.raises(StoreError, match="P0001") as caught:
        await store.write(batch)
    assert CANARY not in str(caught.value)


async def test_s14_a_column_that_was_dropped_ends_the_job(store: PostgresStore, database: str, table: str) -> None:
    await store.write(rows(["a"]))
    await run_sql(database, f"ALTER TABLE {table} DROP COLUMN digest")
    with pytest.raises(StoreError, match="42703"):
        await store.write(rows(["b"]))
    with pytest.raises(StoreError, match="42703"):
        await store.known(digests(["a"]), {})


# Slow and full servers


async def test_s9_a_statement_timeout_halves_the_write(store: PostgresStore, database: str, table: str) -> None:
    await run_sql(
        database,
        f"""CREATE FUNCTION slow_{table}() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(0.02); RETURN new; END $$""",
        f"CREATE TRIGGER slow BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION slow_{table}()",
    )
    names = [f"{i:02d}" for i in range(32)]
    async with opened(f"{database}?options=-c%20statement_timeout%3D200", table=table) as hurried:
        await hurried.write(rows(names))
        assert await ids(hurried) == names
    async with opened(f"{database}?options=-c%20statement_timeout%3D15", table=table) as hopeless:
        with pytest.raises(StoreError, match=r"57014\); the server's statement_timeout"):
            await hopeless.write(rows(["a", "b"]))


async def test_s10_a_full_server_is_waited_for(database: str, table: str) -> None:
    role = f"r_{table}"
    grants = (f"ALTER ROLE {role} CONNECTION LIMIT 1", f"GRANT CREATE ON SCHEMA public TO {role}")
    url = await as_role(database, role, *grants)
    other = await asyncpg.connect(url)
    async with opened(url, table=table) as store:
        waiting = asyncio.create_task(store.prepare(SPACE))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.5)
        await other.close()
        assert await waiting == SPACE
    impatient = PostgresStore(url, table=table, max_store_outage=0.3)
    other = await asyncpg.connect(url)
    with pytest.raises(StoreError, match="53300"):
        await impatient.prepare(SPACE)
    await other.close()
    await run_sql(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_s4_a_backend_that_is_killed_in_a_write_is_replaced(store: PostgresStore, database: str) -> None:
    """asyncpg says to asyncio's log that it could not send; nothing else is seen of it."""
    batch = rows([str(i) for i in range(4000)], vectors(4000))
    killed = 0

    async def kill() -> None:
        nonlocal killed
        while killed < 5:
            killed += len(await run_sql(database, KILL_COPY))

    killing = asyncio.create_task(kill())
    while not killing.done():
        await store.write(batch)
    await killing
    assert (await store.info()).rows == 4000


# Indexes


@pytest.mark.parametrize(
    ("dimensions", "storage", "stored"),
    [(64, None, "vector"), (64, "halfvec", "halfvec"), (3072, None, "halfvec"), (2100, "vector", "vector")],
)
async def test_s12_an_index_is_built_and_used(
    database: str, table: str, dimensions: int, storage: Any, stored: str
) -> None:
    n = 400
    matrix = vectors(n, dimensions)
    seen: list[tuple[str, int, int]] = []
    async with opened(f"{database}?options={NO_SCANS}", table=table, storage=storage) as store:
        await store.prepare(Space("fake", "letters", dimensions))
        names = [f"{i:03d}" for i in range(n)]
        await store.write(rows(names, matrix, metadata=[{"n": i % 10} for i in range(n)]))
        exact = [match.id for match in await store.search(matrix[7], 10)]
        await store.create_index(memory="64MB", workers=0, on_progress=lambda *now: seen.append(now))
        await store.create_index()
        await run_sql(database, f"ANALYZE {table}")
        found = await store.search(matrix[7], 10)
        assert (found[0].id, round(found[0].score, 3)) == ("007", 1.0)
        assert len({match.id for match in found} & set(exact)) >= 8
        few = await store.search(matrix[7], 40, where={"n": 3})
        assert len(few) == 40
        assert all(match.metadata == {"n": 3} for match in few)
    scans = await run_sql(database, INDEX_SCANS.format(table))
    assert scans[0]["scans"] > 0
    assert f"{'halfvec' if dimensions > 2000 else stored}_cosine_ops" in scans[0]["definition"]


async def test_s12_an_index_is_used_by_every_search_of_a_connection(database: str, table: str) -> None:
    """A statement that was prepared is planned anew, or for good, after five runs."""
    n, searches = 4_000, 8
    async with opened(database, table=table) as store:
        await store.prepare(Space("fake", "letters", 32))
        matrix = vectors(n, 32)
        await store.write(rows([f"{i:04d}" for i in range(n)], matrix))
        await store.create_index(memory="64MB", workers=0)
        await run_sql(database, f"ANALYZE {table}")
        for i in range(searches):
            assert (await store.search(matrix[i], 3))[0].id == f"{i:04d}"
    scans = await run_sql(database, INDEX_SCANS.format(table))
    assert scans[0]["scans"] == searches


async def test_s12_more_dimensions_than_can_be_indexed_are_said(place: str, table: str) -> None:
    async with opened(place, table=table) as store:
        await store.prepare(Space("fake", "letters", 4001))
        with pytest.raises(ConfigError, match="4,000 dimensions as halfvec; these are 4,001"):
            await store.create_index()
    async with opened(place, table=f"{table}_2") as store:
        await store.prepare(SPACE)
        with pytest.raises(ConfigError, match="memory='much'"):
            await store.create_index(memory="much")


async def test_s7_an_index_is_not_built_through_a_pooler(pooled: str, table: str) -> None:
    async with opened(pooled, table=table) as store:
        await store.prepare(SPACE)
        with pytest.raises(ConfigError, match="direct connection"):
            await store.create_index()


async def test_an_index_over_the_metadata_serves_equality_and_lists(database: str, table: str) -> None:
    async with opened(database, table=table) as store:
        await store.prepare(SPACE)
        metadata = [{"n": n, "o": {"n": n}} for n in range(5_000)]
        await store.write(rows([f"{n:04d}" for n in range(5_000)], metadata=metadata))
        await run_sql(database, f"CREATE INDEX {table}_gin ON {table} USING gin (metadata)", f"ANALYZE {table}")
        for where in ({"n": 7}, {"n": [7]}, {"n": [7, 8]}, {"o": {"has": {"n": {"in": [7, 8]}}}}):
            assert (await store.search(unit(1, 0, 0, 0), 1, where=where))[0].id in ("0007", "0008")
    scans = f"SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = '{table}_gin'"  # noqa: S608
    # The server counts a scan of each value of a list, and tells of them when the connection has ended.
    async with asyncio.timeout(30):
        while (await run_sql(database, scans))[0][0] < 4:  # noqa: ASYNC110 - a statistic does not call
            await asyncio.sleep(0.05)


async def test_texts_are_compared_by_code_point_whatever_the_order_of_the_database(database: str, table: str) -> None:
    name = f"ordered_{table}"
    for order in ("LOCALE_PROVIDER icu ICU_LOCALE 'en'", "LOCALE 'en_US.UTF-8'"):
        with suppress(asyncpg.PostgresError):
            await run_sql(database, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' {order}")
            break
    else:
        pytest.skip("this server has no ICU, and the machine no en_US.UTF-8")
    place = with_database(database, name)
    await run_sql(
        place, "CREATE EXTENSION vector", "CREATE TABLE t (id text PRIMARY KEY, content text, embedding vector(4))"
    )
    await run_sql(place, "INSERT INTO t VALUES ('a', 'a'), ('B', 'B')")
    assert await run_sql(place, "SELECT 'a' < 'B'") == [(True,)]
    async with opened(place, table="notes") as store:
        await store.prepare(SPACE)
        await store.write(rows(["a", "B"], metadata=[{"id": "a"}, {"id": "B"}]))
        assert [match.id for match in await store.search(unit(1, 0, 0, 0), 9, where={"id": {"lt": "a"}})] == ["B"]
    column = PostgresColumn(place, "t", text="content")
    await column.prepare(SPACE)
    await column.write(['"a"', '"B"'], ["a", "B"], vectors(2))
    assert [match.id for match in await column.search(vectors(1)[0], 9, where={"id": {"lt": "a"}})] == ['"B"']
    await column.aclose()
    await run_sql(database, f"DROP DATABASE {name}")


async def test_many_searches_share_the_pool(database: str, table: str) -> None:
    texts = [f"text {number}" for number in range(200)]
    async with opened(database, table=table) as store, Embedder(FakeProvider()) as embedder:
        await embedder.embed_into(store, [Record(text, text, {"n": n}) for n, text in enumerate(texts)])
        found = await embedder.search_many(store, texts, k=1, where={"n": {"lt": 150}})
    assert [match.id for (match,) in found[:150]] == texts[:150]
    assert all(match.score < 1 for (match,) in found[150:])


@asynccontextmanager
async def own_transaction(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


async def generic_plan(database: str, table: str, matrix: Matrix, before_search: str = "SELECT") -> list[str]:
    """How the server finds the nearest rows from the sixth search on a connection on, if it takes a generic plan."""
    asked: list[str] = []

    async def listen(connection: asyncpg.Connection) -> None:
        connection.add_query_logger(lambda query: asked.append(query.query))

    pool = await asyncpg.create_pool(database, min_size=1, max_size=1, init=listen)
    async with opened(pool, table=table) as store:
        await store.prepare(replace(SPACE, dimensions=matrix.shape[1]))
        await store.write(rows([f"{number:04d}" for number in range(len(matrix))], matrix))
        await run_sql(database, f"ANALYZE {table}", before_search)
        assert (await store.search(matrix[-1], 1))[0].id == f"{len(matrix) - 1:04d}"
    statement = next(query for query in reversed(asked) if "LIMIT $2" in query)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        name = (await connection.prepare(statement)).get_name()
        query = ",".join(map(str, matrix[0]))
        plan = await connection.fetch(f"EXPLAIN (VERBOSE) EXECUTE {quote_name(name)}('[{query}]', 1)")
    await pool.close()
    return [line.strip() for (line,) in plan]


@pytest.mark.parametrize(("without_index", "times"), [(False, 1), (True, 2)])
async def test_a_search_reads_its_query_once_whichever_plan_the_server_takes(
    database: str, table: str, without_index: bool, times: int
) -> None:
    """From its sixth time on a statement may have a plan in which parameters are computed for each row."""
    drop = DROP_ODD.format(table) if without_index else "SELECT"
    plan = await generic_plan(database, table, unit(1, 2, 3, 4)[None], drop)
    assert any("Sort Key" in line for line in plan), plan
    parsing = [line for line in plan if "$1" in line]
    assert parsing == ["Output: ($1)::vector"] * times, "only subqueries that are computed once have it"


@pytest.mark.parametrize("dimensions", [8, 700])
async def test_a_search_asks_an_index_for_what_the_operator_is_wrong_for(
    database: str, table: str, dimensions: int
) -> None:
    """Rows of 700 dimensions stand out of line, so that a scan of the others looks cheap."""
    plan = await generic_plan(database, table, vectors(3_000, dimensions))
    assert len([line for line in plan if "using aembed_odd_" in line]) == 1, plan


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
async def test_a_store_is_searched_right_with_and_without_its_index_of_odd_vectors(
    database: str, table: str, storage: str
) -> None:
    """One of an earlier aembed has none, and is given it by the next job."""
    odd = np.zeros((2, 4), np.float32)
    if storage == "vector":
        odd[:] = [[3e-30, 4e-30, 0, 0], [3e30, 4e30, 0, 0]]
    async with opened(database, table=table, storage=storage) as store:
        await store.prepare(SPACE)
        await store.write(rows([f"far {i}" for i in range(200)], np.tile(unit(-1, 1, 1, 0), (200, 1))))
        await store.write(rows(["first", "last"], odd))
        assert (await run_sql(database, ODD_INDEXES.format(table)))[0][0] == 1
        for _ in range(2):
            found = await store.search(unit(3, 4, 0, 0), 2)
            assert [match.id for match in found] == (["first", "last"] if storage == "vector" else ["far 0", "far 1"])
            found = await store.search(unit(1, -1, -1, 0), 2)
            assert {match.id for match in found} == {"first", "last"}, "those that point away come after zero"
            await run_sql(database, DROP_ODD.format(table))
        async with own_transaction(database) as writer:
            await writer.execute(f"DELETE FROM {table} WHERE id = 'far 7'")  # noqa: S608
            await store.prepare(SPACE)
        assert (await run_sql(database, ODD_INDEXES.format(table)))[0][0] == 0, "it waits for nobody"
        await store.prepare(SPACE)
        assert (await run_sql(database, ODD_INDEXES.format(table)))[0][0] == 1
