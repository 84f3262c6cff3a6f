"""What the database, the role or a session has set changes neither what is durable nor what a row is called."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import quote

import asyncpg
import numpy as np
import pytest

from aembed.embedder import Embedder
from aembed.providers.fake import FakeProvider, fake_vectors
from aembed.stores.postgresql import PostgresStore
from aembed.stores.postgresql_column import PostgresColumn
from aembed.types import Record, Space
from tests.stage.postgres import Server, create_database, run_sql
from tests.stores.samples import rows
from tests.stores.tables import backfilled, filled, new_table

NOTES = (
    "CREATE TABLE {table}_notes (setting text)",
    """CREATE FUNCTION note_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO public.{table}_notes VALUES (current_setting('synchronous_commit')); RETURN new; END $$""",
    "CREATE TRIGGER noted BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION note_{table}()",
)


def with_settings(url: str, **settings: str) -> str:
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    return f"{url}?options={quote(options)}"


@pytest.mark.parametrize(
    ("given", "used"), [("off", "on"), ("local", "on"), ("remote_write", "on"), ("on", "on"), ("remote_apply",) * 2]
)
@pytest.mark.parametrize("place", ["url", "pool"])
async def test_t4_every_write_waits_for_the_disk_whatever_is_set(
    database: str, table: str, given: str, used: str, place: str
) -> None:
    await new_table(database, table, *NOTES, n=5)
    url = with_settings(database, synchronous_commit=given)
    pool = await asyncpg.create_pool(database, min_size=1, server_settings={"synchronous_commit": given})
    store = PostgresStore(pool if place == "pool" else url, table=f"{table}_store")
    await store.prepare(Space("fake", "fake", 4))
    await run_sql(database, NOTES[2].replace(" {table} ", " {table}_store ").format(table=table))
    await store.write(rows(["a", "b"]))
    ended = await backfilled(pool if place == "pool" else url, table)
    assert ended.report is not None
    assert ended.report.stored == 5
    noted = await run_sql(database, f"SELECT DISTINCT setting FROM {table}_notes")  # noqa: S608
    assert noted == [(used,)]
    assert await pool.fetchval("SELECT current_setting('synchronous_commit')") == given
    await store.aclose()
    await pool.close()


async def test_t4_what_was_told_as_stored_outlives_the_servers_death(server: Server, table: str) -> None:
    database = create_database(server.url, table)
    await run_sql(server.url, f"ALTER DATABASE {table} SET synchronous_commit = off")
    store = PostgresStore(database)
    async with Embedder(FakeProvider("fake", 8), max_batch_size=50) as embedder:
        report = await embedder.embed_into(store, [Record(str(i), f"section {i}") for i in range(500)])
    await asyncio.to_thread(server.halt)
    await asyncio.to_thread(server.start)
    assert (await store.info()).rows == report.stored == 500
    await store.aclose()


SESSIONS = [
    {"TimeZone": "Asia/Kolkata", "DateStyle": "German", "IntervalStyle": "iso_8601", "extra_float_digits": "0"},
    {"TimeZone": "America/New_York", "DateStyle": r"SQL,\ DMY", "bytea_output": "escape", "extra_float_digits": "-5"},
    {"TimeZone": "UTC", "IntervalStyle": "sql_standard", "quote_all_identifiers": "on", "lc_monetary": "C"},
]
KEYS = {
    "timestamptz": "'2024-02-29 12:00:00.123456+02'::timestamptz + i * interval '7 hours'",
    "timestamp": "'2024-02-29 12:00:00.123456'::timestamp + i * interval '7 hours'",
    "date": "'2024-02-29'::date + i",
    "timetz": "('12:00:00'::time + i * interval '1 s')::timetz",
    "interval": "(CASE WHEN i % 2 = 0 THEN -1 ELSE 1 END) * make_interval(months => i, days => -i, secs => i + 0.5)",
    "float8": "1 / (i + 0.1)::float8",
    "float4": "(1 / (i + 0.1))::float4",
    "bytea": "decode(lpad(to_hex(i), 8, 'f'), 'hex')",
    "tstzrange": "tstzrange('2024-02-29 12:00+02', '2024-02-29 12:00+02'::timestamptz + i * interval '1 h')",
    "timestamptz[]": "ARRAY['2024-02-29 12:00+02'::timestamptz + i * interval '1 h']",
    "money": "i::money / 7",
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("fingerprint", [None, "seen"])
async def test_t5_workers_whose_sessions_differ_share_the_rows(
    database: str, table: str, kind: str, fingerprint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.stores._postgresql._filling.ROWS_PER_PAGE", 20)
    create = f"CREATE TABLE {{table}} (id {kind} PRIMARY KEY, content text, embedding vector(8), seen bytea)"
    rows = f"INSERT INTO {{table}} SELECT {KEYS[kind]}, 'section ' || i FROM generate_series(1, 200) AS i"  # noqa: S608
    await new_table(database, table, create=create, rows=rows)
    provider = FakeProvider("fake", 8, keep_texts=True, latency=0.01)

    async def work(settings: dict[str, str]) -> Any:
        column = PostgresColumn(
            with_settings(database, **settings), table, text_sql="content || ' ' || id::text", fingerprint=fingerprint
        )
        async with Embedder(provider, max_batch_size=10) as embedder:
            report = await embedder.backfill(column)
        await column.aclose()
        return report.stored

    stored = await asyncio.gather(*map(work, SESSIONS))
    texts = [text for request in provider.ledger.log for text in request.texts]
    assert (sum(stored), len(texts), len(set(texts))) == (200, 200, 200)
    assert len(await filled(database, table)) == 200


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_t5_workers_share_the_rows_whatever_isolation_is_set(
    database: str, table: str, isolation: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They begin together in a database without the schema aembed, and see what each other has made and leased."""
    monkeypatch.setattr("aembed.stores._postgresql._filling.ROWS_PER_PAGE", 10)
    await run_sql(database, "DROP SCHEMA IF EXISTS aembed CASCADE")
    await new_table(database, table, n=200)
    provider = FakeProvider("fake", 8, keep_texts=True, latency=0.01)
    place = with_settings(database, default_transaction_isolation=isolation.replace(" ", r"\ "))

    async def work() -> int:
        column = PostgresColumn(place, table, text="content")
        async with Embedder(provider, max_batch_size=5) as embedder:
            report = await embedder.backfill(column)
        await column.aclose()
        return report.stored

    stored = await asyncio.gather(*(work() for _ in range(4)))
    texts = [text for request in provider.ledger.log for text in request.texts]
    assert (sum(stored), len(texts), len(set(texts))) == (200, 200, 200)
    assert "may not create" not in caplog.text


IN_FRONT = (
    "CREATE SCHEMA {table}_front",
    "CREATE FUNCTION {table}_front.yes(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    "CREATE OPERATOR {table}_front.= (LEFTARG = int, RIGHTARG = int, FUNCTION = {table}_front.yes)",
    "CREATE FUNCTION {table}_front.also(bytea, bytea) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    "CREATE OPERATOR {table}_front.= (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = {table}_front.also)",
)


async def test_z5_operators_in_front_of_the_servers_own_change_no_row(database: str, table: str) -> None:
    """By that operator every row has the key of every other one."""
    await new_table(database, table, *IN_FRONT, n=20)
    ended = await backfilled(with_settings(database, search_path=f"{table}_front,public,pg_catalog"), table)
    assert ended.report is not None
    assert (ended.report.stored, ended.error) == (20, None)
    found = await run_sql(database, f"SELECT content, embedding::text FROM {table}")  # noqa: S608
    for text, vector in found:
        assert np.allclose(json.loads(vector), fake_vectors([text.encode()], 8)[0], atol=1e-6)


async def test_t5_a_condition_of_the_users_own_reads_dates_in_the_order_of_the_session(
    database: str, table: str
) -> None:
    await new_table(database, table, "ALTER TABLE {table} ADD day date DEFAULT '2024-03-02'", n=3)
    place = with_settings(database, DateStyle=r"SQL,\ DMY")
    ended = await backfilled(place, table, where="day = '02/03/2024'")
    assert ended.report is not None
    assert ended.report.stored == 3
