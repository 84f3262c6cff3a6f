"""Triggers and rules that drop what is written, or change it: nothing is told as stored that is not there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from aembed.embedder import Embedder
from aembed.errors import RowRefusedError, StoreError
from aembed.providers.fake import FakeProvider
from aembed.stores.postgresql import PostgresStore
from aembed.stores.postgresql_column import PostgresColumn
from aembed.types import Record
from tests.stage.postgres import run_sql
from tests.stores.kinds import CLEARS_AFTER, DEFERRED, HARMLESS, LATER, SOME_DROPPED, of
from tests.stores.tables import backfilled, filled, new_table, trigger

CLEARS = "new.embedding := null; RETURN new;"
EMPTIES_ALL = (
    """CREATE FUNCTION hooked_{table}() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN UPDATE {table} SET embedding = null; RETURN null; END $$""",
    """CREATE TRIGGER hooked AFTER UPDATE ON {table} FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
        EXECUTE FUNCTION hooked_{table}()""",
)
PARTITIONS = (
    "CREATE TABLE {table} (id int PRIMARY KEY, content text, embedding vector(8), seen bytea) PARTITION BY RANGE (id)",
    "CREATE TABLE {table}_1 PARTITION OF {table} FOR VALUES FROM (0) TO (1000)",
)
DROPS: dict[str, tuple[Sequence[str], str]] = {
    "clears": (trigger(CLEARS), 'trigger "hooked"'),
    "keeps the old": (trigger("new.embedding := old.embedding; RETURN new;"), 'trigger "hooked"'),
    "returns null": (trigger("RETURN null;"), 'trigger "hooked"'),
    "after": (trigger(CLEARS_AFTER, "AFTER UPDATE OF embedding"), 'trigger "hooked"'),
    "after the statement": (EMPTIES_ALL, 'trigger "hooked"'),
    "at the commit": (trigger(CLEARS_AFTER, DEFERRED), 'trigger "hooked"'),
    "other vector": (trigger("new.embedding := '[1,0,0,0,0,0,0,0]'; RETURN new;"), 'trigger "hooked"'),
    "all alike": (trigger("new.embedding := array_fill(0.5, ARRAY[8])::vector; RETURN new;"), 'trigger "hooked"'),
    "other text": (trigger("new.content := new.content || '!'; RETURN new;"), 'trigger "hooked"'),
    "rule": (["CREATE RULE none AS ON UPDATE TO {table} DO INSTEAD NOTHING"], 'rule "none"'),
    "rule elsewhere": (
        [
            "CREATE TABLE {table}_log (id int)",
            "CREATE RULE log AS ON UPDATE TO {table} DO INSTEAD INSERT INTO {table}_log VALUES (new.id)",
        ],
        'rule "log"',
    ),
}


@pytest.mark.parametrize("kind", DROPS)
async def test_t1_what_drops_every_vector_is_named_before_anything_is_paid(
    database: str, table: str, kind: str
) -> None:
    changes, name = DROPS[kind]
    await new_table(database, table, *changes)
    ended = await backfilled(database, table)
    assert isinstance(ended.error, StoreError)
    assert name in str(ended.error)
    assert not ended.bought
    assert await filled(database, table) == []


async def test_t1_a_trigger_of_a_partition_is_named(database: str, table: str) -> None:
    part = [change.replace("ON {table} ", "ON {table}_1 ") for change in trigger(CLEARS)]
    await run_sql(database, *(part.format(table=table) for part in PARTITIONS))
    await new_table(database, table, *part, create="SELECT 1")
    ended = await backfilled(database, table)
    assert f'trigger "hooked" on "public"."{table}_1"' in str(ended.error)
    assert not ended.bought


async def test_t1_a_trigger_of_a_table_that_inherits_is_named(database: str, table: str) -> None:
    child = f"CREATE TABLE {table}_child (PRIMARY KEY (id)) INHERITS ({table})"
    part = [change.replace("ON {table} ", "ON {table}_child ") for change in trigger(CLEARS)]
    rows = f"INSERT INTO {table}_child SELECT i, 'section ' || i FROM generate_series(1, 100) AS i"  # noqa: S608
    await new_table(database, table, child, rows, *part, n=0)
    ended = await backfilled(database, table)
    assert f'trigger "hooked" on "public"."{table}_child"' in str(ended.error)
    assert not ended.bought


@pytest.mark.parametrize("kind", SOME_DROPPED)
async def test_t1_rows_that_are_dropped_fail_alone_and_are_bought_once(database: str, table: str, kind: str) -> None:
    await new_table(database, table, *of(SOME_DROPPED[kind], "new.id % 10 = 3"))
    ended = await backfilled(database, table)
    assert ended.error is None
    assert ended.report is not None
    lost = {str(i) for i in range(3, 100, 10)}
    assert (ended.report.stored, ended.report.failed, ended.report.pending) == (90, 10, 0)
    assert ended.failures.keys() == lost
    assert all(isinstance(error, RowRefusedError) for error in ended.failures.values())
    assert {str(id) for id in await filled(database, table)} == {str(i) for i in range(1, 101)} - lost
    assert set(ended.bought.values()) == {1}


@pytest.mark.parametrize("kind", HARMLESS)
async def test_t1_what_keeps_the_vectors_is_no_hindrance(database: str, table: str, kind: str) -> None:
    await new_table(database, table, *HARMLESS[kind])
    ended = await backfilled(database, table)
    assert ended.report is not None
    assert (ended.report.stored, ended.report.failed, ended.error) == (100, 0, None)
    assert len(await filled(database, table)) == 100
    assert set(ended.bought.values()) == {1}


@pytest.mark.parametrize("late", ["clears", "after", "at the commit", "rule"])
async def test_t1_a_trigger_that_comes_in_mid_job_ends_it(database: str, table: str, late: str) -> None:
    await new_table(database, table, n=2_000)
    provider = FakeProvider("fake", 8, keep_texts=True)

    class Disturbed(FakeProvider):
        async def embed(self, texts: Sequence[str], *, input_type: object) -> object:  # type: ignore[override]
            if self.ledger.requests == 20:
                await run_sql(database, *(part.replace("{table}", table) for part in DROPS[late][0]))
            return await super().embed(texts, input_type=input_type)  # type: ignore[arg-type]

    provider = Disturbed("fake", 8, keep_texts=True)
    ended = await backfilled(database, table, provider=provider)
    assert isinstance(ended.error, StoreError)
    assert ended.report is not None
    there = await filled(database, table)
    if late not in ("after",):
        assert ended.report.stored == len(there)
    assert len(ended.bought) < 1_000
    assert set(ended.bought.values()) == {1}


# The tables of a store of ours


RECORDS = [Record(f"{i:03d}", f"section {i}") for i in range(100)]
STORE_DROPS = {
    "returns null": (trigger("RETURN null;", "BEFORE INSERT"), 'trigger "hooked"'),
    "other vector": (trigger("new.embedding := '[1,0,0,0,0,0,0,0]'; RETURN new;", "BEFORE INSERT"), 'trigger "hooked"'),
    "other digest": (trigger("new.digest := 'x'; RETURN new;", "BEFORE INSERT"), 'trigger "hooked"'),
    "deletes": (
        trigger("DELETE FROM public.{table} WHERE id = new.id; RETURN null;", f"AFTER INSERT {LATER}"),
        'trigger "hooked"',
    ),
    "knows no names": (
        trigger("INSERT INTO {table}_log VALUES (1); RETURN new;", "BEFORE INSERT"),
        r"in function public.hooked_.*write the names",
    ),
    "rule": (["CREATE RULE none AS ON INSERT TO {table} DO INSTEAD NOTHING"], 'rule "none"'),
}


async def stored(database: str, table: str, *changes: str) -> tuple[PostgresStore, FakeProvider]:
    store, provider = PostgresStore(database, table=table), FakeProvider("fake", 8, keep_texts=True)
    await store.prepare(provider.space)
    await run_sql(database, *(change.replace("{table}", table) for change in changes))
    return store, provider


@pytest.mark.parametrize("kind", STORE_DROPS)
async def test_t1_a_stores_table_that_drops_every_row_is_found_before_anything_is_paid(
    database: str, table: str, kind: str
) -> None:
    changes, name = STORE_DROPS[kind]
    store, provider = await stored(database, table, *changes)
    async with Embedder(provider) as embedder:
        with pytest.raises(StoreError, match=name):
            await embedder.embed_into(store, RECORDS)
    await store.aclose()
    assert provider.ledger.requests == 0


@pytest.mark.parametrize("when", ["BEFORE INSERT", "BEFORE INSERT OR UPDATE"])
async def test_t1_rows_of_a_store_that_are_dropped_fail_alone(database: str, table: str, when: str) -> None:
    some = trigger("IF new.id LIKE '%3' THEN RETURN null; END IF; RETURN new;", when)
    store, provider = await stored(database, table, *some)
    for _ in range(2):
        async with Embedder(provider, max_batch_size=20) as embedder:
            report = await embedder.embed_into(store, RECORDS)
        assert (report.stored + report.unchanged, report.failed) == (90, 10)
        assert (await store.info()).rows == 90
        assert sum(len(request.texts) for request in provider.ledger.log) == 100
    await store.aclose()


async def test_t1_a_stores_table_that_touches_its_rows_keeps_them(database: str, table: str) -> None:
    touches = trigger("new.updated_at := now(); RETURN new;", "BEFORE INSERT OR UPDATE")
    store, provider = await stored(database, table, *touches)
    async with Embedder(provider, max_batch_size=20) as embedder:
        assert (await embedder.embed_into(store, RECORDS)).stored == 100
        edited = [Record(record.id, record.text + "!") for record in RECORDS]
        assert (await embedder.embed_into(store, edited)).stored == 100
    assert (await store.info()).rows == 100
    await store.aclose()


async def test_t1_a_trigger_that_comes_late_is_named_beside_one_that_was_there(database: str, table: str) -> None:
    await new_table(database, table, *trigger("new.seen := 'x'; RETURN new;", name="early"))
    column = PostgresColumn(database, table, text="content")
    await column.prepare(FakeProvider("fake", 8).space)
    await run_sql(database, *(part.format(table=table) for part in trigger(CLEARS, name="late")))
    with pytest.raises(StoreError, match='trigger "late"'):
        await column.write(["1"], ["section 1"], np.ones((1, 8), np.float32))
    await column.aclose()


async def test_t1_a_table_in_which_nothing_is_pending_is_not_tried(database: str, table: str) -> None:
    await new_table(database, table)
    await backfilled(database, table)
    kept = "IF old.embedding IS NOT NULL THEN RAISE EXCEPTION 'no'; END IF; RETURN new;"
    await run_sql(database, *(part.format(table=table) for part in trigger(kept)))
    ended = await backfilled(database, table)
    assert (ended.error, ended.bought.total()) == (None, 0)
    await run_sql(database, f"INSERT INTO {table} VALUES (101, 'new')")  # noqa: S608
    ended = await backfilled(database, table)
    assert (ended.error, ended.bought.total()) == (None, 1)
