"""What no waiting clears stops the job at once (rows P5, P6, N10, C4): no new request, what is stored is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Any

import pytest

from aembed import (
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    Record,
)
from aembed.stores.memory import MemoryStore
from tests.hostile.jobs import KEY, SECOND, At, From, at, embed, numbers, serving, virtually
from tests.service.faults import Always, Late, Request, Status
from tests.service.refusals import bad_key, error, quota_exhausted, unknown_model
from tests.service.service import Rules, Service

VERDICTS: Mapping[str, tuple[Status, type[Exception]]] = {
    "quota by code": (quota_exhausted(), QuotaExceededError),
    "quota by type": (quota_exhausted(with_code=False), QuotaExceededError),
    "billing": (
        Status(429, error("Billing hard limit has been reached", "billing_hard_limit_reached")),
        QuotaExceededError,
    ),
    "no money": (Status(402, error("Payment required")), QuotaExceededError),
    "bad key": (bad_key("sk-****"), AuthenticationError),
    "forbidden": (Status(403), PermissionDeniedError),
    "unknown model": (unknown_model("nope"), NotFoundError),
    "invalid model": (Status(400, error("invalid model ID", param="model")), NotFoundError),
    "redirect": (Status(307, b"", [("location", "https://elsewhere.test/v1/embeddings")]), NotFoundError),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_p5_p6_n10_the_first_verdict_is_the_last_request(name: str) -> None:
    """8 in flight of equal latency: those that were sent before the verdict land, none is sent after it."""
    verdict, kind = VERDICTS[name]
    service = Service(script=At(20, verdict))
    outcome = virtually(service, numbers(1_000), SECOND, concurrency=8, max_batch_size=10)
    assert type(outcome.error) is kind
    ledger = service.ledger
    decided = next(event.at for event in ledger.events if event.label != "accepted")
    assert [event for event in ledger.events if event.at > decided + 0.02] == []
    assert ledger.refused.total() == 1
    assert outcome.report.stored == ledger.billed_tokens
    assert outcome.report.failed == 0
    assert outcome.report.pending == outcome.report.inputs - outcome.report.stored > 0


@pytest.mark.parametrize("name", VERDICTS)
def test_p5_p6_at_the_start_only_the_first_wave_is_sent(name: str) -> None:
    verdict, kind = VERDICTS[name]
    service = Service(script=Always(verdict))
    outcome = virtually(service, numbers(1_000), concurrency=8, max_batch_size=10)
    assert type(outcome.error) is kind
    assert service.ledger.requests <= 8
    assert (outcome.report.stored, outcome.report.failed) == (0, 0)


@pytest.mark.parametrize("name", ["bad key", "quota by code", "unknown model"])
async def test_g7_over_a_socket_the_verdict_stops_the_job_within_a_second(name: str) -> None:
    verdict, kind = VERDICTS[name]
    async with serving(From(12, verdict)) as server, at(server, max_batch_size=10) as embedder:
        started = monotonic()
        outcome = await embed(embedder, numbers(2_000))
        assert monotonic() - started < 1.0
        assert type(outcome.error) is kind
        assert server.ledger.refused.total() <= 8
        requests = server.ledger.requests
        assert outcome.report.stored == server.ledger.accepted * 10
        await asyncio.sleep(0.1)
        assert server.ledger.requests == requests


async def test_p6_a_wrong_key_is_never_shown() -> None:
    async with serving(rules=Rules(key="sk-another")) as server, at(server) as embedder:
        outcome = await embed(embedder, numbers(5))
        assert isinstance(outcome.error, AuthenticationError)
        assert KEY not in f"{outcome.error} {outcome.error.body} {embedder!r}"
        assert server.ledger.requests == 1


async def test_n10_a_redirect_is_not_followed_and_says_where_to() -> None:
    async with serving() as target:
        elsewhere = Status(307, b"", [("location", f"{target.root}/v1/embeddings")])
        async with serving(Always(elsewhere)) as server, at(server) as embedder:
            outcome = await embed(embedder, numbers(5))
        assert isinstance(outcome.error, NotFoundError)
        assert target.root in str(outcome.error)
        assert target.ledger.requests == 0


def test_c4_siblings_of_a_stopped_job_land_and_one_plain_error_comes_out() -> None:
    """The verdict comes while seven slower requests are under way: all seven are kept."""

    def script(request: Request) -> Any:
        return bad_key("sk-****") if request.number == 7 else Late(5.0)

    service = Service(script=script)
    outcome = virtually(service, numbers(1_000), concurrency=8, max_batch_size=10)
    assert type(outcome.error) is AuthenticationError
    assert outcome.report.stored == 70
    assert service.ledger.lost_tokens == 0


def test_c4_several_fatal_replies_at_once_are_one_plain_error() -> None:
    service = Service(script=From(8, quota_exhausted()))
    outcome = virtually(service, numbers(1_000), SECOND, concurrency=8, max_batch_size=10)
    assert type(outcome.error) is QuotaExceededError
    assert outcome.report.stored == 80


async def test_c4_what_was_stored_before_the_verdict_is_in_the_store() -> None:
    store = MemoryStore()
    async with serving(From(5, quota_exhausted())) as server, at(server, max_batch_size=10) as embedder:
        with pytest.raises(QuotaExceededError) as stopped:
            await embedder.embed_into(store, [Record(text, text) for text in numbers(300)])
        report = stopped.value.report
        assert report is not None
        assert (await store.info()).rows == report.stored == server.ledger.accepted * 10
        server.service.script = None
        again = await embedder.embed_into(store, [Record(text, text) for text in numbers(300)])
        assert (again.stored, again.unchanged, again.failed) == (300 - report.stored, report.stored, 0)
        assert server.ledger.texts_again == 0
