from __future__ import annotations

import asyncio
import gc
import sqlite3
import weakref
from collections.abc import Callable, Coroutine, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aembed import (
    AembedError,
    AuthenticationError,
    BadRequestError,
    Budget,
    BudgetExceededError,
    ConfigError,
    Embedder,
    Embeddings,
    FakeProvider,
    InputError,
    Limits,
    Match,
    MemoryStore,
    PartialError,
    Record,
    SpaceMismatchError,
    SQLiteColumn,
    SQLiteStore,
    Store,
    StoreError,
    UnavailableError,
)
from tests.jobs import one_by_one, records, rows_of, vector_of, words
from tests.stage.clock import run_virtual

BATCH = 10
LIMITS = Limits(BATCH, 300_000, 8_191)
HELLO = ["one", "two", "ein Fluß", "two", "五"]


def small(**options: Any) -> FakeProvider:
    """Takes ten texts a request."""
    return FakeProvider(limits=LIMITS, keep_texts=True, **options)


def sent(provider: FakeProvider) -> list[str]:
    return [text for request in provider.ledger.log for text in request.texts]


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    opened: Store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "rows.db")
    yield opened
    await opened.aclose()


# what goes in, what comes out


@pytest.mark.parametrize(
    "given",
    [list, tuple, iter, np.array, pd.Series, pl.Series, one_by_one, lambda texts: (text for text in texts)],
)
async def test_texts_of_any_kind_come_out_as_vectors_in_their_order(given: Callable[[Iterable[str]], Any]) -> None:
    async with Embedder("fake:fake") as embedder:
        embeddings = await embedder.embed_documents(given(HELLO))
    assert embeddings.vectors.dtype == np.float32
    assert np.array_equal(embeddings.vectors, [vector_of(text) for text in HELLO])
    assert np.asarray(embeddings).shape == (len(HELLO), 64)
    assert embeddings.usage.tokens == embeddings.report.billed_tokens > 0


async def test_columns_of_data_frames() -> None:
    pandas, polars = pd.DataFrame({"text": HELLO}), pl.DataFrame({"text": HELLO})
    async with Embedder("fake:fake") as embedder:
        for column in (pandas["text"], pandas["text"].to_numpy(), pandas.text[::2], polars["text"]):
            embeddings = await embedder.embed_documents(column)
            assert np.array_equal(embeddings.vectors, [vector_of(text) for text in column])


async def test_i2_the_gaps_of_a_data_frame_fail_alone() -> None:
    async with Embedder("fake:fake") as embedder:
        pandas = await embedder.embed_documents(pd.Series(["a", None, "b", float("nan")], dtype=object))
        polars = await embedder.embed_documents(pl.Series(["a", None, "b"]))
    assert [vector is None for vector in pandas] == [False, True, False, True]
    assert [vector is None for vector in polars] == [False, True, False]
    assert str(pandas.failures[1]) == "3: the text of '3' must be a str, not float"


@pytest.mark.parametrize("text", ["one text", b"bytes"])
@pytest.mark.parametrize("verb", ["embed_documents", "embed_into", "plan"])
async def test_a_single_text_is_refused_with_the_verb_that_takes_it(text: Any, verb: str) -> None:
    provider = FakeProvider()
    async with Embedder(provider) as embedder:
        arguments = (text,) if verb == "embed_documents" else (MemoryStore(), text)
        with pytest.raises(InputError, match="embed_query"):
            await getattr(embedder, verb)(*arguments)
    assert provider.ledger.requests == 0


@pytest.mark.parametrize("given", [list, iter, one_by_one])
async def test_no_texts_are_no_rows_and_no_request(given: Callable[[Iterable[str]], Any]) -> None:
    provider = FakeProvider()
    async with Embedder(provider) as embedder:
        embeddings = await embedder.embed_documents(given([]))
    assert embeddings.vectors.shape == (0, 64)
    assert provider.ledger.requests == 0


async def test_vectors_are_read_only() -> None:
    async with Embedder("fake:fake") as embedder:
        embeddings = await embedder.embed_documents(HELLO)
    with pytest.raises(ValueError, match="read-only"):
        embeddings.vectors[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        embeddings[0][0] = 1
    embeddings.filled(0)[0, 0] = 1


any_text = st.one_of(
    st.sampled_from(["poison", "", "  ", *words(5)]), st.text(max_size=8), st.none(), st.just("long" * 1_500)
)


@given(st.lists(any_text, max_size=60), st.sampled_from([1, 3, 8]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_order_is_kept_and_what_failed_is_none(texts: list[Any], concurrency: int, sized: bool) -> None:
    """Whatever is in the list, however the replies overtake each other."""

    def script(number: int, sent: Any) -> Any:
        return BadRequestError("400: poison") if "poison" in sent else 1.0 + number * 7 % 5

    provider = FakeProvider(limits=Limits(7, 1_000, 8_191), script=script)

    async def job() -> None:
        async with Embedder(provider, concurrency=concurrency) as embedder:
            await embedder.embed_query("the provider works")
            embeddings, error = await embeddings_of(embedder.embed_documents(texts if sized else iter(texts)))
        assert error is None or not any(map(is_good, texts))
        assert len(embeddings) == len(texts)
        for index, (text, vector) in enumerate(zip(texts, embeddings, strict=True)):
            if is_good(text):
                assert np.array_equal(vector, vector_of(text))
            else:
                assert vector is None
                assert [failure.id for failure in embeddings.failures if failure.index == index] == [str(index)]
        report = embeddings.report
        assert report.stored + report.failed == report.inputs == len(texts)
        assert report.failed == len(embeddings.failures)

    run_virtual(job)
    assert provider.ledger.max_in_flight <= concurrency


async def embeddings_of(job: Coroutine[Any, Any, Embeddings]) -> tuple[Embeddings, AembedError | None]:
    """Also those that come with the error, where each text failed alike."""
    try:
        return await job, None
    except AembedError as error:
        if error.embeddings is None:
            raise
        return error.embeddings, error


def is_good(text: Any) -> bool:
    if not isinstance(text, str) or text == "poison" or not text or text.isspace() or len(text) > 4_000:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in text)


async def test_a_failure_is_no_number_by_accident() -> None:
    async with Embedder("fake:fake") as embedder:
        embeddings = await embedder.embed_documents(["a", "", "b"])
    with pytest.raises(PartialError, match="1 of 3 texts failed") as raised:
        np.asarray(embeddings)
    assert raised.value.embeddings is embeddings
    assert embeddings.filled(np.nan)[1].tolist() == pytest.approx([np.nan] * 64, nan_ok=True)
    assert embeddings.tolist()[1] is None


# what a text may hold


async def test_i1_empty_texts_fail_alone_and_are_never_sent(store: Store) -> None:
    provider = small()
    async with Embedder(provider) as embedder:
        report = await embedder.embed_into(store, records(["a", "", "b", " \n\t", "c"]))
    assert [failure.id for failure in report.failures] == ["id1", "id3"]
    assert (await rows_of(store)).keys() == {"id0", "id2", "id4"}
    assert sorted(sent(provider)) == ["a", "b", "c"]


async def test_i3_a_text_that_is_too_long_fails_alone_is_cut_or_is_split() -> None:
    limits = Limits(2_048, 300_000, 8_191, encoding="cl100k_base")
    texts = ["short", " hello" * 8_191, " hello" * 8_192, " hello" * 20_000]
    lengths = {}
    for too_long in ("error", "truncate", "split"):
        provider = FakeProvider(limits=limits, keep_texts=True)
        async with Embedder(provider, too_long=too_long) as embedder:
            embeddings = await embedder.embed_documents(texts)
        lengths[too_long] = sorted(len(text) // 6 for text in sent(provider) if text != "short")
        failed = [failure.index for failure in embeddings.failures]
        assert failed == ([2, 3] if too_long == "error" else [])
    assert lengths == {
        "error": [8_191],
        "truncate": [8_191, 8_191, 8_191],
        "split": [1, 3_618, 8_191, 8_191, 8_191, 8_191],
    }


async def test_i5_a_text_that_kills_the_tokenizer_costs_its_neighbours_nothing() -> None:
    texts = ["a", " " * 1_000_067 + "x", "b", "x" * 1_048_449]
    async with Embedder(FakeProvider(limits=Limits(2_048, 300_000, 8_191, encoding="cl100k_base"))) as embedder:
        embeddings = await embedder.embed_documents(texts)
    assert [vector is None for vector in embeddings] == [False, True, False, True]
    assert all(isinstance(failure.error, InputError) for failure in embeddings.failures)


async def test_i6_special_tokens_are_sent_as_they_are() -> None:
    provider = FakeProvider(limits=Limits(2_048, 300_000, 50, encoding="cl100k_base"), keep_texts=True)
    text = "<|endoftext|> and <|fim_prefix|> " * 3
    async with Embedder(provider) as embedder:
        embeddings = await embedder.embed_documents([text])
    assert np.array_equal(embeddings.vectors[0], vector_of(text))
    assert sent(provider) == [text]


async def test_i7_a_lone_surrogate_fails_alone_before_it_is_sent(store: Store) -> None:
    provider = small()
    async with Embedder(provider) as embedder:
        report = await embedder.embed_into(store, [*records(["a", "b\ud800"]), Record("c\udc00", "c")])
    assert (report.stored, report.failed) == (1, 2)
    assert all("lone surrogate" in str(failure.error) for failure in report.failures)
    assert sent(provider) == ["a"]


async def test_i17_a_text_that_fits_in_no_request_fails_alone() -> None:
    provider = FakeProvider(limits=Limits(4, 100, 8_191), keep_texts=True)
    async with Embedder(provider) as embedder:
        embeddings = await embedder.embed_documents(["a", "x" * 400, "x" * 401, "b"])
    assert [vector is None for vector in embeddings] == [False, False, True, False]
    assert "cut it into records" in str(embeddings.failures[0])
    assert {request.outcome for request in provider.ledger.log} == {"answered"}


# what equals what


async def test_i9_the_same_record_twice_is_one_row_and_paid_for_once(store: Store) -> None:
    provider = small()
    twice = records(words(5)) * 2
    async with Embedder(provider) as embedder:
        report = await embedder.embed_into(store, twice)
    assert (report.inputs, report.stored, report.pending) == (10, 10, 0)
    assert (await rows_of(store)).keys() == {f"id{n}" for n in range(5)}
    assert sorted(sent(provider)) == words(5)


@pytest.mark.parametrize("given", [list, iter])
async def test_i10_one_id_for_two_texts_is_refused_for_the_later_before_paying(store: Store, given: Any) -> None:
    provider = small()
    contradicting = [Record("a", "first"), Record("b", "other"), Record("a", "second"), Record("b", "other", {"p": 1})]
    async with Embedder(provider) as embedder:
        report = await embedder.embed_into(store, given(contradicting))
    assert (report.stored, report.failed) == (2, 2)
    assert [(failure.id, failure.index) for failure in report.failures] == [("a", 2), ("b", 3)]
    assert "the id 'a' was given before" in str(report.failures[0])
    assert {id: row.text for id, row in (await rows_of(store)).items()} == {"a": "first", "b": "other"}
    assert sorted(sent(provider)) == ["first", "other"]


async def test_i10_in_a_list_it_is_found_however_far_apart() -> None:
    provider = small()
    async with Embedder(provider) as embedder:
        report = await embedder.embed_into(MemoryStore(), [*records(words(2_000)), Record("id0", "another")])
    assert [(failure.id, failure.index) for failure in report.failures] == [("id0", 2_000)]
    assert "another" not in sent(provider)


@pytest.mark.parametrize("given", [list, iter])
async def test_i11_equal_texts_are_paid_for_once_and_stored_for_every_id(store: Store, given: Any) -> None:
    provider = small()
    texts = [f"text {number % 7}" for number in range(1_500)]
    async with Embedder(provider) as embedder:
        report = await embedder.embed_into(store, given(records(texts)))
        embeddings = await embedder.embed_documents(given(texts))
    assert report.stored == len(await rows_of(store)) == 1_500
    assert np.array_equal(embeddings.vectors, [vector_of(text) for text in texts])
    assert sorted(sent(provider)) == sorted(words(7) * 2)


def test_i11_equal_texts_far_apart_are_paid_for_once_where_few_fit_in_the_window() -> None:
    """The first, as the longest, is sent and stored before there is room for the second; both were read at once."""
    long = "the same long text again and again"
    provider, texts = small(latency=1.0), [long, *words(80), long, *words(80, 80), long]

    async def job() -> None:
        async with Embedder(provider, concurrency=1, max_batch_size=2) as embedder:
            report = await embedder.embed_into(MemoryStore(), records(texts))
            assert (report.stored, provider.ledger.texts) == (163, 161)
            embeddings = await embedder.embed_documents(texts)
            assert (len(embeddings.vectors), provider.ledger.texts) == (163, 322)

    run_virtual(job)


async def test_i11_a_text_that_moved_to_another_id_is_not_paid_for_again(store: Store) -> None:
    provider = small()
    async with Embedder(provider) as embedder:
        await embedder.embed_into(store, records(words(20)))
        requests = provider.ledger.requests
        moved = [Record(f"elsewhere{n}", text) for n, text in enumerate(words(20))]
        report = await embedder.embed_into(store, moved)
    assert (report.stored, report.requests, report.billed_tokens) == (20, 0, 0)
    assert provider.ledger.requests == requests
    assert len(await rows_of(store)) == 40


# run after run

change = st.builds(
    Record,
    st.sampled_from("abcdefgh"),
    st.sampled_from(words(9)),
    st.sampled_from([None, {"page": 1}, {"page": 2}]),
    st.sampled_from([None, "notes.md"]),
)
runs = st.lists(st.tuples(st.lists(change, max_size=12), st.booleans()), min_size=1, max_size=5)


class Model:
    """What a store has to hold and what has to be paid, said as simply as can be."""

    def __init__(self) -> None:
        self.rows: dict[str, Record] = {}
        self.paid: list[str] = []

    def run(self, given: list[Record]) -> tuple[int, int, int]:
        """Returns stored, unchanged, failed."""
        firsts: dict[str, Record] = {}
        good = [record for record in given if firsts.setdefault(record.id, record) == record]
        new = [record for record in good if self.rows.get(record.id) != record]
        held = {record.text for record in self.rows.values()}
        self.paid += sorted({record.text for record in new} - held)
        self.rows |= {record.id: record for record in new}
        return len(new), len(good) - len(new), len(given) - len(good)


async def check_against_model(store: Store, history: list[tuple[list[Record], bool]]) -> None:
    provider, model = small(), Model()
    for given_now, sized in history:
        before = len(sent(provider))
        async with Embedder(provider, concurrency=2) as embedder:
            report = await embedder.embed_into(store, given_now if sized else iter(given_now))
        assert (report.stored, report.unchanged, report.failed) == model.run(given_now)
        assert report.pending == 0
        assert sorted(sent(provider)[before:]) == model.paid[before:]
        rows = {id: Record(id, row.text or "", row.metadata, row.source) for id, row in (await rows_of(store)).items()}
        assert rows == model.rows


@given(runs)
@settings(max_examples=150, deadline=None)
def test_i15_after_any_edits_a_memory_store_is_right_and_each_text_was_paid_for_once(history: Any) -> None:
    run_virtual(check_against_model, MemoryStore(), history)


@given(history=runs)
@settings(max_examples=25, deadline=None)
def test_i15_after_any_edits_a_file_is_right_and_each_text_was_paid_for_once(
    tmp_path_factory: pytest.TempPathFactory, history: Any
) -> None:
    async def check() -> None:
        store = SQLiteStore(tmp_path_factory.mktemp("runs") / "rows.db")
        await check_against_model(store, history)
        await store.aclose()

    asyncio.run(check())


async def test_i15_a_second_run_sends_nothing_and_writes_nothing(store: Store) -> None:
    provider = small()
    async with Embedder(provider) as embedder:
        await embedder.embed_into(store, records(words(100)))
        requests = provider.ledger.requests
        report = await embedder.embed_into(store, iter(records(words(100))))
    assert (report.unchanged, report.stored, report.requests, report.billed_tokens) == (100, 0, 0, 0)
    assert provider.ledger.requests == requests


async def test_i15_a_store_is_itself_a_source(store: Store) -> None:
    other = MemoryStore()
    async with Embedder("fake:fake") as embedder, Embedder("fake:other") as successor:
        await embedder.embed_into(store, records(words(300), metadata={"page": 1}, source="notes.md"))
        report = await successor.embed_into(other, store)
    assert report.stored == 300
    rows = await rows_of(other)
    assert {row.text for row in rows.values()} == set(words(300))
    assert all((row.metadata, row.source) == ({"page": 1}, "notes.md") for row in rows.values())


@pytest.mark.parametrize(
    "other",
    [{"model": "another"}, {"dimensions": 32}],
)
async def test_i16_rows_of_another_model_are_refused_before_any_request(store: Store, other: dict[str, Any]) -> None:
    async with Embedder(FakeProvider()) as embedder:
        await embedder.embed_into(store, records(words(5)))
    provider = FakeProvider(**other)
    async with Embedder(provider) as embedder:
        with pytest.raises(SpaceMismatchError, match="holds vectors of"):
            await embedder.embed_into(store, records(words(6)))
        with pytest.raises(SpaceMismatchError, match="holds vectors of"):
            await embedder.search(store, "text")
    assert provider.ledger.requests == 0
    assert len(await rows_of(store)) == 5


# one query


async def test_a_query_is_its_vector() -> None:
    provider = small()
    async with Embedder(provider) as embedder:
        assert np.array_equal(await embedder.embed_query("one"), vector_of("one"))
    assert [(request.inputs, request.input_type) for request in provider.ledger.log] == [(1, "query")]


@pytest.mark.parametrize("text", ["", "  ", None, 3, "\ud800"])
async def test_a_query_that_is_no_text_is_refused_unsent(text: Any) -> None:
    provider = FakeProvider()
    async with Embedder(provider) as embedder:
        with pytest.raises(InputError):
            await embedder.embed_query(text)
    assert provider.ledger.requests == 0


def test_a_query_that_takes_too_long_is_given_up_and_lands_all_the_same() -> None:
    provider = small(latency=5.0)

    async def job() -> None:
        loop = asyncio.get_running_loop()
        async with Embedder(provider) as embedder:
            with pytest.raises(UnavailableError, match="no vector within 2 s"):
                await embedder.embed_query("text", timeout=2)
            assert (loop.time(), provider.ledger.in_flight) == (2, 1)
        assert (loop.time(), provider.ledger.in_flight) == (5, 0)

    run_virtual(job)


def test_what_a_query_came_to_after_it_was_given_up_bothers_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Late(FakeProvider):
        async def embed(self, *args: Any, **options: Any) -> Any:
            await asyncio.sleep(5)
            raise AuthenticationError("401: key")

    async def job() -> None:
        async with Embedder(Late()) as embedder:
            with pytest.raises(UnavailableError):
                await embedder.embed_query("text", timeout=2)

    run_virtual(job)
    assert caplog.text == ""


async def test_a_search_finds_the_nearest_rows(store: Store) -> None:
    async with Embedder(FakeProvider()) as embedder:
        assert await embedder.search(store, "anything") == []
        await embedder.embed_into(store, [Record(text, text, {"page": n % 2}) for n, text in enumerate(words(20))])
        matches = await embedder.search(store, "text 7", k=3)
        odd = await embedder.search(store, "text 8", k=20, where={"page": 1})
    assert (matches[0].id, matches[0].score) == ("text 7", pytest.approx(1))
    assert len(matches) == 3
    assert sorted(match.id for match in odd) == sorted(f"text {n}" for n in range(1, 20, 2))


async def test_many_searches_share_requests_and_find_what_each_finds(store: Store) -> None:
    provider = FakeProvider(keep_texts=True)
    asked = [f"text {n % 90}" for n in range(200)]
    async with Embedder(provider) as embedder:
        assert await embedder.search_many(store, asked) == [[]] * 200
        await embedder.embed_into(store, [Record(text, text, {"page": n % 2}) for n, text in enumerate(words(100))])
        before = provider.ledger.requests
        found = await embedder.search_many(store, iter(asked), k=3, where={"page": [1, 3]})
        (request,) = provider.ledger.log[before:]
        assert found == [await embedder.search(store, text, k=3, where={"page": 1}) for text in asked]
        assert await embedder.search_many(store, []) == []
    assert (request.input_type, sorted(request.texts)) == ("query", sorted(set(asked)))
    assert [len(each) for each in found] == [3] * 200


async def test_many_searches_of_a_column(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, embedding BLOB)")
        connection.executemany("INSERT INTO notes (body) VALUES (?)", [(text,) for text in words(20)])
    column = SQLiteColumn(path, "notes", text="body")
    async with Embedder(FakeProvider()) as embedder:
        await embedder.backfill(column)
        found = await embedder.search_many(column, ["text 3", "text 4"], k=2, where={"id": {"gt": 4}})
    await column.aclose()
    assert [[match.score < 1 for match in each] for each in found] == [[True, True], [False, True]]


async def test_a_text_of_many_that_fails_costs_the_others_nothing(store: Store) -> None:
    provider = small()
    async with Embedder(provider) as embedder:
        await embedder.embed_into(store, [Record("a", "a text")])
        with pytest.raises(PartialError, match="2 of 25 texts failed") as told:
            await embedder.search_many(store, [*words(12), "", *words(11, start=12), 5])  # type: ignore[list-item]
        embeddings = told.value.embeddings
        assert embeddings is not None
        assert [failure.index for failure in embeddings.failures] == [12, 24]
        assert sum(vector is not None for vector in embeddings) == 23
        assert np.allclose(embeddings[0], await embedder.embed_query("text 0"))


async def test_what_stops_many_searches_is_raised_with_what_was_paid(store: Store) -> None:
    provider = small()
    async with Embedder(provider, query_budget=Budget(max_billed_tokens=60)) as embedder:
        await embedder.embed_into(store, [Record("a", "a text")])
        with pytest.raises(BudgetExceededError) as told:
            await embedder.search_many(store, words(100))
    assert told.value.embeddings is not None
    paid = sum(vector is not None for vector in told.value.embeddings)
    assert (len(told.value.embeddings), paid) == (100, len(sent(provider)) - 1)
    assert 0 < paid < 100


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"texts": "one text"}, InputError, "takes many texts"),
        ({"texts": ["a"], "k": 0}, ConfigError, "k=0"),
        ({"texts": ["a"], "where": {"a": {"b": 1}}}, ConfigError, "'b' is no operator"),
    ],
)
async def test_what_cannot_be_searched_for_is_refused_before_a_request(
    store: Store, asked: dict[str, Any], error: type[AembedError], says: str
) -> None:
    provider = FakeProvider()
    async with Embedder(provider) as embedder:
        await embedder.embed_into(store, [Record("a", "a text")])
        with pytest.raises(error, match=says):
            await embedder.search_many(store, **asked)
        with pytest.raises(ConfigError, match="'b' is no operator"):
            await embedder.search(store, "a", where={"a": {"b": 1}})
    assert provider.ledger.requests == 1


async def test_a_store_that_fails_one_of_many_searches_is_told() -> None:
    class Failing(MemoryStore):
        async def search(self, *args: Any, **options: Any) -> list[Match]:
            raise StoreError("down")

    failing = Failing()
    async with Embedder(FakeProvider()) as embedder:
        await embedder.embed_into(failing, [Record("a", "a text")])
        with pytest.raises(StoreError, match="down"):
            await embedder.search_many(failing, words(100))


# cancelling and closing


def test_a_cancelled_list_is_cancelled_at_once_and_what_was_sent_lands() -> None:
    provider = small(latency=5.0)

    async def job() -> None:
        loop = asyncio.get_running_loop()
        async with Embedder(provider, concurrency=3) as embedder:
            task = asyncio.create_task(embedder.embed_documents(words(1_000)))
            await asyncio.sleep(7)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (loop.time(), provider.ledger.in_flight) == (7, 3)
        assert (loop.time(), provider.ledger.in_flight) == (10, 0)
        assert provider.ledger.requests == 6
        assert {request.outcome for request in provider.ledger.log} == {"answered"}
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(job)


def test_a_cancelled_job_stores_what_it_sent_and_buys_nothing_again() -> None:
    provider, store = small(latency=5.0), MemoryStore()

    async def job() -> None:
        loop = asyncio.get_running_loop()
        async with Embedder(provider, concurrency=3) as embedder:
            task = asyncio.create_task(embedder.embed_into(store, records(words(100))))
            await asyncio.sleep(7)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert loop.time() == 10
            assert {row.text for row in (await rows_of(store)).values()} == set(sent(provider))
            assert provider.ledger.texts == 60
            report = await embedder.embed_into(store, records(words(100)))
        assert (report.unchanged, report.stored) == (60, 40)
        assert sorted(sent(provider)) == sorted(words(100))

    run_virtual(job)


@given(st.floats(0, 20), st.booleans())
@settings(max_examples=60, deadline=None)
def test_cancelled_at_any_moment_ledger_and_store_agree(moment: float, retrying: bool) -> None:
    def script(number: int, texts: Any) -> Any:
        return UnavailableError("503") if retrying and number % 3 == 1 else 1.0 + number % 4

    provider, store = small(script=script), MemoryStore()

    async def job() -> None:
        async with Embedder(provider, concurrency=3) as embedder:
            task = asyncio.create_task(embedder.embed_into(store, iter(records(words(100)))))
            await asyncio.wait([task], timeout=moment)
            task.cancel()
            await asyncio.wait([task])
            assert provider.ledger.in_flight == 0
            billed = {text for call in provider.ledger.log if call.outcome == "answered" for text in call.texts}
            assert {row.text or "" for row in (await rows_of(store)).values()} == billed - {"a"}
            await embedder.embed_into(store, iter(records(words(100))))
        # Some requests ask whether the provider is well.
        assert 100 <= provider.ledger.texts <= 100 + 5 * retrying
        assert len(await rows_of(store)) == 100
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(job)


def test_a_second_cancellation_ends_the_wait() -> None:
    provider = small(latency=20.0)

    async def job() -> None:
        loop = asyncio.get_running_loop()
        embedder = Embedder(provider)
        task = asyncio.create_task(embedder.embed_into(MemoryStore(), records(words(10))))
        for _ in range(2):
            await asyncio.sleep(1)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loop.time() == 2
        await embedder.aclose()
        assert (loop.time(), provider.ledger.in_flight) == (20, 0)

    run_virtual(job)


def test_closing_waits_for_what_was_sent_and_no_longer_than_it_may() -> None:
    async def job(latency: float, timeout: float) -> float:
        loop, provider = asyncio.get_running_loop(), small(latency=latency)
        embedder = Embedder(provider)
        task = asyncio.create_task(embedder.embed_documents(words(5)))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        await embedder.aclose(timeout=timeout)
        assert provider.ledger.in_flight == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return loop.time()

    assert run_virtual(job, 5.0, 30.0) == 5
    assert run_virtual(job, 50.0, 30.0) == 31


def test_one_embedder_is_used_in_one_event_loop_after_another() -> None:
    provider = FakeProvider()
    embedder = Embedder(provider)
    for _ in range(2):
        assert np.array_equal(asyncio.run(embedder.embed_documents(HELLO)).vectors, [vector_of(t) for t in HELLO])
        assert np.array_equal(asyncio.run(embedder.embed_query("one")), vector_of("one"))
    asyncio.run(embedder.aclose())
    asyncio.run(embedder.aclose())


def test_jobs_of_one_embedder_share_its_slots() -> None:
    provider = small(latency=1.0)

    async def job() -> None:
        async with Embedder(provider, concurrency=3) as embedder:
            await asyncio.gather(*(embedder.embed_documents(words(100, start)) for start in range(0, 500, 100)))

    run_virtual(job)
    assert provider.ledger.max_in_flight == 3


@pytest.mark.parametrize("given", [list, iter])
async def test_vectors_that_nobody_wants_are_gone_at_once(given: Any) -> None:
    """No circle of references keeps them until the garbage is collected: the next result needs their memory."""
    options: dict[str, Any] = {"budget": Budget(max_billed_tokens=10_000), "requests_per_minute": 100_000}
    async with Embedder(small(), **options) as embedder:
        gc.collect()
        gc.disable()
        try:
            embeddings = await embedder.embed_documents(given(words(100)), on_progress=lambda _: None)
            vectors = embeddings.vectors
            matrix = weakref.ref(vectors if vectors.base is None else vectors.base)
            await asyncio.sleep(0)
            del embeddings, vectors
            assert matrix() is None
        finally:
            gc.enable()


# what stops a job


def test_a_stopped_list_carries_the_vectors_that_were_paid_for() -> None:
    provider = small(script=[1.0, 1.0, AuthenticationError("401: key"), 5.0, 5.0])

    async def job() -> None:
        async with Embedder(provider, concurrency=2) as embedder:
            with pytest.raises(AuthenticationError) as raised:
                await embedder.embed_documents(words(100))
        embeddings, report = raised.value.embeddings, raised.value.report
        assert embeddings is not None
        assert report is not None
        assert len(embeddings) == 100
        got = [vector for vector in embeddings if vector is not None]
        assert len(got) == report.stored == provider.ledger.texts >= 20
        for text, vector in zip(words(100), embeddings, strict=True):
            assert vector is None or np.array_equal(vector, vector_of(text))
        assert all(failure.error is raised.value for failure in embeddings.failures)
        assert provider.ledger.requests <= 4

    run_virtual(job)


# configuration


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"too_long": "shorten"},
        {"max_batch_size": 0},
        {"max_batch_size": 2_049},
        {"max_tokens_per_batch": 300_001},
        {"budget": Budget(max_cost_usd=1.0)},
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Embedder(FakeProvider(price_usd=None), **options)


@pytest.mark.parametrize("model", ["", "nobody:small", "fake"])
def test_a_model_that_nobody_knows_is_refused(model: str) -> None:
    with pytest.raises(ConfigError):
        Embedder(model)


@pytest.mark.parametrize(("option", "most"), [({"max_batch_size": 30}, 30), ({"max_tokens_per_batch": 50}, 28)])
async def test_smaller_limits_of_the_user_hold(option: dict[str, int], most: int) -> None:
    provider = FakeProvider()
    async with Embedder(provider, **option) as embedder:
        report = await embedder.embed_into(MemoryStore(), records(words(1_000)))
        plan = await embedder.plan(MemoryStore(), records(words(1_000)))
    assert report.stored == 1_000
    assert max(request.inputs for request in provider.ledger.log) <= most
    assert plan.requests == report.requests


async def test_dimensions_that_nothing_tells_are_found_with_one_short_text(store: Store) -> None:
    class Unsaid(FakeProvider):
        def __init__(self) -> None:
            super().__init__(keep_texts=True)
            self.space = self.space.__class__("fake", "fake")

    provider = Unsaid()
    async with Embedder(provider) as embedder:
        assert embedder.space.dimensions is None
        await embedder.embed_into(store, records(words(5)))
        assert embedder.space.dimensions == 64
    assert [request.inputs for request in provider.ledger.log] == [1, 5]
    again = Unsaid()
    async with Embedder(again) as embedder:
        report = await embedder.embed_into(store, records(words(5)))
    assert (report.unchanged, again.ledger.requests) == (5, 0)


async def test_a_store_may_be_given_by_its_url(tmp_path: Path) -> None:
    async with Embedder("fake:fake") as embedder:
        for target in (f"sqlite:///{tmp_path}/rows.db", str(tmp_path / "rows.db"), tmp_path / "rows.db"):
            report = await embedder.embed_into(target, records(words(5)))
            assert report.inputs == 5
        assert (await embedder.search(tmp_path / "rows.db", "text 3", k=1))[0].id == "id3"
    assert report.unchanged == 5


async def test_how_a_job_ended_is_kept_in_the_store(store: Store) -> None:
    async with Embedder(small(script=[None, AuthenticationError("401: key")]), concurrency=1) as embedder:
        with pytest.raises(AuthenticationError):
            await embedder.embed_into(store, records(words(30)))
    last_run = (await store.info()).last_run
    assert last_run is not None
    assert (last_run["stored"], last_run["inputs"]) == (10, 30)


# a column of one's own


async def test_backfill_fills_what_is_empty_and_once_only(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "own.db") as connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, vector BLOB)")
        connection.executemany("INSERT INTO notes (body) VALUES (?)", [(text,) for text in [*words(25), ""]])
    connection.close()
    provider = small()
    async with Embedder(provider) as embedder:
        column = SQLiteColumn(tmp_path / "own.db", "notes", text="body", vector="vector")
        first = await embedder.backfill(column, limit=10)
        second = await embedder.backfill(column)
        third = await embedder.backfill(column)
        await column.aclose()
    assert (first.stored, second.stored, third.stored) == (10, 15, 0)
    assert sorted(sent(provider)) == sorted(words(25))


def test_repr_shows_counts() -> None:
    async def job() -> None:
        embedder = Embedder(small(latency=1.0))
        assert "idle" in repr(embedder)
        task = asyncio.create_task(embedder.embed_documents(words(30)))
        await asyncio.sleep(0.5)
        assert embedder.in_flight == 3
        assert "3 tasks" in repr(embedder)
        await task
        await embedder.aclose()

    run_virtual(job)


@pytest.mark.parametrize("names", [{"a": "text"}, pd.DataFrame({"a": ["text"]}), pl.DataFrame({"a": ["text"]})])
async def test_what_would_give_names_instead_of_texts_is_refused(names: Any) -> None:
    async with Embedder("fake:names") as embedder:
        with pytest.raises(InputError, match="one column"):
            await embedder.embed_documents(names)
