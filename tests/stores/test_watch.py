"""A table that is watched stays filled. PostgreSQL is real, and the provider's ledger judges what was bought."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from aembed import (
    ConfigError,
    Embedder,
    FakeProvider,
    OutageError,
    PostgresColumn,
    Progress,
    SQLiteColumn,
    StoppedError,
    StoreError,
)
from aembed.types import Record
from tests.stage.postgres import Server, create_database, run_sql

CREATE = """CREATE TABLE {table} (id bigint PRIMARY KEY, content text, embedding vector(8), seen bytea,
    updated_at timestamptz NOT NULL DEFAULT now())"""
INSERT = "INSERT INTO {table} (id, content) SELECT i, 'text ' || i FROM generate_series({first}, {last}) AS i"
EDIT = "UPDATE {table} SET content = content || '!', updated_at = now() WHERE id <= {last}"
BETTER = "UPDATE {table} SET content = 'better' WHERE id = 11"
FULL = """INSERT INTO {table} SELECT 20 + i, 'x', array_fill(1, ARRAY[8])::vector, sha256('x'), now() - interval '1 day'
    FROM generate_series(1, 2000) AS i"""
SCANS = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = '{table}'"
WRONG = """SELECT id FROM {table} WHERE trim(content) <> '' AND
    (embedding IS NULL OR seen IS DISTINCT FROM sha256(convert_to(content, 'UTF8'))) ORDER BY id"""
PATIENCE = 20.0
STATISTICS = 1.2
"""A session of PostgreSQL tells once a second what it has read."""


class Watched:
    """A watch of one table, in a task of its own."""

    def __init__(self, url: str, table: str, provider: FakeProvider | None = None, **options: Any) -> None:
        self.url, self.table = url, table
        self.provider = provider or FakeProvider("fake", 8, keep_texts=True)
        self.told: list[Progress] = []
        self.failed: list[str] = []
        self._column = PostgresColumn(url, table, **({"text": "content"} | options))

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[Embedder]:
        async with Embedder(self.provider) as embedder:
            task = asyncio.create_task(
                embedder.backfill(
                    self._column,
                    watch=True,
                    on_progress=self.told.append,
                    on_failure=lambda failure: self.failed.append(failure.id),
                    **({"poll": 0.1} | options),
                )
            )
            try:
                yield embedder
                if task.done():
                    task.result()
            finally:
                task.cancel()
                await asyncio.wait([task])
                await self._column.aclose()

    async def run_again(self) -> None:
        """Until it ends by itself."""
        column = PostgresColumn(self.url, self.table, text="content")
        try:
            async with Embedder(self.provider) as embedder, asyncio.timeout(PATIENCE):
                await embedder.backfill(column, watch=True)
        finally:
            await column.aclose()

    @property
    def bought(self) -> Counter[str]:
        return Counter(text for request in self.provider.ledger.log for text in request.texts)

    async def until_idle(self) -> str:
        return await until(lambda: self.told[-1].waiting if self.told else "", lambda told: "watching" in told)

    async def until_right(self) -> None:
        await until(lambda: run_sql(self.url, WRONG.format(table=self.table)), lambda wrong: not wrong)


async def until(look: Callable[[], Any], is_so: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(PATIENCE):
        while True:
            seen = look()
            if isinstance(seen, Awaitable):
                seen = await seen
            if is_so(seen):
                return seen
            await asyncio.sleep(0.02)


@asynccontextmanager
async def open_transaction(url: str, *statements: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """One that has executed these."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("; ".join(("BEGIN", *statements)))
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def place(database: str, table: str) -> AsyncIterator[str]:
    await run_sql(database, CREATE.format(table=table), INSERT.format(table=table, first=1, last=10))
    yield database
    await run_sql(database, f"DROP TABLE {table}", "DROP SCHEMA IF EXISTS aembed CASCADE")


WAYS = {
    "triggers": {"create_triggers": "watch", "fingerprint": "seen"},
    "updated_at": {"updated_at": "updated_at", "fingerprint": "seen"},
    "text_sql": {"create_triggers": "watch", "fingerprint": "seen", "text": None, "text_sql": "content"},
}


@pytest.mark.parametrize("way", WAYS)
async def test_t39_rows_that_come_and_change_are_filled_and_each_text_is_bought_once(
    place: str, table: str, way: str
) -> None:
    watched = Watched(place, table, **({"text": "content"} | WAYS[way]))
    async with watched.running():
        await watched.until_idle()
        await run_sql(place, INSERT.format(table=table, first=11, last=15), EDIT.format(table=table, last=3))
        await watched.until_right()
        await run_sql(place, EDIT.format(table=table, last=1))
        await watched.until_right()
    edited = {"text 1!": 1, "text 2!": 1, "text 3!": 1, "text 1!!": 1}
    assert watched.bought - Counter(probe=1, dimensions=1) == Counter({f"text {i}": 1 for i in range(1, 16)}) + Counter(
        edited
    )


async def test_t39_a_notification_is_heard_at_once(place: str, table: str) -> None:
    """Nothing is looked for within the hour otherwise."""
    watched = Watched(place, table, **WAYS["triggers"])
    async with watched.running(poll=3600.0):
        assert "at once" in await watched.until_idle()
        await run_sql(place, INSERT.format(table=table, first=11, last=12))
        await watched.until_right()


async def test_t44_behind_a_pooler_in_transaction_mode_the_queue_is_looked_at(
    place: str, pooled: str, table: str
) -> None:
    watched = Watched(pooled, table, **WAYS["triggers"])
    watched.url = place
    async with watched.running():
        assert "within 0.1 s" in await watched.until_idle()
        await run_sql(place, EDIT.format(table=table, last=4))
        await watched.until_right()


@pytest.mark.parametrize("way", ["triggers", "updated_at"])
async def test_t42_a_text_that_is_refused_is_told_once_and_tried_again_when_it_is_edited(
    place: str, table: str, way: str
) -> None:
    watched = Watched(place, table, **WAYS[way])
    async with watched.running():
        await watched.until_idle()
        await run_sql(place, INSERT.format(table=table, first=11, last=11).replace("'text ' || i", "' '"))
        await until(lambda: watched.failed, bool)
        await run_sql(place, EDIT.format(table=table, last=2))
        await watched.until_right()
        assert watched.failed == ["11"]
        await run_sql(place, BETTER.format(table=table))
        await until(lambda: watched.bought["better"], bool)
        await watched.until_right()


DROP = """CREATE FUNCTION dropped() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN NEW.embedding := NULL; RETURN NEW; END'"""
DROPS = "CREATE TRIGGER dropped BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({which}) EXECUTE FUNCTION dropped()"


async def test_t43_a_row_whose_vector_is_dropped_is_paid_for_twice_and_no_more(place: str, table: str) -> None:
    watched = Watched(place, table, **WAYS["triggers"])
    async with watched.running():
        await watched.until_idle()
        await run_sql(place, DROP, DROPS.format(table=table, which="OLD.id = 11"))
        await run_sql(place, INSERT.format(table=table, first=11, last=12), EDIT.format(table=table, last=3))
        await until(lambda: watched.failed, bool)
        await run_sql(place, EDIT.format(table=table, last=3))
        await until(lambda: watched.bought["text 1!!"], bool)
    assert watched.failed == ["11"]
    assert watched.bought["text 11"] <= 2
    await run_sql(place, "DROP FUNCTION dropped CASCADE")


async def test_t43_a_table_that_drops_all_its_vectors_ends_the_watch(place: str, table: str) -> None:
    watched = Watched(place, table, **WAYS["triggers"])
    async with watched.running():
        await watched.until_idle()
    await run_sql(place, DROP, DROPS.format(table=table, which="true"), INSERT.format(table=table, first=11, last=11))
    with pytest.raises(StoreError, match="dropped"):
        await watched.run_again()
    assert not watched.bought["text 11"]
    await run_sql(place, "DROP FUNCTION dropped CASCADE")


async def test_t40_what_a_worker_held_that_died_is_filled_by_another_one(place: str, table: str) -> None:
    provider = FakeProvider("fake", 8, keep_texts=True)
    dead = PostgresColumn(place, table, text="content", lease_seconds=1.0, **WAYS["triggers"])
    await dead.prepare(provider.space)
    watched = Watched(place, table, provider, **WAYS["triggers"])
    async with dead.watch(poll=3600.0, recheck=3600.0) as looks, aclosing(looks.pending(everything=True)) as rows:
        held = await anext(rows)
        assert dead._worker
        await dead._worker.stop_beating()
        async with watched.running():
            await watched.until_idle()
            await watched.until_right()
    assert watched.bought[held.text] == 1
    await dead.aclose()


async def test_t45_cancelled_it_holds_nothing_and_what_was_noted_buys_nothing_again(place: str, table: str) -> None:
    watched = Watched(place, table, **WAYS["triggers"])
    async with watched.running():
        await watched.until_idle()
        await run_sql(place, EDIT.format(table=table, last=5))
        await watched.until_right()
    for held in ("leases", "workers"):
        assert await run_sql(place, f"TABLE aembed.{held}") == []
    again = Watched(place, table, watched.provider, **WAYS["triggers"])
    async with again.running():
        await again.until_idle()
        await until(lambda: run_sql(place, "TABLE aembed.changed"), lambda noted: not noted)
    assert max(watched.bought.values()) == 1


async def test_an_embedder_that_is_closed_ends_it(place: str, table: str) -> None:
    watched = Watched(place, table, **WAYS["triggers"])
    with pytest.raises(StoppedError) as stopped:  # noqa: PT012
        async with watched.running(poll=3600.0) as embedder:
            await watched.until_idle()
            await embedder.aclose()
            await asyncio.sleep(0.1)
            assert await run_sql(place, "TABLE aembed.workers") == []
    assert stopped.value.report
    assert stopped.value.report.stored == 10


async def test_t41_it_goes_on_after_the_server_was_away(server: Server, table: str) -> None:
    place = create_database(server.url, f"d_{table}")
    await run_sql(place, CREATE.format(table=table), INSERT.format(table=table, first=1, last=5))
    watched = Watched(place, table, max_store_outage=0.5, **WAYS["triggers"])
    async with watched.running():
        await watched.until_idle()
        server.halt()
        await until(lambda: watched.told[-1].waiting, lambda told: "StoreError" in told)
        server.start()
        await run_sql(place, INSERT.format(table=table, first=6, last=9))
        await watched.until_right()
        await run_sql(place, EDIT.format(table=table, last=3))
        await watched.until_right()
    assert max(watched.bought.values()) == 1


NAMELESS = "INSERT INTO {table} (content) VALUES ('no key'), ('nor here')"
RENAMED = "ALTER TABLE {table} RENAME content TO body", "INSERT INTO {table} (id) VALUES (12)"
WAITS = "SELECT true FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass"
KEYED_BY_TIME = """ALTER TABLE {table} DROP CONSTRAINT {table}_pkey, ADD at timestamptz DEFAULT clock_timestamp(),
    ADD f float8 DEFAULT random(), ADD PRIMARY KEY (at, f, id)"""
LATE = "INSERT INTO {table} (id, content, at, f) VALUES (11, 'late', '31/12/2024 23:00', 0.1::float8 + 0.2::float8)"
BACK_AND_FORTH = "UPDATE {table} SET content = CASE content WHEN 'a' THEN 'b' ELSE 'a' END WHERE id = 1"
UNKEYED = "ALTER TABLE {table} DROP CONSTRAINT {table}_pkey, ALTER id DROP NOT NULL, ADD UNIQUE (id)"


async def test_t46_no_statement_of_the_users_fails_by_a_trigger(place: str, table: str) -> None:
    """Neither where a key is NULL nor once a column that the trigger reads has another name."""
    await run_sql(place, UNKEYED.format(table=table))
    watched = Watched(place, table, key="id", **WAYS["triggers"])
    async with watched.running(poll=3600.0):
        await watched.until_idle()
        await run_sql(place, NAMELESS.format(table=table), INSERT.format(table=table, first=11, last=11))
        await until(lambda: watched.bought["text 11"], bool)
    await run_sql(place, *(statement.format(table=table) for statement in RENAMED))


async def test_t46_triggers_that_are_made_stop_no_transaction_of_the_users(place: str, table: str) -> None:
    watched = Watched(place, table, **WAYS["triggers"])
    begun = "SET LOCAL deadlock_timeout = '10ms'", EDIT.format(table=table, last=5)
    async with open_transaction(place, *begun) as connection, watched.running():
        await until(lambda: run_sql(place, WAITS.format(table=table)), bool)
        await connection.execute(EDIT.format(table=table, last=10))
        await connection.execute("COMMIT")
        assert "at once" in await watched.until_idle()
        await watched.until_right()


VIRTUAL = (
    "TRUNCATE {table}",
    "ALTER TABLE {table} RENAME content TO written",
    "ALTER TABLE {table} ADD content text GENERATED ALWAYS AS (written) VIRTUAL",
)
WRITE = (
    "INSERT INTO {table} (id, written) VALUES (11, 'text 11')",
    "UPDATE {table} SET written = 'better' WHERE id = 11",
)


@pytest.mark.parametrize("way", [{"fingerprint": "seen"}, {}])
async def test_t46_no_statement_fails_by_a_text_that_is_a_virtual_column(
    place: str, table: str, way: dict[str, str]
) -> None:
    """PostgreSQL 18 has no value of it among the rows of a trigger, and raises an error where one is asked for."""
    if not await run_sql(place, "SELECT 1 WHERE current_setting('server_version_num')::int >= 180000"):
        pytest.skip("virtual columns came with PostgreSQL 18")
    await run_sql(place, *(statement.format(table=table) for statement in VIRTUAL))
    watched = Watched(place, table, create_triggers="watch", **way)
    async with watched.running(poll=3600.0):
        await watched.until_idle()
        await run_sql(place, WRITE[0].format(table=table))
        await until(lambda: watched.bought["text 11"], bool)
        await run_sql(place, WRITE[1].format(table=table))
        await until(lambda: watched.bought["better"] or not way, bool)


GONE = {
    "dropped": "DO $$ DECLARE f regprocedure; BEGIN SELECT p.oid::regprocedure INTO f FROM pg_trigger t JOIN pg_proc p "
    "ON p.oid = t.tgfoid WHERE t.tgrelid = '{table}'::regclass LIMIT 1; EXECUTE 'DROP FUNCTION ' || f || ' CASCADE'; "
    "END $$",
    "disabled": "ALTER TABLE {table} DISABLE TRIGGER ALL",
    "schema": "DROP SCHEMA aembed CASCADE",
}


@pytest.mark.parametrize("kind", GONE)
async def test_t51_what_triggers_do_not_note_any_more_is_looked_for(
    place: str, table: str, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.stores._postgresql._watched.CHECK_SECONDS", 0.0)
    watched = Watched(place, table, **WAYS["triggers"])
    async with watched.running():
        assert "at once" in await watched.until_idle()
        await run_sql(place, GONE[kind].format(table=table), INSERT.format(table=table, first=11, last=15))
        await watched.until_right()
        await run_sql(place, INSERT.format(table=table, first=16, last=20))
        await watched.until_right()
    assert max(watched.bought.values()) == 1
    if kind in ("dropped", "disabled"):
        assert "the triggers that note changes are gone, or disabled; rows without a vector are looked" in caplog.text


async def test_t51_triggers_that_are_there_again_are_heard(
    place: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.stores._postgresql._watched.CHECK_SECONDS", 0.0)
    watched = Watched(place, table, **WAYS["triggers"])
    async with watched.running():
        await watched.until_idle()
        await run_sql(place, f"ALTER TABLE {table} DISABLE TRIGGER ALL", BETTER.format(table=table))
        await run_sql(place, INSERT.format(table=table, first=11, last=11))
        await watched.until_right()
        await run_sql(place, f"ALTER TABLE {table} ENABLE TRIGGER ALL", EDIT.format(table=table, last=20))
        await watched.until_right()
        assert "at once" in await watched.until_idle()


async def test_t51_a_session_that_calls_itself_a_replica_is_noted(place: str, table: str) -> None:
    watched = Watched(place, table, **WAYS["triggers"])
    async with watched.running(poll=3600.0):
        await watched.until_idle()
        await run_sql(place, "SET session_replication_role = replica", EDIT.format(table=table, last=3))
        await watched.until_right()


PARTED = (
    "DROP TABLE {table}",
    CREATE + " PARTITION BY RANGE (id)",
    "CREATE TABLE {table}_part PARTITION OF {table} FOR VALUES FROM (0) TO (100)",
    "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) VALUES (1, '{table}_part'::regclass, 'r')",
)


async def test_t51_rows_that_logical_replication_brings_are_looked_for(place: str, table: str) -> None:
    """It fires no trigger of a statement; nor does a write to a partition by its own name, which stands for it here."""
    await run_sql(place, *(statement.format(table=table) for statement in PARTED))
    watched = Watched(place, table, **WAYS["triggers"])
    try:
        async with watched.running():
            assert "but for edits that logical replication brings" in await watched.until_idle()
            await run_sql(place, INSERT.format(table=f"{table}_part", first=1, last=5))
            await watched.until_right()
    finally:
        await run_sql(place, "DELETE FROM pg_subscription_rel WHERE srsubid = 1")


async def test_t47_a_look_that_broke_off_leaves_no_row_behind(place: str, table: str) -> None:
    """An outage of the provider, shorter than a lease."""
    watched, is_down = Watched(place, table, fingerprint="seen"), True
    watched.provider.script = lambda number, texts: OutageError("down") if is_down else None
    async with watched.running():
        await until(lambda: watched.told[-1].waiting if watched.told else "", lambda told: "OutageError" in told)
        is_down = False
        await watched.until_right()


async def test_t41_a_table_that_is_locked_for_long_ends_no_watch(place: str, table: str) -> None:
    watched = Watched(place, table, command_timeout=0.5, max_store_outage=0.2, **WAYS["triggers"])
    async with watched.running(poll=0.05, recheck=0.1):
        await watched.until_idle()
        async with open_transaction(place, EDIT.format(table=table, last=1), f"LOCK TABLE {table}") as connection:
            await until(lambda: watched.told[-1].waiting, lambda told: "next look" in told)
            await connection.execute("COMMIT")
        await watched.until_right()


async def test_t39_a_row_is_named_alike_whatever_the_session_of_its_writer_says(place: str, table: str) -> None:
    await run_sql(place, KEYED_BY_TIME.format(table=table))
    watched = Watched(place, table, **WAYS["triggers"])
    async with watched.running(poll=3600.0):
        await watched.until_idle()
        odd = "SET TimeZone = 'America/New_York'", "SET DateStyle = 'SQL, DMY'", "SET extra_float_digits = 0"
        await run_sql(place, *odd, LATE.format(table=table))
        await watched.until_right()


async def test_t42_a_text_that_comes_back_again_and_again_is_filled_each_time(place: str, table: str) -> None:
    watched = Watched(place, table, **WAYS["triggers"])
    async with watched.running():
        await watched.until_idle()
        for _ in range(6):
            await run_sql(place, BACK_AND_FORTH.format(table=table))
            await watched.until_right()
    assert not watched.failed


async def test_triggers_of_another_key_are_not_believed_and_are_made_anew(place: str, table: str) -> None:
    watched = Watched(place, table, **WAYS["triggers"])
    async with watched.running():
        await watched.until_idle()
    wider = (
        f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey, ADD tenant text DEFAULT 'a', ADD PRIMARY KEY (tenant, id)"
    )
    await run_sql(place, EDIT.format(table=table, last=3), wider, f"ALTER TABLE {table} DISABLE TRIGGER ALL")
    for way, seen in (({"fingerprint": "seen"}, "--create-triggers"), (WAYS["triggers"], "at once")):
        again = Watched(place, table, **way)
        async with again.running():
            assert seen in await again.until_idle()
    assert await run_sql(place, "TABLE aembed.changed") == []


async def test_a_column_is_watched_by_one_call_until_it_is_closed(place: str, table: str) -> None:
    watched = Watched(place, table, **WAYS["triggers"])
    with pytest.raises(StoreError, match="closed"):  # noqa: PT012
        async with watched.running(poll=0.05) as embedder:
            await watched.until_idle()
            for watch in (False, True):
                with pytest.raises(ConfigError, match="already"):
                    await embedder.backfill(watched._column, watch=watch)
            await watched._column.aclose()
            await asyncio.sleep(0.3)


async def test_a_column_that_tells_no_time_cannot_tell_of_edits(place: str, table: str) -> None:
    column = PostgresColumn(place, table, text="content", fingerprint="seen", updated_at="id")
    with pytest.raises(ConfigError, match="bigint"):
        await column.prepare(FakeProvider("fake", 8).space)
    await column.aclose()


async def test_an_idle_watch_reads_no_table_of_the_users(place: str, table: str) -> None:
    watched = Watched(place, table, fingerprint="seen", updated_at="updated_at")
    await watched._column.index_empty_rows()
    await run_sql(place, f"CREATE INDEX ON {table} (updated_at)")
    scans = "SELECT pg_stat_force_next_flush()", SCANS.format(table=table)
    async with watched.running(poll=0.02):
        assert "--create-index" not in await watched.until_idle()
        await run_sql(place, FULL.format(table=table), f"ANALYZE {table}")
        await watched.until_right()
        await asyncio.sleep(STATISTICS)
        ((before,),) = (await run_sql(place, *scans))[-1:]
        await asyncio.sleep(STATISTICS)
        ((after,),) = (await run_sql(place, *scans))[-1:]
        # Each look would add two; a session that rests tells up to ten seconds later what it has read before.
        assert after - before < 12


async def test_a_table_of_sqlite_is_watched_too(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE sections (id INTEGER PRIMARY KEY, content TEXT, embedding BLOB, seen TEXT)")
        connection.execute("INSERT INTO sections (content) VALUES ('one'), ('two')")
        provider, told = FakeProvider("fake", 8, keep_texts=True), list[Progress]()
        column = SQLiteColumn(tmp_path / "app.db", "sections", text="content", fingerprint="seen")
        async with Embedder(provider) as embedder:
            task = asyncio.create_task(embedder.backfill(column, watch=True, poll=0.05, on_progress=told.append))
            await until(lambda: told and "watching" in told[-1].waiting, bool)
            connection.execute("INSERT INTO sections (content) VALUES ('three')")
            connection.execute("UPDATE sections SET content = 'four' WHERE id = 1")
            await until(lambda: told[-1].stored, lambda stored: stored == 4)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await column.aclose()
    assert Counter(text for request in provider.ledger.log for text in request.texts) == Counter(
        ["one", "two", "three", "four"]
    )


class CountedColumn(SQLiteColumn):
    """Counts how often its table is read."""

    reads = 0

    def pending(self, limit: int | None = None) -> AsyncIterator[Record]:
        self.reads += 1
        return super().pending(limit)


async def test_a_file_of_sqlite_that_nobody_writes_to_is_not_read(tmp_path: Path) -> None:
    path, told = tmp_path / "app.db", list[Progress]()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE sections (id INTEGER PRIMARY KEY, content TEXT, embedding BLOB)")
        connection.execute("INSERT INTO sections (content) VALUES ('one')")
        column = CountedColumn(path, "sections", text="content")
        async with Embedder(FakeProvider("fake", 8)) as embedder:
            watch = embedder.backfill(column, watch=True, poll=0.01, recheck=1.0, on_progress=told.append)
            task = asyncio.create_task(watch)
            await until(lambda: "of a change of the file" in (told[-1].waiting if told else ""), bool)
            await asyncio.sleep(0.1)
            before = column.reads
            await asyncio.sleep(0.3)
            assert column.reads == before
            connection.execute("INSERT INTO sections (content) VALUES ('two')")
            await until(lambda: told[-1].stored, lambda stored: stored == 2)
            await until(lambda: column.reads, lambda reads: reads >= before + 3)  # what it wrote, and after `recheck`
            task.cancel()
            await asyncio.wait([task])
        await column.aclose()


@pytest.mark.parametrize("options", [{"batch": True}, {"limit": 5}, {"poll": 0}, {"recheck": -1.0}])
async def test_what_does_not_go_with_a_watch_is_refused(options: dict[str, Any]) -> None:
    column = PostgresColumn("postgresql://localhost/nowhere", "t", text="content")
    async with Embedder(FakeProvider("fake", 8)) as embedder:
        with pytest.raises(ConfigError):
            await embedder.backfill(column, watch=True, **options)


@pytest.mark.parametrize("options", [{"create_triggers": "search"}, {"updated_at": "updated_at"}])
def test_what_a_column_cannot_do_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PostgresColumn("postgresql://localhost/nowhere", "t", text="content", **options)
