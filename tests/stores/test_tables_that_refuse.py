"""Rows that a table refuses for what they hold: they fail alone, all others are written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import numpy as np
import pytest

from aembed.embedder import Embedder
from aembed.errors import RowRefusedError, RowsRefusedError, StoreError
from aembed.providers.fake import FakeProvider
from aembed.stores.postgresql import PostgresStore
from aembed.stores.postgresql_column import PostgresColumn
from aembed.types import Record, Refusal, Space
from tests.stage.postgres import run_sql
from tests.stores.kinds import SOME_REFUSED, of
from tests.stores.samples import rows
from tests.stores.tables import backfilled, filled, new_table, trigger

BAD = {17, 18, 40, 99}
IS_BAD = "new.id IN (17, 18, 40, 99)"


@pytest.mark.parametrize("kind", SOME_REFUSED)
async def test_t3_rows_that_the_table_refuses_fail_alone_and_are_bought_once(
    database: str, table: str, kind: str
) -> None:
    await new_table(database, table, *of(SOME_REFUSED[kind], IS_BAD))
    for run in range(3):
        ended = await backfilled(database, table, batch=50)
        assert ended.report is not None
        assert ended.report.stored == (0 if run else 96)
        assert ended.report.failed == len(ended.failures) == 4
        assert {int(id) for id in ended.failures} == BAD
        assert sum(ended.bought.values()) == (0 if run else 100)
        assert run or all(isinstance(error, RowRefusedError) for error in ended.failures.values())
    assert BAD.isdisjoint(await filled(database, table))
    assert len(await filled(database, table)) == 96


async def test_t3_a_row_that_was_refused_is_tried_again_for_nothing_once_the_table_was_mended(
    database: str, table: str
) -> None:
    await new_table(database, table, *of(SOME_REFUSED["raise"], IS_BAD))
    await backfilled(database, table)
    await run_sql(database, f"DROP TRIGGER hooked ON {table}")
    ended = await backfilled(database, table)
    assert ended.report is not None
    assert (ended.report.stored, ended.report.failed) == (4, 0)
    assert sum(ended.bought.values()) == 4
    column = PostgresColumn(database, table, text="content")
    assert await column.refusals() == []
    await column.aclose()


async def test_t3_workers_that_share_a_table_buy_no_refused_row_twice(
    database: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.stores._postgresql._filling.ROWS_PER_PAGE", 20)
    await new_table(database, table, "ALTER TABLE {table} ADD CHECK (id % 7 <> 3) NOT VALID", n=400)
    provider = FakeProvider("fake", 8, keep_texts=True, latency=0.02)

    async def work() -> tuple[int, int]:
        column = PostgresColumn(database, table, text="content")
        async with Embedder(provider, max_batch_size=10, concurrency=2) as embedder:
            report = await embedder.backfill(column)
        await column.aclose()
        return report.stored, report.failed

    done = await asyncio.gather(work(), work(), work())
    texts = [text for request in provider.ledger.log for text in request.texts]
    bad = len(range(3, 401, 7))
    # What one worker leaves as refused, when it ends, others find refused.
    assert sum(stored for stored, _ in done) == 400 - bad
    assert sum(failed for _, failed in done) >= bad
    assert len(texts) == len(set(texts)) == 400


async def test_t3_the_first_rows_may_all_be_refused(database: str, table: str) -> None:
    await new_table(database, table, "ALTER TABLE {table} ADD CONSTRAINT late CHECK (id > 400) NOT VALID", n=500)
    ended = await backfilled(database, table, batch=100)
    assert ended.report is not None
    assert (ended.report.stored, ended.report.failed, ended.error) == (100, 400, None)
    assert set(ended.bought.values()) == {1}
    assert "constraint 'late'" in str(ended.failures["1"])


async def test_t3_a_table_that_refuses_every_row_is_found_before_anything_is_paid(database: str, table: str) -> None:
    await new_table(database, table, *trigger("RAISE EXCEPTION 'none';"))
    ended = await backfilled(database, table)
    assert isinstance(ended.error, StoreError)
    assert f"in function public.hooked_{table}()" in str(ended.error) or f"in function hooked_{table}()" in str(
        ended.error
    )
    assert not ended.bought


FORBIDS = (
    """CREATE FUNCTION forbid_{table}() RETURNS event_trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'no tables in working hours'; END $$""",
    "CREATE EVENT TRIGGER forbid_{table} ON ddl_command_start WHEN TAG IN ('CREATE TABLE') "
    "EXECUTE FUNCTION forbid_{table}()",
)


async def test_t52_an_event_trigger_that_forbids_tables_is_blamed_and_no_row(database: str, table: str) -> None:
    """A pool of the user's needs a temporary table for the rows; one of ours needs none but those of the first job."""
    await new_table(database, table)
    first = await backfilled(database, table)
    await run_sql(database, f"UPDATE {table} SET embedding = NULL", *(part.format(table=table) for part in FORBIDS))  # noqa: S608
    try:
        async with asyncpg.create_pool(database, min_size=1) as pool:
            by_pool = await backfilled(pool, table)
        by_url = await backfilled(database, table)
        await run_sql(database, "DROP SCHEMA aembed CASCADE")
        anew = await backfilled(database, table)
    finally:
        await run_sql(database, f"DROP EVENT TRIGGER forbid_{table}")
    assert first.bought == by_url.bought
    assert (first.error, by_url.error) == (None, None)
    for ended in (by_pool, anew):
        assert "no tables in working hours (P0001); an event trigger forbids it" in str(ended.error)
        assert not ended.bought


@pytest.mark.parametrize("change", ["", "ALTER PUBLICATION {table} SET TABLE {table} WHERE (n > 5)"])
async def test_t52_a_publication_that_needs_more_than_a_key_is_blamed(database: str, table: str, change: str) -> None:
    create = "CREATE TABLE {table} (id int UNIQUE NOT NULL, content text, n int, embedding vector(8))"
    key = "ALTER TABLE {table} ADD PRIMARY KEY (id)" if change else "SELECT 1"
    await new_table(database, table, key, "CREATE PUBLICATION {table} FOR TABLE {table}", change or key, create=create)
    ended = await backfilled(database, table, key="id")
    await run_sql(database, f"DROP PUBLICATION {table}")
    assert "a publication needs more than the table's replica identity has" in str(ended.error)
    assert not ended.bought


async def test_t3_a_table_that_refuses_every_row_in_mid_job_ends_it(database: str, table: str) -> None:
    await new_table(database, table, n=2_000)

    class Disturbed(FakeProvider):
        async def embed(self, texts: Sequence[str], **options: object) -> object:  # type: ignore[override]
            if self.ledger.requests == 20:
                await run_sql(database, *(part.replace("{table}", table) for part in trigger("RAISE EXCEPTION 'no';")))
            return await super().embed(texts, **options)  # type: ignore[arg-type]

    ended = await backfilled(database, table, provider=Disturbed("fake", 8, keep_texts=True))
    assert isinstance(ended.error, StoreError)
    assert "(P0001)" in str(ended.error)
    assert sum(ended.bought.values()) < 1_000


async def test_t3_a_vector_that_a_halfvec_cannot_hold_fails_alone(database: str, table: str) -> None:
    await new_table(database, table, "ALTER TABLE {table} ALTER embedding TYPE halfvec(8)", n=3)
    column = PostgresColumn(database, table, text="content")
    await column.prepare(Space("fake", "fake", 8))
    matrix = np.ones((3, 8), np.float32)
    matrix[1, 3] = 1e6
    with pytest.raises(RowsRefusedError, match="65,504") as caught:
        await column.write(["1", "2", "3"], ["section 1", "section 2", "section 3"], matrix)
    assert (list(caught.value.rows), caught.value.written) == (["2"], 2)
    await column.aclose()
    assert await filled(database, table) == [1, 3]


# The tables of a store of ours


RECORDS = [Record(f"{i:03d}", f"section {i}") for i in range(100)]
STORE_REFUSES = {
    "raise": trigger(
        "IF new.id LIKE '%7' THEN RAISE EXCEPTION 'no, %', new.text; END IF; RETURN new;", "BEFORE INSERT"
    ),
    "check": ["ALTER TABLE {table} ADD CONSTRAINT sevens CHECK (id NOT LIKE '%7')"],
    "unique": [
        "CREATE UNIQUE INDEX ON {table} ((CASE WHEN id LIKE '%7' THEN 'x' ELSE id END))",
        "INSERT INTO {table} (id, fingerprint, digest, embedding) VALUES ('x', '', '', '[1,1,1,1,1,1,1,1]')",
    ],
    "index": ["CREATE INDEX ON {table} (text)"],
}


@pytest.mark.parametrize("kind", STORE_REFUSES)
async def test_t3_rows_that_a_stores_table_refuses_fail_alone(database: str, table: str, kind: str) -> None:
    provider = FakeProvider("fake", 8, keep_texts=True)
    store = PostgresStore(database, table=table)
    await store.prepare(provider.space)
    await run_sql(database, *(change.replace("{table}", table) for change in STORE_REFUSES[kind]))
    # An entry of a B-tree holds a third of a page; what can be compressed is no test.
    noise = np.random.default_rng(1).integers(33, 126, (10, 9_000), np.uint8)
    long = {f"{10 * i + 7:03d}": bytes(each).decode() for i, each in enumerate(noise)}
    records = [Record(each.id, long.get(each.id, each.text)) for each in RECORDS]
    for run in range(2):
        async with Embedder(provider, max_batch_size=50) as embedder:
            report = await embedder.embed_into(store, records)
        assert (report.stored, report.unchanged, report.failed) == ((0, 90, 10) if run else (90, 0, 10))
        assert sum(len(request.texts) for request in provider.ledger.log) == 100
        assert {failure.id for failure in report.failures} == set(long)
    await store.aclose()


async def test_t3_refusals_are_kept_beside_rows_that_are_refused(database: str, table: str) -> None:
    store = PostgresStore(database, table=table)
    await store.prepare(Space("fake", "fake", 4))
    await run_sql(database, f"ALTER TABLE {table} ADD CHECK (id <> 'a')")
    with pytest.raises(RowsRefusedError):
        await store.write(rows(["a"]), [Refusal("b", b"f", "BadRequestError", "no")])
    assert [refusal.id for refusal in await store.refusals()] == ["b"]
    with pytest.raises(RowsRefusedError) as caught:
        await store.write(rows(["a", "c"]), [Refusal("d", b"f", "BadRequestError", "no")])
    assert (caught.value.written, list(caught.value.rows)) == (1, ["a"])
    assert [refusal.id for refusal in await store.refusals()] == ["b", "d"]
    await store.aclose()
