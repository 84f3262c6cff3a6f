"""A job with batch=True, run again and again: over hours, lost answers, and what a provider may answer."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aembed import BadRequestError, Budget, BudgetExceededError, ConfigError, Embedder, MemoryStore, Record, Report
from aembed.batch_protocols import BatchLine
from aembed.errors import UnavailableError
from aembed.events import BatchCollected, BatchSubmitted, Event, JobBegan, JobEnded
from aembed.preparation import Preparation
from aembed.protocols import Store
from aembed.providers.fake import LIMITS, FakeProvider, fake_vectors
from aembed.results import Stats
from aembed.stores import open_store
from aembed.types import TooLong
from tests.batches.provider import DAY, TERMS, BatchFake, refused
from tests.stores.samples import NewPlace

pytestmark = pytest.mark.anyio

HOUR = 3_600.0
in_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, database_place: NewPlace) -> AsyncIterator[Store]:
    opened = open_store(database_place(request.param, tmp_path))
    yield opened
    await opened.aclose()


@pytest.fixture
def fake() -> BatchFake:
    return BatchFake()


def records(count: int, word: str = "text") -> list[Record]:
    return [Record(f"{word}-{number}", f"{word} number {number}") for number in range(count)]


async def run(fake: BatchFake, store: Store, given: list[Record] | AsyncIterator[Record], **options: object) -> Report:
    """One run of a process of its own."""
    kept: Any = {name: options.pop(name, None) for name in ("budget", "coordinator")}
    async with Embedder(fake, **kept) as embedder:
        embedder._engine.clock = lambda: fake.now
        return await embedder.embed_into(store, given, batch=True, **options)  # type: ignore[arg-type]


async def out(store: Any) -> list[str]:
    """The keys of batches that are not done with."""
    return [each.key for each in await store.batches() if not each.key.startswith("done: ")]


async def rows_are_right(store: Store, given: list[Record]) -> None:
    rows = {row.id: row async for row in store.rows()}
    assert rows.keys() == {record.id for record in given}
    for record in given:
        assert rows[record.id].text == record.text
        np.testing.assert_array_equal(rows[record.id].vector, fake_vectors([record.text.encode()], 64)[0])


async def test_a_batch_is_submitted_and_collected_by_the_next_runs(fake: BatchFake, store: Store) -> None:
    given = records(30)
    first = await run(fake, store, given)
    assert (first.inputs, first.submitted, first.pending, first.stored) == (30, 30, 0, 0)
    assert len(fake.states) == 2  # a file takes 20 texts
    again = await run(fake, store, given)
    assert (again.submitted, again.stored, len(fake.states)) == (30, 0, 2)

    fake.run_batches()
    done = await run(fake, store, given)
    assert (done.submitted, done.stored, done.inputs) == (0, 30, 30)
    tokens = sum(len(record.text) for record in given)
    assert (done.billed_tokens, done.cost_usd) == (tokens, tokens * 0.5 / 1_000_000)
    await rows_are_right(store, given)
    assert set(fake.bought.values()) == {1}
    assert fake.files == {}  # nothing is left at the provider
    assert fake.ledger.requests == 0
    last = await run(fake, store, given)
    assert (last.unchanged, len(fake.states)) == (30, 2)
    assert await out(store) == []
    fake.now += 4 * DAY
    await run(fake, store, given)
    assert await store.batches() == []  # type: ignore[attr-defined]


async def test_live_runs_leave_alone_what_is_out_and_take_what_a_batch_has_brought(
    fake: BatchFake, store: Store
) -> None:
    given = records(6)
    await run(fake, store, given)
    async with Embedder(fake) as embedder:
        report = await embedder.embed_into(store, [*given, Record("new", "a new text")])
        assert (report.submitted, report.stored, fake.ledger.texts) == (6, 1, 1)
        fake.run_batches()
        await run(fake, store, [])  # collects, and has no records to write
        report = await embedder.embed_into(store, given)
        assert (report.stored, fake.ledger.texts) == (6, 1)
    await rows_are_right(store, [*given, Record("new", "a new text")])


async def test_equal_texts_are_sent_once_and_written_for_each(fake: BatchFake, store: Store) -> None:
    given = [Record(str(number), f"text {number % 3}") for number in range(9)]
    report = await run(fake, store, given)
    assert (report.submitted, report.duplicates) == (9, 6)
    fake.run_batches()
    assert (await run(fake, store, given)).stored == 9
    assert sum(fake.bought.values()) == 3


@pytest.mark.parametrize("lag", [0.0, 300.0])
async def test_q1_a_create_whose_answer_was_lost_is_found_in_the_list(
    fake: BatchFake, store: Store, lag: float
) -> None:
    fake.lose, fake.list_lag, given = ["create"], lag, records(5)
    assert (await run(fake, store, given)).submitted == 5
    fake.now += 400
    fake.run_batches()
    assert (await run(fake, store, given)).stored == 5
    assert set(fake.bought.values()) == {1}


async def test_q2_a_create_that_never_came_is_given_up_after_the_grace_and_its_file_is_the_fence(
    fake: BatchFake, store: Store
) -> None:
    given = records(5)
    fake.before = lambda call: _raise(UnavailableError("away")) if call == "create" else None
    assert (await run(fake, store, given)).submitted == 5
    fake.before = lambda call: None
    fake.now += 300
    assert (await run(fake, store, given)).submitted == 5
    assert not fake.states
    fake.now += 301
    (file,) = fake.files
    assert (await run(fake, store, given)).submitted == 5
    assert file not in fake.files
    assert len(fake.states) == 1
    # The first create comes through after all, and finds no file: it fails, and nothing is billed.
    state = next(iter(fake.states.values()))
    (kept,) = [each for each in await store.batches() if each.key != state.key]  # type: ignore[attr-defined]
    fake.states["late"] = replace(state, id="late", key=kept.key, input_file=file, created_at=fake.now)
    fake.run_batches()
    report = await run(fake, store, given)
    assert (report.stored, report.bought_twice) == (5, 0)
    assert await out(store) == []


async def test_q3_a_twin_that_comes_up_beyond_the_grace_is_cancelled_and_told(fake: BatchFake, store: Store) -> None:
    given = records(8)
    fake.lose, fake.list_lag = ["create"], 2 * HOUR
    await run(fake, store, given)
    fake.now += HOUR
    await run(fake, store, given)
    assert len(fake.states) == 2
    fake.now += 2 * HOUR
    report = await run(fake, store, given)
    first, _ = fake.states.values()
    assert first.status == "cancelled"
    assert report.bought_twice == 8  # it was done before it could be cancelled
    assert report.stored == 8
    fake.run_batches()
    await run(fake, store, given)
    assert fake.files == {}
    await rows_are_right(store, given)


@in_sqlite
async def test_q3_a_twin_that_could_not_be_cancelled_is_cancelled_by_the_next_run(
    fake: BatchFake, store: Store
) -> None:
    given = records(8)
    fake.lose, fake.list_lag = ["create"], 2 * HOUR
    await run(fake, store, given)
    fake.now += HOUR
    await run(fake, store, given)
    fake.now += 2 * HOUR
    fake.before = lambda call: _raise(UnavailableError("away")) if call == "cancel" else None
    await run(fake, store, given)
    first, _ = fake.states
    assert fake.states[first].status == "in_progress"
    fake.before = lambda call: None
    report = await run(fake, store, given)
    assert (fake.states[first].status, report.bought_twice) == ("cancelled", 8)


def made_twice(fake: BatchFake, id: str = "twin") -> None:
    """Something on the way has sent the create a second time."""
    (first,) = [state for state in fake.states.values() if not state.is_over]
    fake.states[id] = replace(first, id=id, created_at=first.created_at + 1)
    fake._validated[id] = fake._validated[first.id]
    fake.now += 60


async def test_q18_a_batch_that_was_created_twice_is_cancelled_and_what_it_cost_is_told(
    fake: BatchFake, store: Store
) -> None:
    given = records(8)
    tokens = sum(len(record.text) for record in given)
    await run(fake, store, given)
    made_twice(fake)
    report = await run(fake, store, given)
    first, twin = fake.states.values()
    assert (first.status, twin.status) == ("in_progress", "cancelled")
    # It was done before it could be cancelled: its vectors are used.
    assert (report.stored, report.bought_twice, report.billed_tokens) == (8, 8, tokens)
    fake.run_batches()
    report = await run(fake, store, given)
    assert (report.unchanged, report.bought_twice, report.billed_tokens) == (8, 0, tokens)
    assert fake.files == {}
    report = await run(fake, store, given)
    assert (report.bought_twice, report.billed_tokens, await out(store)) == (0, 0, [])
    await rows_are_right(store, given)


@in_sqlite
async def test_q18_a_twin_that_comes_up_when_its_batch_is_done_with(fake: BatchFake, store: Store) -> None:
    given = records(8)
    await run(fake, store, given)
    made_twice(fake)
    twin = fake.states.pop("twin")
    fake.run_batches()
    assert (await run(fake, store, given)).stored == 8
    fake.now += 2 * DAY
    fake.states["twin"] = twin
    fake.run_batches()
    report = await run(fake, store, given)
    assert (report.unchanged, report.bought_twice) == (8, 8)
    assert report.billed_tokens == sum(len(record.text) for record in given)
    assert fake.files == {}
    fake.now += 2 * DAY
    report = await run(fake, store, given)  # the batch is forgotten by now, and the twin not yet
    assert (report.bought_twice, report.billed_tokens) == (0, 0)
    fake.now += 4 * DAY
    await run(fake, store, given)
    assert await store.batches() == []  # type: ignore[attr-defined]


@in_sqlite
async def test_q18_of_two_batches_the_one_that_is_done_is_kept(fake: BatchFake, store: Store) -> None:
    given = records(8)
    await run(fake, store, given)
    made_twice(fake)
    fake.states["twin"] = fake._ended(fake.states["twin"], "completed")
    report = await run(fake, store, given)
    first, _ = fake.states.values()
    assert first.status == "cancelled"
    assert (report.stored, report.submitted) == (8, 0)
    await run(fake, store, given)
    assert fake.files == {}


async def test_q4_the_batch_expires_and_the_rest_goes_into_the_next_one(fake: BatchFake, store: Store) -> None:
    given = records(8)
    await run(fake, store, given)
    fake.outcome = lambda name, texts: BatchLine(name, unrun="expired") if name.endswith("-0") else None
    fake.run_batches("expired")
    report = await run(fake, store, given)
    assert (report.stored, report.submitted, len(fake.states)) == (4, 4, 2)
    fake.run_batches("expired")
    # After two of them the rest goes live, where it may.
    report = await run(fake, store, given, fallback_live=True)
    assert (report.stored, report.unchanged, report.submitted, fake.ledger.texts) == (4, 4, 0, 4)
    await rows_are_right(store, given)


async def test_q5_a_line_with_one_bad_text_is_bisected_live(fake: BatchFake, store: Store) -> None:
    given = [*records(4), Record("bad", "a bad text"), *records(3, "other")]
    fake.outcome = refused
    fake.script = lambda number, texts: _bad_request(texts)
    await run(fake, store, given)
    fake.run_batches()
    report = await run(fake, store, given)
    assert (report.stored, report.failed, report.submitted) == (7, 1, 0)
    assert report.failures[0].id == "bad"
    await rows_are_right(store, [record for record in given if record.id != "bad"])


@in_sqlite
async def test_q6_lines_in_neither_file_and_no_output_file_at_all(fake: BatchFake, store: Store) -> None:
    given = records(8)
    await run(fake, store, given)
    fake.run_batches()
    (out,) = [name for name in fake.files if name.startswith("out")]
    del fake.files[out][0]
    report = await run(fake, store, given)
    assert (report.stored, report.submitted) == (4, 4)
    (state,) = [each for each in fake.states.values() if not each.is_over]
    fake.states[state.id] = replace(state, status="completed")
    report = await run(fake, store, given)
    assert (report.unchanged, report.submitted) == (4, 4)
    fake.run_batches()
    assert (await run(fake, store, given)).stored == 4
    await rows_are_right(store, given)


@in_sqlite
async def test_q4_and_q6_a_text_that_five_batches_gave_nothing_fails_in_that_run(fake: BatchFake, store: Store) -> None:
    given = records(8)
    await run(fake, store, given)
    fake.outcome = lambda name, texts: BatchLine(name, unrun="expired") if given[0].text in texts else None
    for _ in range(4):
        fake.run_batches("expired")
        report = await run(fake, store, given)
        assert (report.submitted, report.failed) == (4, 0)
    fake.run_batches("expired")
    report = await run(fake, store, given)
    assert (report.submitted, report.failed, len(fake.states)) == (0, 4, 5)
    assert "5 batches gave it nothing" in str(report.failures[0].error)
    # A later run begins anew.
    assert (await run(fake, store, given)).submitted == 4
    fake.outcome = lambda name, texts: None
    fake.run_batches()
    assert (await run(fake, store, given)).stored == 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: replace(line, custom_id=None),
        lambda line: replace(line, custom_id="nobody"),
        lambda line: replace(line, reply=None, error=UnavailableError("status 0")),
        lambda line: replace(line, reply=replace(line.reply, matrix=line.reply.matrix[:-1])),
        lambda line: replace(line, reply=replace(line.reply, matrix=line.reply.matrix * np.float32(np.nan))),
        lambda line: replace(line, reply=replace(line.reply, matrix=line.reply.matrix[:, :-1])),
    ],
    ids=["null id", "unknown id", "status 0", "count", "nan", "width"],
)
async def test_q7_to_q8_a_line_that_cannot_be_trusted_is_bought_again(fake: BatchFake, spoil, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    store, given = open_store(f"sqlite:///{tmp_path}/a.db"), records(8)
    await run(fake, store, given)
    fake.run_batches()
    (out,) = [name for name in fake.files if name.startswith("out")]
    fake.files[out][0] = spoil(fake.files[out][0])
    fake.files[out] = [*reversed(fake.files[out]), fake.files[out][1]]  # out of order, and one doubled
    report = await run(fake, store, given)
    assert (report.stored, report.submitted) == (4, 4)
    fake.run_batches()
    assert (await run(fake, store, given)).stored == 4
    await rows_are_right(store, given)
    await store.aclose()


@in_sqlite
async def test_q9_a_result_file_that_is_cut_off_is_read_on_by_the_next_run(fake: BatchFake, store: Store) -> None:
    given = records(12)
    await run(fake, store, given)
    fake.run_batches()
    fake.cut_at = 1
    report = await run(fake, store, given)
    assert (report.stored, report.submitted) == (4, 8)
    fake.cut_at = None
    assert (await run(fake, store, given)).stored == 8
    assert set(fake.bought.values()) == {1}


@in_sqlite
async def test_q9_lines_of_an_earlier_run_are_billed_where_the_batch_does_not_tell_its_usage(
    fake: BatchFake, store: Store
) -> None:
    given = records(8)
    await run(fake, store, given)
    fake.run_batches()
    (state,) = fake.states.values()
    fake.states[state.id] = replace(state, tokens=None)
    fake.cut_at = 1
    assert (await run(fake, store, given)).billed_tokens == 0
    fake.cut_at = None
    # The first line, of four texts, as estimated: a token for four letters. The other one as it says.
    read_before, read_now = 4 * 13 / 4, 4 * 13
    assert (await run(fake, store, given)).billed_tokens == read_before + read_now


@in_sqlite
async def test_q9_lines_of_an_earlier_run_that_never_ran_are_not_billed(fake: BatchFake, store: Store) -> None:
    given = records(8)
    await run(fake, store, given)
    fake.outcome = lambda name, texts: BatchLine(name, unrun="expired")
    fake.run_batches("expired")
    (state,) = fake.states.values()
    fake.states[state.id] = replace(state, tokens=None, total=2)
    fake.cut_at = 1
    await run(fake, store, given)
    fake.cut_at = None
    assert (await run(fake, store, given)).billed_tokens == 0


@in_sqlite
async def test_a_batch_that_is_gone_is_out_no_more(fake: BatchFake, store: Store) -> None:
    await run(fake, store, records(4))
    fake.states.clear()
    async with Embedder(fake) as embedder:
        assert await embedder.batches(store) == []
    fake.now += HOUR
    assert (await run(fake, store, records(4))).submitted == 4
    assert len(fake.states) == 1


@in_sqlite
async def test_q10_result_files_that_are_gone_are_bought_again(fake: BatchFake, store: Store) -> None:
    given = records(4)
    await run(fake, store, given)
    fake.run_batches()
    fake.files.clear()
    assert (await run(fake, store, given)).submitted == 4
    fake.run_batches()
    assert (await run(fake, store, given)).stored == 4


async def test_q11_a_full_queue_is_learned_and_is_no_failure(fake: BatchFake, store: Store, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("aembed.core.batch_queue.LEAST_QUEUE_TOKENS", 10)
    given = records(12)
    await run(fake, store, given)
    fake.run_batches("failed")  # token_limit_exceeded, after the create was accepted
    report = await run(fake, store, given)
    assert report.failed == 0
    assert report.submitted + report.pending == 12
    assert 0 < report.submitted < 12
    for _ in range(5):
        fake.run_batches()
        report = await run(fake, store, given)
    assert (report.unchanged + report.stored, report.pending) == (12, 0)
    await rows_are_right(store, given)

    fake.queue_tokens = 10
    report = await run(fake, store, records(5, "more"))
    assert (report.pending, report.submitted, report.failed) == (5, 0, 0)


@in_sqlite
async def test_q12_a_batch_that_is_refused_as_a_whole_stops_the_run(fake: BatchFake, store: Store) -> None:
    given = records(3)
    await run(fake, store, given)
    fake._validated.clear()
    fake.run_batches()
    with pytest.raises(BadRequestError, match="file_not_found"):
        await run(fake, store, given)
    assert (await run(fake, store, given)).submitted == 3


@in_sqlite
async def test_q13_a_text_that_was_edited_meanwhile_is_not_written(fake: BatchFake, store: Store) -> None:
    given = records(4)
    await run(fake, store, given)
    fake.run_batches()
    edited = [Record(given[0].id, "edited"), *given[1:]]
    report = await run(fake, store, edited)
    assert (report.stored, report.submitted) == (3, 1)
    fake.run_batches()
    assert (await run(fake, store, edited)).stored == 1
    await rows_are_right(store, edited)
    # Its vector is kept for a while: who takes the edit back pays nothing.
    assert (await run(fake, store, given)).stored == 1
    assert set(fake.bought.values()) == {1}


@in_sqlite
async def test_q14_a_batch_that_is_two_days_late_is_waited_for_no_longer(fake: BatchFake, store: Store) -> None:
    given = records(4)
    await run(fake, store, given)
    fake.now += 3 * DAY + 1
    report = await run(fake, store, given)
    assert (report.submitted, len(fake.states)) == (4, 2)
    await run(fake, store, given)
    late, _ = fake.states.values()
    assert late.status == "cancelled"


async def test_a_budget_counts_a_batch_at_its_price_and_settles_it_by_its_usage(fake: BatchFake, store: Store) -> None:
    given = records(20)
    tokens = sum(len(record.text) for record in given)
    budget = Budget(max_cost_usd=tokens * 0.5 * 0.6 / 1_000_000)
    with pytest.raises(BudgetExceededError) as stopped:
        await run(fake, store, given, budget=budget)
    report = stopped.value.report
    assert report
    assert report.submitted + report.pending == 20
    assert 0 < report.submitted < 20
    fake.run_batches()
    with pytest.raises(BudgetExceededError):
        await run(fake, store, given, budget=budget)
    assert sum(fake.bought.values()) == report.submitted


@in_sqlite
async def test_a_budget_in_a_coordinator_holds_what_is_out_until_another_run_has_collected_it(
    fake: BatchFake, store: Store, tmp_path: Path
) -> None:
    def taken() -> int:
        return taken_in(tmp_path / "limits.db")

    given = records(20)
    tokens = sum(len(record.text) for record in given)
    shared: Any = {"budget": Budget(max_billed_tokens=10_000, per="month"), "coordinator": tmp_path / "limits.db"}
    await run(fake, store, given, **shared)
    assert tokens <= taken() <= 2 * tokens
    fake.run_batches()
    assert (await run(fake, store, given, **shared)).stored == 20
    assert taken() == tokens


@in_sqlite
async def test_q18_what_a_twin_has_cost_is_noted_in_budgets(fake: BatchFake, store: Store, tmp_path: Path) -> None:
    given = records(8)
    shared: Any = {"budget": Budget(max_billed_tokens=10_000, per="month"), "coordinator": tmp_path / "limits.db"}
    await run(fake, store, given, **shared)
    made_twice(fake)
    fake.run_batches()
    await run(fake, store, given, **shared)
    assert taken_in(tmp_path / "limits.db") == 2 * sum(len(record.text) for record in given)


def taken_in(limits: Path) -> int:
    """What is taken of the budgets in that coordinator."""
    with closing(sqlite3.connect(limits)) as connection:
        found = connection.execute("SELECT state FROM aembed_limits WHERE name LIKE '% %'").fetchall()
    return sum(json.loads(state)["taken"] for (state,) in found)


async def test_what_has_no_batches_is_refused_before_anything_is_read(fake: BatchFake, tmp_path: Path) -> None:
    def never() -> object:
        raise AssertionError("read")
        yield

    async with Embedder(FakeProvider()) as embedder:
        with pytest.raises(ConfigError, match="no batch API"):
            await embedder.embed_into(tmp_path / "a.db", never(), batch=True)  # type: ignore[arg-type]
    async with Embedder(fake) as embedder:
        with pytest.raises(ConfigError, match="keeps no batches"):
            await embedder.embed_into(MemoryStore(), never(), batch=True)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="goes with batch"):
            await embedder.embed_into(tmp_path / "a.db", never(), fallback_live=True)  # type: ignore[arg-type]


def _raise(error: Exception) -> None:
    raise error


def _bad_request(texts: object) -> Exception | None:
    line = refused("", list(texts))  # type: ignore[call-overload]
    return line.error if line else None


async def test_q17_batch_runs_and_live_runs_at_once_buy_each_text_once(store: Store, tmp_path: Path) -> None:
    fake, given = BatchFake(latency=0.01, keep_texts=True), records(200)
    fake.batch_terms = replace(TERMS, max_texts_per_file=50)

    async def live(part: list[Record]) -> Report:
        async with Embedder(fake, max_batch_size=8, concurrency=2) as embedder:
            return await embedder.embed_into(store, part)

    await asyncio.gather(run(fake, store, given), live(given[::-1]), run(fake, store, given[100:]), live(given[50:150]))
    for _ in range(3):
        fake.run_batches()
        report = await run(fake, store, given)
    assert report.unchanged + report.stored == 200
    await rows_are_right(store, given)
    bought = fake.bought + Counter(text for sent in fake.ledger.log for text in sent.texts)
    assert set(bought.values()) == {1}


@in_sqlite
async def test_q17_batch_runs_that_hold_what_the_other_waits_for_send_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aembed.pipeline.leased_elsewhere.MOST_WAITING", 200)
    terms = replace(TERMS, max_texts_per_line=100, max_tokens_per_line=100_000, max_texts_per_file=50_000)
    fake, given = BatchFake(terms=replace(terms, max_bytes_per_file=10_000_000)), records(3_000)

    async def slowly(part: list[Record]) -> AsyncIterator[Record]:
        for number, record in enumerate(part):
            if number % 100 == 0:
                await asyncio.sleep(0.06)
            yield record

    # From both ends, so that each comes to what the other has gathered while nothing has been sent.
    async with asyncio.timeout(60.0):
        reports = await asyncio.gather(*(run(fake, store, slowly(part)) for part in (given, given[::-1])))
    assert [report.submitted for report in reports] == [3_000, 3_000]
    assert len(fake.states) < 10
    fake.run_batches()
    assert (await run(fake, store, given)).stored == 3_000
    assert set(fake.bought.values()) == {1}


@in_sqlite
async def test_what_a_cache_holds_is_not_submitted_and_what_a_batch_brings_is_kept_there(
    fake: BatchFake, store: Store, tmp_path: Path
) -> None:
    given, cache = records(8), tmp_path / "cache.db"
    async with Embedder(fake, cache=cache) as embedder:
        await embedder.embed_documents([record.text for record in given[:3]])
        embedder._engine.clock = lambda: fake.now
        report = await embedder.embed_into(store, given, batch=True)
        assert (report.stored, report.submitted) == (3, 5)
        fake.run_batches()
        assert (await embedder.embed_into(store, given, batch=True)).stored == 5
        requests = fake.ledger.requests
        await embedder.embed_documents([record.text for record in given])
        assert fake.ledger.requests == requests


@in_sqlite
@pytest.mark.parametrize("too_long", ["truncate", "split"])
async def test_long_texts_and_prefixes_are_prepared_as_live_ones_are(
    store: Store, tmp_path: Path, too_long: TooLong
) -> None:
    options: dict[str, Any] = {
        "limits": replace(LIMITS, max_tokens_per_text=20),
        "preparation": Preparation(document_prefix="doc: "),
    }
    fake, live = BatchFake(**options), FakeProvider(**options)
    given = [Record("long", "a text of more than twenty bytes, which is cut"), Record("short", "one")]
    for _ in range(2):
        async with Embedder(fake, too_long=too_long) as embedder:
            report = await embedder.embed_into(store, given, batch=True)
        fake.run_batches()
    assert report.stored == 2
    async with Embedder(live, too_long=too_long) as embedder:
        await embedder.embed_into(f"sqlite:///{tmp_path}/live.db", given)
    other = open_store(f"sqlite:///{tmp_path}/live.db")
    vectors = {row.id: row.vector async for row in other.rows()}
    await other.aclose()
    async for row in store.rows():
        np.testing.assert_array_equal(row.vector, vectors[row.id])


async def test_several_addresses_have_no_batches(tmp_path: Path) -> None:
    urls = ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"]
    async with Embedder("openai:text-embedding-3-small", api_key="sk-x", base_url=urls) as embedder:
        with pytest.raises(ConfigError, match="no batch API"):
            await embedder.embed_into(tmp_path / "a.db", ["text"], batch=True)


@in_sqlite
async def test_who_listens_is_told_of_each_batch_once(fake: BatchFake, store: Store) -> None:
    told, given = list[Event](), records(30)

    async def fill() -> Stats:
        async with Embedder(fake, on_event=told.append) as embedder:
            embedder._engine.clock = lambda: fake.now
            await embedder.embed_into(store, given, batch=True)
            return embedder.stats()

    await fill()
    sent = [event for event in told if isinstance(event, BatchSubmitted)]
    assert sorted((event.batch, event.texts) for event in sent) == sorted(zip(fake.states, (20, 10), strict=True))
    told.clear()
    fake.run_batches()
    fake.now += HOUR
    stats = await fill()
    got = [event for event in told if isinstance(event, BatchCollected)]
    tokens = sum(len(record.text) for record in given)
    assert {event.batch for event in got} == {event.batch for event in sent}
    assert {(event.status, event.seconds) for event in got} == {("completed", HOUR)}
    assert sum(event.texts for event in got) == 30
    assert sum(event.billed_tokens for event in got) == stats.billed_tokens == tokens
    assert sum(event.cost_usd or 0.0 for event in got) == stats.cost_usd == pytest.approx(tokens * 0.5 / 1_000_000)
    assert isinstance(told[-1], JobEnded)
    assert told[-1].counts.stored == 30
    assert not any("text " in repr(event) for event in told)
    told.clear()
    await fill()
    assert [type(event) for event in told] == [JobBegan, JobEnded]
