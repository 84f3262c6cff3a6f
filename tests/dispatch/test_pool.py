"""Several addresses of one model: what one refuses goes to another, on virtual time and over real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from aembed import (
    Budget,
    BudgetExceededError,
    ConfigError,
    Embedder,
    Embeddings,
    MemoryStore,
    RetryPolicy,
    SpaceMismatchError,
)
from aembed.errors import AuthenticationError, BadRequestError, OutageError
from tests.jobs import records, words
from tests.service.faults import Cut, Fault, Hang, Outage, Request, Script, Status
from tests.service.in_process import AT_ONCE, DIMENSIONS, KEY, MODEL, embedder_of_pool
from tests.service.limits import RateLimits
from tests.service.server import Latency, Server
from tests.service.service import Model, Rules, Service
from tests.service.vectors import digest, vector_of
from tests.stage.clock import run_virtual

USUAL = Latency(1.0)
PROBE = digest(b"a")
REFUSED = Status(400, {"error": {"message": "Something is wrong.", "type": "invalid_request_error"}})


def always(fault: Fault) -> Script:
    return lambda request: fault


def are_right(embeddings: Embeddings, texts: Sequence[str], dimensions: int = DIMENSIONS) -> bool:
    return all(
        vector is not None and np.array_equal(vector, vector_of(text, dimensions))
        for vector, text in zip(embeddings, texts, strict=True)
    )


def times_billed(services: Sequence[Service]) -> Counter[bytes]:
    """Of the texts of the job: the word that asks an address whether it is back is none of them."""
    times = sum([Counter(service.ledger.times_billed) for service in services], Counter[bytes]())
    del times[PROBE]
    return times


@pytest.mark.parametrize("fault", [Status(429), Status(503), Status(401), Status(404), REFUSED], ids=str)
def test_what_an_address_refuses_from_the_first_goes_to_the_other(fault: Fault) -> None:
    services = [Service(script=always(fault)), Service()]

    async def test() -> None:
        async with embedder_of_pool(services, USUAL, max_batch_size=10) as embedder:
            texts = words(400)
            assert are_right(await embedder.embed_documents(texts), texts)
            assert asyncio.get_running_loop().time() < 10.0
            assert not services[0].ledger.accepted
            assert services[0].ledger.requests <= 20
            assert set(times_billed(services).values()) == {1}

    run_virtual(test)


@pytest.mark.parametrize("fault", [Status(401), REFUSED, Status(503)], ids=str)
def test_an_address_that_stops_working_is_taken_back_once_it_works(fault: Fault) -> None:
    """From the tenth second to the hundredth. No text is blamed for it."""
    services = [Service(script=Outage(10.0, 100.0, fault)), Service()]

    async def test() -> None:
        async with embedder_of_pool(services, Latency(1.0, fixed=5.0), concurrency=2, max_batch_size=10) as embedder:
            texts = words(1_300)
            assert are_right(await embedder.embed_documents(texts), texts)
        assert any(event.at > 100.0 and event.label == "accepted" for event in services[0].ledger.events)
        assert set(times_billed(services).values()) == {1}

    run_virtual(test)


def test_a_query_goes_to_the_address_that_works() -> None:
    services = [Service(script=always(Status(503))), Service(script=Outage(0.0, 1e9, Status(429))), Service()]

    async def test() -> None:
        async with embedder_of_pool(services, USUAL) as embedder:
            for number in range(50):
                vector = await embedder.embed_query(f"query {number}", timeout=3.0)
                assert np.array_equal(vector, vector_of(f"query {number}", DIMENSIONS))
        assert services[2].ledger.accepted == 50

    run_virtual(test)


def test_a_bad_text_fails_alone_where_every_address_refuses_it() -> None:
    def script(request: Request) -> Fault | None:
        return REFUSED if any(text.startswith("bad") for text in request.texts) else None

    services = [Service(script=script) for _ in range(3)]

    async def test() -> None:
        async with embedder_of_pool(services, USUAL, max_batch_size=16) as embedder:
            texts = [f"bad {n}" if n in (0, 77, 78, 200) else f"text {n}" for n in range(300)]
            embeddings = await embedder.embed_documents(texts)
            assert [failure.index for failure in embeddings.failures] == [0, 77, 78, 200]
            assert {type(failure.error) for failure in embeddings.failures} == {BadRequestError}
        assert set(times_billed(services).values()) <= {1, 2}  # controls

    run_virtual(test)


def test_where_all_addresses_refuse_the_key_the_job_stops() -> None:
    services = [Service(Rules(key="another")) for _ in range(3)]

    async def test() -> None:
        async with embedder_of_pool(services, USUAL) as embedder:
            with pytest.raises(AuthenticationError):
                await embedder.embed_documents(words(100))
        assert sum(service.ledger.requests for service in services) <= 24

    run_virtual(test)


def test_an_outage_of_all_addresses_is_waited_for_and_ends_after_max_outage() -> None:
    services = [Service(script=Outage(0.0, 60.0)) for _ in range(2)]

    async def waited() -> None:
        async with embedder_of_pool(services, USUAL) as embedder:
            texts = words(100)
            assert are_right(await embedder.embed_documents(texts), texts)
            assert 60.0 < asyncio.get_running_loop().time() < 70.0

    async def lost() -> None:
        away = [Service(script=always(Status(503))) for _ in range(2)]
        async with embedder_of_pool(away, USUAL, retry=RetryPolicy(max_outage=120.0)) as embedder:
            with pytest.raises(OutageError, match="pool of 2 addresses"):
                await embedder.embed_documents(words(100))
            assert 120.0 <= asyncio.get_running_loop().time() < 130.0

    run_virtual(waited)
    run_virtual(lost)


def test_a_hint_of_one_address_holds_up_no_other() -> None:
    """Both are limited to so many requests that the second minute is needed; the hints are those of each."""
    services = [Service(limits=RateLimits.of("fixed", 30)), Service(limits=RateLimits.of("fixed", 300))]

    async def test() -> None:
        async with embedder_of_pool(services, USUAL, max_batch_size=1) as embedder:
            texts = words(300)
            assert are_right(await embedder.embed_documents(texts), texts)
            assert asyncio.get_running_loop().time() < 61.0
        assert services[0].ledger.accepted >= 25

    run_virtual(test)


def test_addresses_of_several_widths_or_models_stop_the_job_and_say_which() -> None:
    async def test() -> None:
        other = Rules(models={MODEL: Model(DIMENSIONS, answers_as="another-model")})
        services = [Service(), Service(other)]
        async with embedder_of_pool(services, USUAL) as embedder:
            with pytest.raises(SpaceMismatchError, match=r"[ab]\.test answered with the model"):
                await embedder.embed_documents(words(5_000))

    run_virtual(test)


def test_stats_tell_what_is_believed_of_each_address() -> None:
    services = [Service(limits=RateLimits.of("gcra", 600, 100_000)), Service(script=always(Status(401)))]

    async def test() -> None:
        async with embedder_of_pool(services, USUAL) as embedder:
            await embedder.embed_documents(words(3_000))
            stats = embedder.stats()
            assert list(stats.addresses) == ["a.test", "b.test"]
            assert stats.addresses["a.test"].tokens_per_minute == 100_000
            assert "100,000 tokens a minute" in stats.limit
            assert not stats.addresses["b.test"].gate_open
            assert "401" in stats.addresses["b.test"].last_error
            assert stats.gate_open
            assert stats.accepted == stats.addresses["a.test"].accepted

    run_virtual(test)


async def test_over_sockets_one_address_refuses_and_one_is_not_there() -> None:
    """Real servers with keys of their own, and a port where nobody listens."""
    async with Server(rules=Rules(key="sk-one")) as one, Server(rules=Rules(key="sk-two")) as two, Server() as busy:
        busy.service.script = always(Status(429))
        urls = [one.url, two.url, busy.url, "http://127.0.0.1:9/v1"]
        keys = ["sk-one", "sk-two", "sk-three", "sk-four"]
        async with Embedder(f"openai:{MODEL}", base_url=urls, api_key=keys, max_batch_size=20) as embedder:
            texts = words(1_000)
            assert are_right(await embedder.embed_documents(texts), texts, 1_536)
            assert embedder.space.endpoint == " ".join(sorted(urls))
        assert one.ledger.accepted > 10
        assert two.ledger.accepted > 10
        assert set(times_billed([one.service, two.service]).values()) == {1}


async def test_a_store_is_the_same_whichever_addresses_of_the_pool_fill_it() -> None:
    """One made by a single address opens with a pool that has it, in any order, and goes on where addresses leave."""
    async with Server() as a, Server() as b, Server() as c:
        store, texts = MemoryStore(), records(words(50))
        for urls in (a.url, [b.url, a.url], [a.url, b.url], [c.url, b.url], c.url, [b.url]):
            async with Embedder(f"openai:{MODEL}", base_url=urls, api_key=KEY) as embedder:
                report = await embedder.embed_into(store, texts)
                assert (await embedder.search(store, "text 1", k=1))[0].text == "text 1"
            assert report.stored + report.unchanged == 50
        assert sum(server.ledger.texts_again for server in (a, b, c)) <= 5  # the queries
        documents = sum(sum(server.ledger.times_billed.values()) for server in (a, b, c))
        assert documents == 50 + 6
        async with Server() as stranger, Embedder(f"openai:{MODEL}", base_url=stranger.url, api_key=KEY) as embedder:
            with pytest.raises(SpaceMismatchError):
                await embedder.embed_into(store, texts)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"base_url": []}, "base_url"),
        ({"base_url": ["http://127.0.0.1:1/v1", 5]}, "base_url"),
        ({"base_url": ["http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1/"]}, "twice"),
        ({"base_url": ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"], "api_key": ["one"]}, "api_key has 1 keys"),
        ({"base_url": "http://127.0.0.1:1/v1", "api_key": ["one"]}, "api_key"),
        ({"base_url": 5}, "base_url"),
    ],
)
def test_addresses_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Embedder(f"openai:{MODEL}", **{"api_key": KEY} | options)


# an address that is away is asked by short texts, beside the work


@pytest.mark.parametrize("fault", [Hang(billed=True), Cut(), Status(504, billed=True), Status(503)], ids=str)
def test_e11_an_address_that_is_away_is_sent_no_work_and_is_taken_back_once_it_answers(fault: Fault) -> None:
    """Its gate closes after five failures in a row; beside those, only what was in flight then is sent in vain."""
    services = [Service(script=Outage(30.0, 200.0, fault)), Service()]

    async def test() -> None:
        async with embedder_of_pool(services, Latency(1.0, fixed=4.0), concurrency=4, max_batch_size=5) as embedder:
            texts = words(2_000)
            embeddings = await embedder.embed_documents(texts)
            assert are_right(embeddings, texts)
            report, events = embeddings.report, services[0].ledger.events
            assert asyncio.get_running_loop().time() < 320.0
            assert sum(30.0 <= event.at < 200.0 and event.inputs > 1 for event in events) <= 5 + 4
            assert any(event.at > 200.0 and event.inputs > 1 for event in events)
            billed = sum(service.ledger.billed_tokens for service in services)
            assert report.billed_tokens + report.lost_tokens >= billed
        assert max(times_billed(services).values()) <= 2

    run_virtual(test)


def test_e11_work_is_not_held_up_by_an_address_that_hangs() -> None:
    """Nothing of the job waits for a probe: what was sent before the first hang was seen is all that is late."""
    services = [Service(script=Outage(20.0, 1e9, Hang())), Service()]

    async def test() -> float:
        async with embedder_of_pool(services, Latency(1.0, fixed=2.0), concurrency=2, max_batch_size=5) as embedder:
            texts = words(2_000)
            assert are_right(await embedder.embed_documents(texts), texts)
            return asyncio.get_running_loop().time()

    # 400 requests of about 2 s, two at a time at the one that is left: 400 s less what both did in the first 20 s.
    assert run_virtual(test) < 440.0


def test_e11_where_only_queries_come_an_address_is_taken_back_too() -> None:
    services = [Service(script=Outage(1.0, 60.0, Hang())), Service()]

    async def test() -> None:
        async with embedder_of_pool(services, AT_ONCE, timeout=2.0) as embedder:
            for number in range(200):
                vector = await embedder.embed_query(f"query {number}", timeout=5.0)
                assert np.array_equal(vector, vector_of(f"query {number}", DIMENSIONS))
                await asyncio.sleep(0.5)
        assert any(event.at > 60.0 and event.label == "accepted" for event in services[0].ledger.events)

    run_virtual(test)


def test_e11_a_budget_that_is_used_up_stops_the_job_though_all_addresses_are_away() -> None:
    """What asks them costs a token each, which is not there."""
    services = [Service(script=Outage(5.0, 1e9, Hang(billed=True))) for _ in range(2)]

    async def test() -> None:
        latency = Latency(1.0, fixed=2.0)
        async with embedder_of_pool(services, latency, concurrency=1, max_batch_size=5, budget=Budget(60)) as embedder:
            with pytest.raises(BudgetExceededError):
                await embedder.embed_documents(words(100))
        assert sum(service.ledger.billed_tokens for service in services) <= 60

    run_virtual(test)


def test_e12_a_text_is_not_blamed_for_an_address_that_fails_it_by_itself() -> None:
    """The second server dies of long texts, each time, and of nothing else; the first one takes them, one at a time."""

    def script(request: Request) -> Fault | None:
        return Status(500) if any("long" in text for text in request.texts) else None

    services = [Service(), Service(script=script)]

    async def test() -> None:
        async with embedder_of_pool(services, USUAL, concurrency=1, max_batch_size=4) as embedder:
            texts = [f"{'long' if n % 10 == 0 else 'short'} {n}" for n in range(200)]
            assert are_right(await embedder.embed_documents(texts), texts)

    run_virtual(test)


def test_e12_a_text_that_one_refuses_and_others_fail_is_refused_and_is_not_tried_for_ever() -> None:
    def bad(request: Request) -> Fault | None:
        return REFUSED if any(text.startswith("bad") for text in request.texts) else None

    def busy(request: Request) -> Fault | None:
        return Status(429, headers=[("retry-after", "20")])

    services = [Service(script=bad), Service(script=always(Status(503))), Service(script=busy)]

    async def test() -> None:
        async with embedder_of_pool(services, USUAL, concurrency=2, max_batch_size=8) as embedder:
            embeddings = await embedder.embed_documents(["bad one", *words(100)])
            assert [type(failure.error) for failure in embeddings.failures] == [BadRequestError]
            assert asyncio.get_running_loop().time() < 200.0
        assert services[0].ledger.requests <= 30

    run_virtual(test)


def test_e12_an_address_that_refuses_all_is_not_believed_while_the_others_are_away() -> None:
    """Once the other is back, what was refused meanwhile is sent to it."""
    services = [Service(script=Outage(2.0, 40.0, Status(503))), Service(script=Outage(2.0, 1e9, REFUSED))]

    async def test() -> None:
        async with embedder_of_pool(services, USUAL, concurrency=2, max_batch_size=4) as embedder:
            texts = words(600)
            assert are_right(await embedder.embed_documents(texts), texts)

    run_virtual(test)
