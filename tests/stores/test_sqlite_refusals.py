"""Rows T1 and T3 in SQLite: rows that a table refuses, or drops, fail alone and are bought once, others are written."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from aembed import (
    AembedError,
    Embedder,
    FakeProvider,
    Record,
    Report,
    RowRefusedError,
    RowsRefusedError,
    SQLiteColumn,
    SQLiteStore,
    StoreError,
)
from aembed.stores._rules import probe_ids, probe_matrix
from aembed.stores._sqlite._filling import hooks_of
from tests.jobs import words
from tests.stores.sqlite_tables import DROPS, KEEPS, LOSES, REFUSES, Kind, made, run, trigger

UNIQUE = Kind(["CREATE UNIQUE INDEX hooked ON notes (CASE WHEN {is_bad} AND embedding IS NOT NULL THEN 1 END)"])
FILLED = "SELECT count(*) FROM notes WHERE embedding IS NOT NULL"
CONTENTS = "SELECT content FROM notes ORDER BY id"


async def backfilled(path: Path, *, batch: int = 50) -> tuple[Report, Counter[str]]:
    column, provider = SQLiteColumn(path, "notes", text="content"), FakeProvider("fake", 8, keep_texts=True)
    async with Embedder(provider, max_batch_size=batch) as embedder:
        report = await embedder.backfill(column)
    await column.aclose()
    return report, Counter(text for request in provider.ledger.log for text in request.texts)


async def stopped(path: Path) -> tuple[str, int]:
    """What a backfill that cannot be done says, and how many requests it has sent."""
    column, provider = SQLiteColumn(path, "notes", text="content"), FakeProvider("fake", 8)
    async with Embedder(provider) as embedder:
        with pytest.raises(StoreError) as raised:
            await embedder.backfill(column)
    await column.aclose()
    return str(raised.value), provider.ledger.requests


@pytest.mark.parametrize("kind", [*LOSES, "unique"])
async def test_t1_t3_rows_that_a_sqlite_table_does_not_keep_fail_alone_and_are_bought_once(
    kind: str, tmp_path: Path
) -> None:
    path, bad = tmp_path / "a.db", 3 if kind == "unique" else 4
    made(path, LOSES.get(kind, UNIQUE), words(100))
    report, bought = await backfilled(path)
    assert (report.stored, report.failed, report.pending) == (100 - bad, bad, 0)
    assert all(isinstance(failure.error, RowRefusedError) for failure in report.failures)
    assert (run(path, FILLED), max(bought.values())) == ([(100 - bad,)], 1)
    assert run(path, CONTENTS) == [(text,) for text in words(100)], "the rows are as they were"
    report, bought = await backfilled(path)
    assert (report.stored, report.failed, bought.total()) == (0, bad, 0), "nothing is paid for them again"


@pytest.mark.parametrize("kind", [kind for kind in LOSES if LOSES[kind].mended_by])
async def test_t3_what_the_table_takes_by_now_is_filled_by_the_next_run(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    made(path, LOSES[kind], words(100))
    await backfilled(path)
    run(path, LOSES[kind].mended_by)
    report, bought = await backfilled(path)
    assert (report.stored, report.failed, bought.total(), run(path, FILLED)) == (4, 0, 4, [(100,)])


async def test_t3_a_row_that_is_taken_by_now_is_not_filled_with_what_it_was_tried_with(tmp_path: Path) -> None:
    """One of two refused rows is taken by now; trying the other one ends the transaction."""
    path = tmp_path / "a.db"
    made(path, REFUSES["rollback"], words(100))
    await backfilled(path)
    run(path, "DROP TRIGGER hooked", *REFUSES["rollback"].statements("new.id = 99"))
    report, bought = await backfilled(path)
    assert (report.stored, report.failed, bought.total()) == (3, 1, 3)
    vectors = [vector for (vector,) in run(path, "SELECT embedding FROM notes WHERE embedding IS NOT NULL")]
    assert len(vectors) == 99
    assert not any(vector == probe_matrix(8).tobytes() for vector in vectors)


@pytest.mark.parametrize("kind", [kind for kind in LOSES if LOSES[kind].mended_by])
async def test_t1_t3_a_table_that_keeps_no_row_is_found_before_anything_is_paid(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    made(path, LOSES[kind], words(100), bad="new.id > 0")
    told, requests = await stopped(path)
    assert "does not keep what is written to it: " in told
    assert requests == 0
    assert kind in REFUSES or "the trigger 'hooked'" in told


async def test_t1_a_table_that_makes_every_vector_zero_is_found_before_anything_is_paid(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    zero = "UPDATE notes SET embedding = zeroblob(length(new.embedding)) WHERE id = new.id"
    made(path, trigger(zero, "AFTER UPDATE OF embedding"), words(10), bad="new.id > 0")
    told, requests = await stopped(path)
    assert "the trigger 'hooked'" in told
    assert requests == 0


async def test_t3_a_function_that_only_the_users_program_knows_is_named_before_anything_is_paid(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    made(path, trigger("SELECT sound_of(new.content)"), words(10))
    told, requests = await stopped(path)
    assert "no such function: sound_of" in told
    assert requests == 0


@pytest.mark.parametrize(
    ("column", "is_hook"),
    [
        ("slot INTEGER UNIQUE ON CONFLICT REPLACE", True),
        ("slot INTEGER UNIQUE on/* and what */\n conflict ignore", True),
        ("slot TEXT DEFAULT '' UNIQUE ON CONFLICT IGNORE -- what is 'new'", True),
        ("slot TEXT DEFAULT 'it''s -- ' UNIQUE ON CONFLICT IGNORE", True),
        ("\"it's\" TEXT, slot TEXT UNIQUE ON CONFLICT IGNORE, [it's too] TEXT", True),
        ("slot TEXT /* ' */ UNIQUE ON CONFLICT IGNORE /* ' */", True),
        ("slot INTEGER -- written ON CONFLICT REPLACE", False),
        ("slot INTEGER /* not\n ON CONFLICT REPLACE */", False),
        ("slot TEXT DEFAULT 'ON CONFLICT IGNORE'", False),
        ('"on conflict" TEXT, [ON CONFLICT x] TEXT, `ON CONFLICT y` TEXT', False),
        ("location TEXT, conflict TEXT", False),
    ],
)
def test_t1_on_conflict_is_a_constraint_where_sqlite_reads_it_as_one(column: str, is_hook: bool) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE TABLE notes (id INTEGER PRIMARY KEY, {column}\n)")
        assert bool(hooks_of("Notes", connection)) == is_hook


@pytest.mark.parametrize("kind", KEEPS)
async def test_t1_what_keeps_the_vectors_of_a_sqlite_table_is_no_hindrance(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    made(path, KEEPS[kind], words(100))
    report, bought = await backfilled(path)
    assert (report.stored, report.failed, set(bought.values())) == (100, 0, {1})
    assert run(path, FILLED) == [(100,)]


@pytest.mark.parametrize("kind", ["abort", "rollback", "clears", "ignore"])
async def test_t3_the_first_rows_may_all_be_lost(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    made(path, LOSES[kind], words(100), bad="new.id <= 60")
    report, bought = await backfilled(path, batch=20)
    assert (report.stored, report.failed, set(bought.values())) == (40, 60, {1})


@pytest.mark.parametrize("kind", ["abort", "rollback", "clears", "ignore", "edits"])
async def test_t1_t3_a_table_that_keeps_nothing_from_now_on_ends_the_job(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    made(path, Kind(), words(1_000))

    class Disturbed(FakeProvider):
        async def embed(self, texts: Sequence[str], **options: object) -> object:  # type: ignore[override]
            if self.ledger.requests == 20:
                run(path, *LOSES[kind].statements("new.id > 0"))
            return await super().embed(texts, **options)  # type: ignore[arg-type]

    column, provider = SQLiteColumn(path, "notes", text="content"), Disturbed("fake", 8)
    async with Embedder(provider, max_batch_size=20, concurrency=2) as embedder:
        with pytest.raises(StoreError, match="does not keep what is written") as raised:
            await embedder.backfill(column)
    await column.aclose()
    assert raised.value.report
    assert run(path, FILLED) == [(raised.value.report.stored,)]
    assert provider.ledger.requests < 30


async def test_t3_a_write_tells_which_rows_were_not_taken_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    made(path, REFUSES["rollback"], words(100))
    column = SQLiteColumn(path, "notes", text="content")
    ids = [str(number) for number in range(1, 101)]
    with pytest.raises(RowsRefusedError, match="not this one") as raised:
        await column.write(ids, words(100), np.ones((100, 8), np.float32))
    assert (set(raised.value.rows), raised.value.written) == ({"17", "18", "40", "99"}, 96)
    assert run(path, FILLED) == [(96,)]
    await column.aclose()


# The tables of a store of ours

RECORDS = [Record(f"{i:03d}", f"section {i}") for i in range(100)]
BAD = "new.id LIKE '%7'"
STORE_LOSES = {
    "abort": "CREATE TRIGGER hooked BEFORE INSERT ON aembed_rows WHEN {bad} BEGIN SELECT RAISE(ABORT, 'no'); END",
    "rollback": "CREATE TRIGGER hooked AFTER INSERT ON aembed_rows WHEN {bad} BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
    "ignore": "CREATE TRIGGER hooked BEFORE INSERT ON aembed_rows WHEN {bad} BEGIN SELECT RAISE(IGNORE); END",
    "deletes": "CREATE TRIGGER hooked AFTER INSERT ON aembed_rows WHEN {bad} "
    "BEGIN DELETE FROM aembed_rows WHERE id = new.id; END",
    "changes": "CREATE TRIGGER hooked AFTER INSERT ON aembed_rows WHEN {bad} "
    "BEGIN UPDATE aembed_rows SET embedding = x'00' WHERE id = new.id; END",
    "unique": "CREATE UNIQUE INDEX hooked ON aembed_rows (CASE WHEN {is_bad} THEN 1 END)",
}


async def prepared(path: Path, change: str) -> tuple[SQLiteStore, FakeProvider]:
    store, provider = SQLiteStore(path), FakeProvider("fake", 8, keep_texts=True)
    await store.prepare(provider.space)
    run(path, change)
    return store, provider


@pytest.mark.parametrize("kind", STORE_LOSES)
async def test_t1_t3_rows_that_a_sqlite_store_does_not_keep_fail_alone(kind: str, tmp_path: Path) -> None:
    change = STORE_LOSES[kind].replace("{bad}", BAD).replace("{is_bad}", BAD.replace("new.", ""))
    store, provider = await prepared(tmp_path / "a.db", change)
    bad = 9 if kind == "unique" else 10
    for _ in range(2):
        async with Embedder(provider, max_batch_size=50) as embedder:
            report = await embedder.embed_into(store, RECORDS)
        assert (report.stored + report.unchanged, report.failed) == (100 - bad, bad)
        assert (await store.info()).rows == 100 - bad
        assert all(failure.id.endswith("7") for failure in report.failures)
        assert sum(len(request.texts) for request in provider.ledger.log) == 100
    await store.aclose()


@pytest.mark.parametrize("kind", ["ignore", "deletes", "changes"])
async def test_t1_a_sqlite_store_that_keeps_no_row_is_found_before_anything_is_paid(kind: str, tmp_path: Path) -> None:
    store, provider = await prepared(tmp_path / "a.db", STORE_LOSES[kind].replace("{bad}", "true"))
    async with Embedder(provider) as embedder:
        with pytest.raises(AembedError, match=r"does not keep what is written to it: .* the trigger 'hooked'"):
            await embedder.embed_into(store, RECORDS)
    await store.aclose()
    assert provider.ledger.requests == 0


async def test_t1_a_trigger_of_the_users_own_that_follows_a_sqlite_store_is_no_hindrance(tmp_path: Path) -> None:
    change = "CREATE TRIGGER hooked AFTER INSERT ON aembed_rows BEGIN DELETE FROM aembed_refusals WHERE id = ''; END"
    store, provider = await prepared(tmp_path / "a.db", change)
    async with Embedder(provider, max_batch_size=20) as embedder:
        assert (await embedder.embed_into(store, RECORDS)).stored == 100
        edited = [Record(record.id, record.text + "!") for record in RECORDS]
        assert (await embedder.embed_into(store, edited)).stored == 100
    await store.aclose()


def test_the_kinds_of_tables_have_names_of_their_own() -> None:
    assert not REFUSES.keys() & DROPS.keys()


def test_t3_no_two_probes_are_alike_in_what_a_trigger_may_drop_rows_for() -> None:
    """With ids drawn at random one preparation of a table in four thousand was refused for a trigger of two digits."""
    ids = [*probe_ids(), *probe_ids()]
    assert len(set(ids)) == 8
    assert len({id[-1] for id in ids}) == 4
