"""What `on_event` is told, and what `stats()` counts: compared with what the provider itself has counted."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import Counter
from contextvars import Context, ContextVar
from typing import Any

import pytest

from aembed import (
    AembedError,
    AuthenticationError,
    BadRequestError,
    Budget,
    BudgetExceededError,
    ConfigError,
    Embedder,
    FakeProvider,
    Hints,
    MemoryStore,
    OutageError,
    Progress,
    RateLimitError,
    Record,
    RetryPolicy,
    UnavailableError,
)
from aembed import events as told
from aembed.events import (
    Event,
    JobBegan,
    JobEnded,
    OutageBegan,
    OutageEnded,
    RequestAnswered,
    RequestFailed,
    RequestRefused,
    RequestRetried,
    RequestStarted,
)
from tests.heard import Heard
from tests.jobs import records, words
from tests.service.faults import Outage, Status
from tests.service.in_process import embedder_of_pool
from tests.service.server import Latency
from tests.service.service import Service
from tests.stage.clock import run_virtual

SECRET = "sk-nobody-may-see-this"


async def test_a_job_and_a_query_are_told_of_as_the_provider_counts_them() -> None:
    heard, provider = Heard(), FakeProvider(price_usd=1.0)
    async with Embedder(provider, on_event=heard, max_batch_size=10) as embedder:
        report = await embedder.embed_into(MemoryStore(), records(words(35)))
        await embedder.embed_query("a query")
        stats = embedder.stats()
    heard.check()
    answered = heard.of(RequestAnswered)
    assert len(heard.of(RequestStarted)) == len(answered) == provider.ledger.requests == 5
    assert sum(each.texts for each in answered) == 36
    assert [each.input_type for each in answered] == ["document"] * 4 + ["query"]
    assert sum(each.billed_tokens for each in answered) == provider.ledger.billed_tokens == stats.billed_tokens
    assert sum(each.cost_usd for each in answered) == pytest.approx(stats.cost_usd)
    assert stats.cost_usd == pytest.approx(provider.ledger.billed_tokens / 1e6)
    assert {(each.dimensions, each.response_model, each.address, each.port) for each in answered} == {
        (64, "fake", "", None)
    }
    (began,), (ended,) = heard.of(JobBegan), heard.of(JobEnded)
    assert (began.verb, ended.verb, ended.error, ended.counts.stored) == ("embed_into", "embed_into", "", 35)
    assert str(ended.counts).partition(" in ")[0] == str(report).partition(" in ")[0]
    assert type(ended.counts) is Progress


def test_a_refusal_is_told_with_what_it_asks_and_the_request_goes_on() -> None:
    refusal = RateLimitError("slow down", status_code=429, hints=Hints(retry_after=7.0))
    heard, provider = Heard(), FakeProvider(latency=0.5, script=[refusal, None])

    async def test() -> None:
        async with Embedder(provider, on_event=heard) as embedder:
            assert len(await embedder.embed_documents(["one", "two"])) == 2
            assert embedder.stats().errors == {"RateLimitError": 1}

    run_virtual(test)
    heard.check()
    kinds = [type(event).__name__ for event in heard if not isinstance(event, JobBegan | JobEnded)]
    assert kinds == ["RequestStarted", "RequestRefused", "RequestRetried", "RequestStarted", "RequestAnswered"]
    (refused,), (retried,), (answered,) = heard.of(RequestRefused), heard.of(RequestRetried), heard.of(RequestAnswered)
    assert (refused.error, refused.status, refused.retry_after) == ("RateLimitError", 429, 7.0)
    assert (retried.error, retried.status) == ("RateLimitError", 429)
    assert 7.0 <= retried.pause <= 7.7
    assert (answered.try_number, answered.seconds) == (2, pytest.approx(0.5))
    assert answered.total_seconds == pytest.approx(0.5 + heard.of(RequestStarted)[1].waited + refused.seconds)


def test_an_outage_is_told_once_and_has_an_end() -> None:
    heard, away = Heard(), UnavailableError("away", status_code=503)
    provider = FakeProvider(latency=0.1, script=lambda number, texts: away if number < 30 else None)

    async def test() -> None:
        async with Embedder(provider, on_event=heard, max_batch_size=2) as embedder:
            assert len((await embedder.embed_documents(words(40))).failures) == 0

    run_virtual(test)
    heard.check()
    (began,), (ended,) = heard.of(OutageBegan), heard.of(OutageEnded)
    assert (began.error, began.status, began.provider) == ("UnavailableError", 503, "fake")
    assert heard.index(began) < heard.index(ended)
    assert ended.seconds > began.pause > 0.0
    assert len(heard.of(RequestStarted)) == provider.ledger.requests
    assert heard.of(RequestRefused) == []


def test_a_lost_outage_ends_every_request_and_the_job() -> None:
    heard, provider = Heard(), FakeProvider(latency=0.1, script=lambda number, texts: UnavailableError("away"))

    async def test() -> None:
        async with Embedder(provider, on_event=heard, retry=RetryPolicy(max_outage=60.0)) as embedder:
            with pytest.raises(OutageError):
                await embedder.embed_documents(words(10))
            assert embedder.stats().errors == {"UnavailableError": provider.ledger.requests}

    run_virtual(test)
    heard.check()
    assert {each.error for each in heard.of(RequestFailed)} <= {"OutageError", "UnavailableError", "CancelledError"}
    assert [each.error for each in heard.of(JobEnded)] == ["OutageError"]
    assert len(heard.of(OutageBegan)) == 1
    assert heard.of(OutageEnded) == []


def test_of_several_addresses_each_has_its_name_and_its_outage() -> None:
    services, heard = [Service(script=Outage(0.0, 30.0, Status(503))), Service()], Heard()

    async def test() -> None:
        options: dict[str, Any] = {"max_batch_size": 10, "on_event": heard, "concurrency": 2}
        async with embedder_of_pool(services, Latency(1.0, fixed=2.0), **options) as embedder:
            assert not (await embedder.embed_documents(words(600))).failures
            stats = embedder.stats()
        assert sum(stats.errors.values()) == sum(
            service.ledger.requests - service.ledger.accepted for service in services
        )
        assert [sum(each.errors.values()) > 0 for each in stats.addresses.values()] == [True, False]
        assert all(each.latency_p50 for each in stats.addresses.values())

    run_virtual(test)
    heard.check()
    started = Counter((each.address, each.port) for each in heard.of(RequestStarted))
    assert sorted(started.values()) == sorted(service.ledger.requests for service in services)
    began, ended = heard.of(OutageBegan), heard.of(OutageEnded)
    assert len(began) == len(ended) == 1
    assert (began[0].address, began[0].port) == (ended[0].address, ended[0].port)
    assert began[0].address


def test_an_address_that_refuses_everything_is_told_as_away() -> None:
    services, heard = [Service(script=Outage(0.0, 30.0, Status(401))), Service()], Heard()

    async def test() -> None:
        options: dict[str, Any] = {"max_batch_size": 10, "on_event": heard, "concurrency": 2}
        async with embedder_of_pool(services, Latency(1.0, fixed=3.0), **options) as embedder:
            assert not (await embedder.embed_documents(words(700))).failures

    run_virtual(test)
    heard.check()
    assert [each.error for each in heard.of(OutageBegan)] == ["AuthenticationError"]
    assert len(heard.of(OutageEnded)) == 1


async def test_a_stopped_job_a_bad_text_and_a_budget_are_told_by_their_classes() -> None:
    heard = Heard()
    provider = FakeProvider(
        script=lambda number, texts: BadRequestError("no", status_code=400) if "bad" in texts else None
    )
    async with Embedder(provider, on_event=heard) as embedder:
        assert len((await embedder.embed_documents(["bad", *words(6)])).failures) == 1
        provider.script = lambda number, texts: AuthenticationError("who?", status_code=401)
        with pytest.raises(AuthenticationError):
            await embedder.embed_documents(words(4, 10))
    async with Embedder(FakeProvider(), on_event=heard, budget=Budget(max_billed_tokens=1)) as embedder:
        with pytest.raises(BudgetExceededError):
            await embedder.embed_documents(words(100))
    heard.check()
    assert {(each.error, each.status) for each in heard.of(RequestFailed)} == {
        ("BadRequestError", 400),
        ("AuthenticationError", 401),
    }
    assert [each.error for each in heard.of(JobEnded)] == ["", "AuthenticationError", "BudgetExceededError"]
    assert heard[-1].error == "BudgetExceededError"  # its request was never sent, and is not told of


def test_what_is_sent_again_at_once_is_a_try_of_its_own() -> None:
    def script(number: int, texts: Any) -> AembedError | None:
        closed = UnavailableError("closed meanwhile")
        closed.at_once = True
        return closed if number == 0 else None

    heard, provider = Heard(), FakeProvider(script=script)

    async def test() -> None:
        async with Embedder(provider, on_event=heard) as embedder:
            await embedder.embed_documents(["text"])

    run_virtual(test)
    heard.check()
    assert [(each.try_number, each.pause) for each in heard.of(RequestRetried)] == [(1, 0.0)]
    assert len(heard.of(RequestStarted)) == provider.ledger.requests == 2


async def test_a_cancelled_caller_leaves_requests_that_end() -> None:
    heard, provider = Heard(), FakeProvider(latency=0.02)
    async with Embedder(provider, on_event=heard) as embedder:
        asking = asyncio.create_task(embedder.embed_documents(words(3)))
        await asyncio.sleep(0.005)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    heard.check()
    assert [each.error for each in heard.of(JobEnded)] == ["CancelledError"]
    assert len(heard.of(RequestAnswered)) == 1


async def test_b13_a_listener_that_raises_or_is_no_plain_function_touches_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError(SECRET)

    async def later() -> None: ...

    for listener, said in ((broken, "the work goes on"), (lambda event: later(), "nobody awaits")):
        caplog.clear()
        with caplog.at_level(logging.ERROR, "aembed"):
            async with Embedder(FakeProvider(), on_event=listener, max_batch_size=2) as embedder:
                assert not (await embedder.embed_documents(words(10))).failures
                await embedder.embed_query("text")
        assert [said in record.message for record in caplog.records] == [True]


class Called:
    async def __call__(self, event: Event) -> None: ...


async def heard_later(event: Event) -> None: ...


@pytest.mark.parametrize("listener", [heard_later, Called()], ids=["function", "object"])
def test_b13_an_async_function_is_told_before_anything_is_sent(listener: Any) -> None:
    with pytest.raises(ConfigError, match="on_event must be a plain function, and not async"):
        Embedder(FakeProvider(), on_event=listener)


tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def test_a_listener_is_called_in_the_context_of_the_caller() -> None:
    """That of the job, and of queries that of the first one that is in the request: not of whoever began the task."""
    heard = list[tuple[str, str]]()

    def listen(event: Event) -> None:
        if isinstance(event, RequestStarted | RequestAnswered):
            heard.append((tenant.get(), event.input_type))

    async def ask(embedder: Embedder, name: str) -> None:
        if name != "nobody":
            tenant.set(name)
        await embedder.embed_query(f"what {name} asks")

    async def fill(embedder: Embedder) -> None:
        tenant.set("a job")
        await embedder.embed_documents(["text"])

    async with Embedder(FakeProvider(latency=0.01), on_event=listen, max_batch_size=1, concurrency=1) as embedder:
        names = ("a", "b", "nobody")
        await asyncio.gather(*[asyncio.Task(ask(embedder, name), context=Context()) for name in names])
        await asyncio.create_task(fill(embedder))
    queries = [(name, "query") for name in names for _ in range(2)]
    assert heard == [*queries, ("a job", "document"), ("a job", "document")]


def test_z13_nothing_that_is_told_holds_a_text_a_key_or_more_of_a_url_than_its_host() -> None:
    heard = Heard()
    text, id = "a text that nobody may see", "customer-4711"

    async def test() -> None:
        refused = UnavailableError(f"{SECRET} {text} {id}", status_code=503, body=f"{SECRET} {text}")
        provider = FakeProvider(script=lambda number, texts: refused if number < 12 else None)
        provider.base_url = f"https://user:{SECRET}@api.example.com/v1?key={SECRET}"  # type: ignore[attr-defined]
        async with Embedder(provider, on_event=heard) as embedder:
            await embedder.embed_into(MemoryStore(), [Record(id, text), Record(f"{id}-2", text)])

    run_virtual(test)
    heard.check()
    assert heard.of(OutageBegan, OutageEnded)
    assert {(each.address, each.port) for each in heard} == {("api.example.com", 443)}
    shown = repr(heard)
    assert not any(part in shown for part in (SECRET, text, id, "user"))


def test_the_page_and_the_union_name_every_event() -> None:
    kinds = {name for name, each in vars(told).items() if dataclasses.is_dataclass(each) and name[0] != "_"} - {
        "Progress"
    }
    assert kinds == set(told.__all__) - {"Event", "OnEvent"}
    assert kinds == {kind.__name__ for kind in told.Event.__args__}  # type: ignore[attr-defined]


# stats()


def test_stats_stay_when_the_loop_has_ended() -> None:
    provider = FakeProvider(price_usd=1.0)
    embedder = Embedder(provider, max_batch_size=5)

    async def fill() -> None:
        await embedder.embed_documents(words(10))

    for _ in range(2):
        asyncio.run(fill())
        stats = embedder.stats()
        assert stats.billed_tokens == provider.ledger.billed_tokens
        assert stats.latency_p50 is not None
    assert provider.ledger.requests == 4
    assert stats.cost_usd == pytest.approx(provider.ledger.billed_tokens / 1e6)
