"""Replies that are wrong are never stored, and never with another text (rows P16 to P25, N4, N9, Z6)."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from aembed import (
    Embedder,
    InvalidReplyError,
    QuotaExceededError,
    Record,
    Report,
    SpaceMismatchError,
)
from aembed.providers._rows import ROWS
from aembed.providers.fake import FakeProvider
from aembed.providers.openai import OpenAIProvider
from aembed.stores.memory import MemoryStore
from aembed.types import InputType, Reply
from tests.hostile.jobs import QUICK, From, at, embed, numbers, serving, virtually
from tests.jobs import records
from tests.service.faults import Always, Body, Fault, First, Flood, Mutate, Plan, Request, Truncate, gzip_bomb
from tests.service.in_process import embedder_of
from tests.service.mutations import BROKEN, HARMLESS, wrong
from tests.service.refusals import error
from tests.service.server import Server
from tests.service.service import Service
from tests.stage.clock import run_virtual

MB = 1_000_000


@pytest.mark.parametrize("kind", BROKEN)
def test_p16_to_p23_a_broken_reply_in_mid_job_is_asked_for_again(kind: str) -> None:
    service = Service(script=Plan(None, None, Mutate(wrong(kind, seed=1)), None, Mutate(wrong(kind, seed=2))))
    outcome = virtually(service, numbers(200), concurrency=1, max_batch_size=20)
    assert (outcome.error, outcome.report.stored) == (None, 200)
    assert service.ledger.requests == outcome.report.requests == 10 + 2
    assert service.ledger.texts_again == 2 * 20


@pytest.mark.parametrize("kind", sorted(BROKEN.keys() - {"error object", "index missing once"}))
def test_p16_to_p23_a_job_whose_replies_are_all_broken_from_some_point_on_stops(kind: str) -> None:
    """A portal that took over in mid-job is no reason to fail each text, nor to pay for each twice.

    An error object is an outage; where one index is missing, a text alone has its vector all the same.
    """
    service = Service(script=From(10, Mutate(wrong(kind))))
    outcome = virtually(service, numbers(4_000), concurrency=4, max_batch_size=20)
    assert outcome.error is not None
    assert outcome.report.stored == 200
    assert service.ledger.requests <= 10 + 4 * 20
    assert outcome.report.failed <= 10


@pytest.mark.parametrize("kind", HARMLESS)
def test_p17_p18_p25_an_odd_reply_is_stored_with_the_right_texts(kind: str) -> None:
    service = Service(script=Always(Mutate(wrong(kind, seed=5))))
    outcome = virtually(service, numbers(300), concurrency=2, max_batch_size=50)
    assert (outcome.error, outcome.report.stored) == (None, 300)
    assert service.ledger.texts_again == 0


@pytest.mark.parametrize("kind", ["fewer", "index beyond", "vector NaN", "vector shorter", "half of it", "empty body"])
async def test_p16_to_p22_over_a_socket_in_numbers_and_into_a_store(kind: str) -> None:
    store = MemoryStore()
    async with serving(Plan(None, Mutate(wrong(kind)))) as server:
        async with embedder_at(server, "ollama") as embedder:
            report = await embedder.embed_into(store, [Record(t, t) for t in numbers(60)])
            outcome = await embed(embedder, numbers(60))
        assert (report.stored, report.failed, outcome.report.stored) == (60, 0, 60)


def embedder_at(server: Server, preset: str) -> Any:
    provider = OpenAIProvider(
        "text-embedding-3-small", base_url=server.url, dimensions=48, service=ROWS[preset], api_key="sk-x"
    )
    return Embedder(provider, retry=QUICK, max_batch_size=20)


def test_p19_one_text_that_always_gets_a_broken_reply_fails_alone() -> None:
    def script(request: Request) -> Fault | None:
        return Mutate(zero) if "0042" in request.texts else None

    def zero(reply: dict[str, Any]) -> Any:
        reply["data"][0]["embedding"] = [0.0] * 48
        return reply

    service = Service(script=script)
    outcome = virtually(service, numbers(1_000), concurrency=4, max_batch_size=100)
    assert (outcome.error, outcome.failed) == (None, [42])
    assert outcome.reasons == {"InvalidReplyError"}


class Odd(FakeProvider):
    """A provider of the user's own that makes a mistake of its own."""

    def __init__(self, change: Callable[[np.ndarray[Any, Any]], Any]) -> None:
        super().__init__(dimensions=8)
        self._change = change

    async def embed(self, texts: Any, *, input_type: InputType) -> Reply:
        reply = await super().embed(texts, input_type=input_type)
        return Reply(self._change(reply.matrix.copy()), reply.model)


def _with(value: float) -> Callable[[np.ndarray[Any, Any]], Any]:
    def change(matrix: np.ndarray[Any, Any]) -> Any:
        matrix[-1] = value
        return matrix

    return change


CHANGES: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "fewer": lambda m: m[:-1],
    "more": lambda m: np.concatenate([m, m[:1]]),
    "narrower": lambda m: m[:, :-1],
    "no width": lambda m: m[:, :0],
    "doubles": lambda m: m.astype(np.float64),
    "flat": lambda m: m.ravel(),
    "NaN": _with(np.nan),
    "infinity": _with(np.inf),
    "zero": _with(0.0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_p16_p19_p20_no_providers_mistake_is_stored(name: str) -> None:
    async def run() -> int:
        store = MemoryStore()
        async with Embedder(Odd(CHANGES[name])) as embedder:
            with pytest.raises(InvalidReplyError):
                await embedder.embed_into(store, [Record(t, t) for t in numbers(50)])
        return (await store.info()).rows

    assert run_virtual(run) == 0


def test_p23_an_error_in_a_200_is_treated_by_its_code() -> None:
    busy = Body(
        b'{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}', billed=False
    )
    service = Service(script=Plan(None, busy, busy))
    outcome = virtually(service, numbers(100), concurrency=1, max_batch_size=20)
    assert (outcome.error, outcome.report.stored, service.ledger.requests) == (None, 100, 7)
    broke = Body(msgspec.json.encode(error("no money", "insufficient_quota", code="insufficient_quota")), billed=False)
    service = Service(script=From(2, broke))
    outcome = virtually(service, numbers(100), concurrency=1, max_batch_size=20)
    assert isinstance(outcome.error, QuotaExceededError)
    assert (outcome.report.stored, service.ledger.requests) == (40, 3)


def test_p24_a_model_that_changes_in_mid_job_stops_it() -> None:
    def renamed(reply: dict[str, Any]) -> Any:
        return reply | {"model": "text-embedding-4-tiny"}

    service = Service(script=From(5, Mutate(renamed)))
    outcome = virtually(service, numbers(1_000), concurrency=1, max_batch_size=20)
    assert isinstance(outcome.error, SpaceMismatchError)
    assert "text-embedding-4-tiny" in str(outcome.error)
    assert (outcome.report.stored, outcome.report.failed, service.ledger.requests) == (100, 0, 6)


def test_p24_a_name_that_differs_from_the_request_from_the_start_is_normal() -> None:
    def renamed(reply: dict[str, Any]) -> Any:
        return reply | {"model": "text-embedding-3-small-v2"}

    outcome = virtually(Service(script=Always(Mutate(renamed))), numbers(100), max_batch_size=20)
    assert (outcome.error, outcome.report.stored) == (None, 100)


def test_p24_a_model_that_changes_between_two_runs_stops_the_second() -> None:
    def renamed(reply: dict[str, Any]) -> Any:
        return reply | {"model": "text-embedding-4-tiny"}

    service, store = Service(script=From(2, Mutate(renamed))), MemoryStore()

    async def run(count: int) -> Report:
        async with embedder_of(service, concurrency=1, max_batch_size=20) as embedder:
            return await embedder.embed_into(store, records(numbers(count)))

    assert run_virtual(run, 40).stored == 40
    with pytest.raises(
        SpaceMismatchError, match=r"'text-embedding-4-tiny', .* came from 'text-embedding-3-small'"
    ) as raised:
        run_virtual(run, 100)
    assert [len(rows) for rows in raised.value.unsaved] == [20]
    assert len(store._rows) == 40


def test_n4_a_body_that_ends_early_is_asked_for_again() -> None:
    service = Service(script=Plan(None, Truncate(0.9), Truncate(0.0), Truncate(0.5)))
    outcome = virtually(service, numbers(100), concurrency=1, max_batch_size=50)
    assert (outcome.error, outcome.report.stored) == (None, 100)


@pytest.mark.parametrize("framing", ["length", "close", "chunked"])
async def test_n4_over_a_socket_whatever_the_framing(framing: Any) -> None:
    half = Body(b'{"object":"list","data":[{"object":"embedding","index":0,"emb', framing=framing)
    async with serving(Plan(None, half)) as server, at(server, max_batch_size=20) as embedder:
        outcome = await embed(embedder, numbers(100))
        assert (outcome.error, outcome.report.stored, server.ledger.requests) == (None, 100, 6)


HUGE: dict[str, Callable[[], Fault]] = {
    "a bomb of 558 bytes": gzip_bomb,
    "a bomb of one layer": lambda: gzip_bomb(layers=1),
    "1 GB that is announced": Flood,
    "1 GB in chunks": lambda: Flood(framing="chunked"),
    "1 GB until the end": lambda: Flood(framing="close"),
}


@pytest.mark.parametrize("name", HUGE)
async def test_n9_a_reply_that_would_fill_the_memory_is_tried_twice_and_stops_the_job(name: str) -> None:
    fault = HUGE[name]()
    async with serving(First([From(3, fault)])) as server, at(server, max_batch_size=16, concurrency=1) as embedder:
        await embed(embedder, numbers(16, start=9_000))
        tracemalloc.start()
        try:
            async with asyncio.timeout(5):
                outcome = await embed(embedder, numbers(160))
            assert tracemalloc.get_traced_memory()[1] < 32 * MB
        finally:
            tracemalloc.stop()
        assert isinstance(outcome.error, InvalidReplyError)
        assert (outcome.report.stored, outcome.report.failed) == (32, 0)
        assert server.ledger.requests == 3 + 2


async def test_n9_once_is_forgiven() -> None:
    async with serving(Plan(None, gzip_bomb(), None, Flood())) as server:
        async with at(server, max_batch_size=16, concurrency=1) as embedder:
            outcome = await embed(embedder, numbers(160))
        assert (outcome.error, outcome.report.stored) == (None, 160)


def test_a_broken_first_reply_and_the_job_goes_on() -> None:
    async def run() -> None:
        async with embedder_of(Service(script=Plan(Mutate(wrong("fewer"))))) as embedder:
            assert (await embed(embedder, numbers(10))).report.stored == 10

    run_virtual(run)
