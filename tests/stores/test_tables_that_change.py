"""Texts that change by themselves, or by what the job writes: a row is bought once in a run, twice if it was edited."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.embedder import Embedder
from aembed.errors import ConfigError, StoreError
from aembed.pipeline.purchases import Purchases
from aembed.providers.fake import FakeProvider
from aembed.results import Report
from aembed.stores.postgresql_column import PostgresColumn
from aembed.types import Matrix, Metadata, Record, Space
from tests.stage.postgres import run_sql
from tests.stores.tables import backfilled, filled, new_table, trigger


@pytest.mark.parametrize(
    "text_sql",
    ["content || now()", "content || random()", "content || clock_timestamp()", "gen_random_uuid()::text"],
)
@pytest.mark.parametrize("fingerprint", [None, "seen"])
async def test_t2_a_text_that_is_another_one_each_time_is_refused_before_anything_is_paid(
    database: str, table: str, text_sql: str, fingerprint: str | None
) -> None:
    await new_table(database, table)
    ended = await backfilled(database, table, text_sql=text_sql, fingerprint=fingerprint)
    assert isinstance(ended.error, ConfigError)
    assert "text_sql" in str(ended.error)
    assert not ended.bought
    column = PostgresColumn(database, table, text_sql=text_sql)
    with pytest.raises(ConfigError, match=r"now\(\) and random\(\)"):
        await column.preflight(Space("fake", "fake", 8))
    await column.aclose()


async def test_t2_a_text_that_only_some_rows_change_ends_too(database: str, table: str) -> None:
    await new_table(database, table)
    changing = "content || CASE WHEN id > 50 THEN random()::text ELSE '' END"
    ended = await backfilled(database, table, text_sql=changing)
    assert ended.report is not None
    assert (ended.report.stored, ended.report.failed, ended.report.pending) == (50, 50, 0)
    assert len(ended.bought) <= 150
    assert all("its text changes all the time" in str(error) for error in ended.failures.values())


EDITS = {
    "all": trigger("new.content := new.content || '!'; RETURN new;"),
    "some": trigger("IF new.id % 2 = 0 THEN new.content := new.content || '!'; END IF; RETURN new;"),
    "later": trigger(
        "UPDATE {table} SET content = content || '!' WHERE id = new.id; RETURN null;",
        "AFTER UPDATE OF embedding DEFERRABLE INITIALLY DEFERRED",
    ),
}


@pytest.mark.parametrize("kind", EDITS)
async def test_t2_a_trigger_that_edits_the_text_of_a_row_that_is_filled(database: str, table: str, kind: str) -> None:
    await new_table(database, table, *EDITS[kind])
    ended = await backfilled(database, table, fingerprint="seen")
    if kind == "some":
        assert ended.report is not None
        assert (ended.report.stored, ended.report.failed) == (50, 50)
        assert set(ended.bought.values()) == {1}
    else:
        assert isinstance(ended.error, StoreError)
        assert not ended.bought
    assert len(await filled(database, table)) == (50 if kind == "some" else 0)


async def test_s4_a_backend_that_ends_while_the_table_is_tried_is_no_end_of_the_job(database: str, table: str) -> None:
    ends = "IF nextval('{table}_once') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN new;"
    await new_table(database, table, "CREATE SEQUENCE {table}_once", *trigger(ends))
    ended = await backfilled(database, table)
    assert ended.error is None
    assert ended.report is not None
    assert (ended.report.stored, set(ended.bought.values())) == (100, {1})


class Emptied(FakeProvider):
    """Each time a request is under way, somebody empties what was filled, or edits every row."""

    def __init__(self, database: str, statement: str) -> None:
        super().__init__("fake", 8, keep_texts=True)
        self._disturb = database, statement

    async def embed(self, texts: Sequence[str], **options: Any) -> Any:
        await run_sql(*self._disturb)
        return await super().embed(texts, **options)


@pytest.mark.parametrize("fingerprint", [None, "seen"])
@pytest.mark.parametrize(
    ("change", "most"),
    [
        ("SET embedding = null", 1),
        ("SET embedding = null, content = content || '!'", 2),
        ("SET content = content || '!'", 2),
    ],
    ids=["emptied", "emptied and edited", "edited"],
)
async def test_t2_a_run_ends_whatever_others_do_to_its_table(
    database: str, table: str, change: str, most: int, fingerprint: str | None
) -> None:
    await new_table(database, table, n=40)
    provider = Emptied(database, f"UPDATE {table} {change}")
    ended = await backfilled(database, table, batch=10, provider=provider, fingerprint=fingerprint)
    rows = Counter(text.rstrip("!") for text in ended.bought.elements())
    assert max(rows.values()) <= most
    assert ended.report is not None
    assert ended.report.pending == 0


class Forgetful:
    """A backlog of the user's own that says that it was filled, and is not."""

    def __init__(self, *, says: bool, edits: bool) -> None:
        self._says, self._edits = says, edits
        self._passes = 0

    async def prepare(self, space: Space) -> Space:
        return space

    async def pending(self, limit: int | None = None) -> AsyncIterator[Record]:
        for _ in range(50):
            self._passes += 1
            for i in range(10):
                yield Record(str(i), f"text {i} {self._passes if self._edits else ''}")

    async def write(self, ids: Sequence[str], texts: Sequence[str], matrix: Matrix) -> int:
        return len(ids) if self._says else 0

    async def count(self) -> int:
        return 10

    async def search(self, vector: Any, k: int, *, where: Metadata | None = None) -> list[Any]:
        return []

    async def aclose(self) -> None:
        return None


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("edits", [True, False])
async def test_t2_a_backlog_that_is_never_filled_is_bought_once_and_twice_if_edited(says: bool, edits: bool) -> None:
    provider = FakeProvider("fake", 8, keep_texts=True)
    async with Embedder(provider, max_batch_size=5) as embedder:
        try:
            report = await embedder.backfill(Forgetful(says=says, edits=edits))
        except StoreError as error:
            report = cast(Report, error.report)
    bought = Counter(text.split()[1] for request in provider.ledger.log for text in request.texts)
    assert set(bought.values()) <= {1, 2}
    assert edits or not says or set(bought.values()) == {1}
    assert report.failed == (20 if edits else 10)  # The second text of an id fails, too, where the first is at work.


@given(st.lists(st.tuples(st.text(max_size=2), st.sampled_from("abc")), max_size=60))
def test_t2_purchases_are_remembered_by_row_and_text(pairs: list[tuple[str, str]]) -> None:
    purchases, exact = Purchases(), list[tuple[str, str]]()
    for id, text in pairs:
        assert sorted(purchases.purchases_of(id, text)) == sorted(text == other for row, other in exact if row == id)
        purchases.note(id, text)
        exact.append((id, text))


def test_t2_purchases_take_eight_bytes_a_row() -> None:
    purchases = Purchases()
    for i in range(100_000):
        purchases.note(str(i), "text")
    shards = purchases._shards.values()
    assert sum(len(shard) * shard.itemsize for shard in shards) == 800_000
    assert all(purchases.purchases_of(str(i), "text") == [True] for i in random.Random(1).sample(range(100_000), 1_000))
    assert np.mean([len(purchases.purchases_of(f"x{i}", "text")) for i in range(10_000)]) < 0.01
