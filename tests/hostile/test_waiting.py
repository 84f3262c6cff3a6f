"""What waiting clears: rate limits, outages, flaky and slow servers (rows P1 to P4, P10 to P15)."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from random import Random

import pytest

from aembed import Budget, BudgetExceededError, OutageError, RetryPolicy, UnavailableError
from tests.hostile.jobs import REAL, SECOND, Outcome, embed, numbers, serving, virtually
from tests.service.faults import Always, Fault, Faults, Hang, Mutate, Outage, Plan, Request, Status, html
from tests.service.in_process import embedder_of
from tests.service.limits import RateLimits
from tests.service.mutations import wrong
from tests.service.server import Latency
from tests.service.service import Service
from tests.stage.clock import run_virtual

ROOT = Path(__file__).parents[2]
AWAY = Status(503)
NO_RETRIES = RetryPolicy(max_retries=0)
BUSY = [Status(500), Status(502), Status(503), Status(504), html(502)]

HINTS = {
    "retry-after-ms": ([("retry-after-ms", "7000")], 7.0),
    "seconds": ([("retry-after", "7")], 7.0),
    "a fraction": ([("retry-after", "7.5")], 7.5),
    "a date": (
        [("date", "Tue, 01 Jan 2030 00:00:00 GMT"), ("retry-after", "Tue, 01 Jan 2030 00:00:07 GMT")],
        7.0,
    ),
    "a date of a clock that is an hour off": (
        [("date", "Mon, 31 Dec 2029 23:00:00 GMT"), ("retry-after", "Mon, 31 Dec 2029 23:00:07 GMT")],
        7.0,
    ),
    "both, of which the longer holds": ([("retry-after-ms", "250"), ("retry-after", "7")], 7.0),
}


@pytest.mark.parametrize("name", HINTS)
def test_p1_p3_what_was_refused_waits_as_long_as_the_server_says_and_no_try_is_spent(name: str) -> None:
    headers, seconds = HINTS[name]
    limited = Status(429, headers=headers)
    service = Service(script=Plan(None, limited, limited))
    outcome = virtually(service, numbers(100), concurrency=4, max_batch_size=10, retry=NO_RETRIES)
    assert (outcome.error, outcome.report.stored) == (None, 100)
    assert service.ledger.rate_limited == 2
    accepted = [event.at for event in service.ledger.events if event.label == "accepted"]
    refused = [event.at for event in service.ledger.events if event.label != "accepted"]
    late = [at for at in accepted if at > refused[0] + 2.0]
    assert (len(accepted), len(late)) == (10, 2)  # nobody else waits
    assert all(seconds <= at - refused[0] <= seconds * 1.1 + 0.2 for at in late)


@pytest.mark.parametrize("name", HINTS)
def test_p1_p3_everybody_waits_where_the_headers_say_that_a_limit_is_exhausted(name: str) -> None:
    headers, seconds = HINTS[name]
    spent = [("x-ratelimit-limit-requests", "5000"), ("x-ratelimit-remaining-requests", "0")]
    limited = Status(429, headers=[*headers, *spent])
    service = Service(script=Plan(None, limited, limited, limited))
    outcome = virtually(service, numbers(100), concurrency=4, max_batch_size=10, retry=NO_RETRIES)
    assert (outcome.error, outcome.report.stored) == (None, 100)
    assert 3 >= service.ledger.rate_limited >= 1
    events = service.ledger.events
    refused = [event.at for event in events if event.label != "accepted"]
    after = next(event.at for event in events if event.at > refused[0] + 0.1)
    assert seconds <= after - refused[0] <= seconds * 1.1 + 0.2


def test_p1_a_rate_limit_may_come_more_often_than_retries_are_allowed() -> None:
    service = Service(script=Plan(*[Status(429, headers=[("retry-after", "1")])] * 40))
    outcome = virtually(service, numbers(100), concurrency=2, max_batch_size=10, retry=NO_RETRIES)
    assert (outcome.error, outcome.report.stored) == (None, 100)
    assert service.ledger.rate_limited == 40


HOSTILE_HINTS = ["-5", "nan", "inf", "1e9", "soon", "", "99999999999999999999", "Tue, 01 Jan 1980 00:00:00 GMT"]


@pytest.mark.parametrize("hint", HOSTILE_HINTS)
@pytest.mark.parametrize("header", ["retry-after", "retry-after-ms"])
def test_p2_a_hint_that_cannot_be_meant_costs_no_more_than_two_minutes(header: str, hint: str) -> None:
    service = Service(script=Plan(Status(429, headers=[(header, hint)])))
    outcome = virtually(service, numbers(10), concurrency=1)
    assert (outcome.error, outcome.report.stored) == (None, 10)
    assert outcome.seconds <= 132.5


@pytest.mark.parametrize("value", ["", "6m0s", "1h2m3.5s", "-1s", "NaN", "soon", "1e400ms", "\x01", "9" * 400])
def test_p4_no_header_about_limits_hurts_a_job(value: str) -> None:
    names = [
        f"x-ratelimit-{what}-{unit}" for what in ("reset", "limit", "remaining") for unit in ("tokens", "requests")
    ]
    odd = Status(503, headers=[(name, value) for name in names])
    service = Service(script=Plan(odd, None, odd))
    outcome = virtually(service, numbers(200), concurrency=2, max_batch_size=10)
    assert (outcome.error, outcome.report.stored) == (None, 200)
    assert outcome.seconds < 30


def test_p4_azures_zeros_say_nothing() -> None:
    """`x-ratelimit-limit-requests: 0` on an account that has limits and does not tell them."""
    zeros = {"x-ratelimit-limit-requests": "0", "x-ratelimit-remaining-requests": "0", "x-ratelimit-limit-tokens": "0"}

    class Zeros(RateLimits):
        def headers(self, now: float) -> dict[str, str]:
            return zeros

    outcome = virtually(Service(limits=Zeros()), numbers(2_000), concurrency=4, max_batch_size=10)
    assert (outcome.error, outcome.report.stored) == (None, 2_000)
    assert outcome.seconds < 10


@pytest.mark.parametrize("code", [408, 409, 500, 502, 503, 504, 520, 522, 529])
def test_p10_server_errors_are_tried_again(code: int) -> None:
    service = Service(script=Plan(Status(code), None, Status(code), html(code)))
    outcome = virtually(service, numbers(200), concurrency=4, max_batch_size=20)
    assert (outcome.error, outcome.report.stored, outcome.report.retries) == (None, 200, 3)
    assert service.ledger.texts_again == 0


def test_p10_a_text_that_the_server_always_fails_on_fails_alone_after_the_retries() -> None:
    """max_retries counts where the others succeed; the neighbours in its batch share its fate."""

    def script(request: Request) -> Fault | None:
        return Status(500) if "0042" in request.texts else None

    service = Service(script=script)
    outcome = virtually(service, numbers(2_000), concurrency=4, max_batch_size=1, retry=RetryPolicy(max_retries=3))
    assert outcome.error is None
    assert outcome.failed == [42]
    assert outcome.reasons == {"UnavailableError"}
    assert service.ledger.refused.total() == 4


def outage(seconds: float, *, concurrency: int, fault: Fault = AWAY) -> tuple[Outcome, Service]:
    service = Service(script=Outage(20.0, 20.0 + seconds, fault))
    texts = numbers(4 * concurrency * 60)
    return virtually(service, texts, SECOND, concurrency=concurrency, max_batch_size=4), service


@pytest.mark.parametrize(("timeout", "max_outage"), [(10.0, 10.0), (10.0, 25.0), (60.0, 5.0)])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_e7_max_outage_holds_where_requests_hang(concurrency: int, timeout: float, max_outage: float) -> None:
    """The first failure begins the outage: it takes no longer than the first deadline and max_outage together."""
    service = Service(script=Always(Hang()))
    retry = RetryPolicy(max_outage=max_outage)
    outcome = virtually(service, numbers(100), concurrency=concurrency, max_batch_size=10, timeout=timeout, retry=retry)
    assert isinstance(outcome.error, OutageError)
    assert outcome.seconds <= timeout + max_outage + 0.5


@pytest.mark.parametrize("fault", [AWAY, Hang()], ids=["503", "hang"])
def test_p11_an_outage_costs_what_was_in_flight_and_probes(fault: Fault) -> None:
    outcome, service = outage(60.0, concurrency=32, fault=fault)
    assert (outcome.error, outcome.report.failed) == (None, 0)
    wasted = service.ledger.requests - service.ledger.accepted
    assert wasted <= 32 + 40
    back = [event for event in service.ledger.events if event.at >= 80.0 and event.label == "accepted"]
    assert sum(90.0 <= event.at < 95.0 for event in back) >= 0.95 * 5 * 32


@pytest.mark.parametrize("concurrency", [1, 2, 4])
def test_p11_an_outage_fails_no_text_however_few_are_in_flight(concurrency: int) -> None:
    outcome, service = outage(60.0, concurrency=concurrency)
    assert (outcome.error, outcome.report.failed) == (None, 0)
    assert service.ledger.refused.total() <= concurrency + 40


def test_p11_ten_minutes_are_waited_for() -> None:
    outcome, service = outage(600.0, concurrency=8)
    assert (outcome.error, outcome.report.failed) == (None, 0)
    assert service.ledger.refused.total() <= 8 + 600 / 5 + 10


def test_p11_a_longer_outage_ends_the_job_resumably() -> None:
    outcome, service = outage(10_000.0, concurrency=8)
    assert isinstance(outcome.error, OutageError)
    assert "503" in str(outcome.error)
    assert outcome.report.failed == 0
    assert outcome.report.stored == service.ledger.accepted * 4
    assert 900 <= outcome.seconds - 20 <= 910


def test_p11_no_rate_limit_is_waited_for_longer_than_an_outage() -> None:
    service = Service(script=Always(Status(429)))
    outcome = virtually(service, numbers(100), retry=RetryPolicy(max_outage=120))
    assert isinstance(outcome.error, OutageError)
    assert 120 <= outcome.seconds <= 140


@pytest.mark.parametrize("seed", range(3))
def test_p12_random_server_errors_close_no_gate_and_fail_no_text(seed: int) -> None:
    service = Service(script=Faults(seed, 0.3, BUSY))

    async def run() -> None:
        async with embedder_of(service, SECOND, concurrency=8, max_batch_size=4) as embedder:
            embedder._engine.random = Random(seed)
            outcome = await embed(embedder, numbers(4 * 400))
            assert (outcome.error, outcome.report.failed) == (None, 0)
            assert 50.0 / outcome.seconds >= 0.6
            assert "closed 0 times" in repr(embedder)

    run_virtual(run)


def test_p13_a_brown_out_raises_neither_the_load_nor_the_count() -> None:
    class Slows(Latency):
        def seconds(self, tokens: int, number: int) -> float:
            return 0.3 if number < 100 else 6.0

    service = Service()
    outcome = virtually(service, numbers(4 * 250), Slows(), concurrency=8, max_batch_size=4)
    assert (outcome.error, outcome.report.failed) == (None, 0)
    assert service.ledger.max_in_flight <= 8
    assert service.ledger.requests <= 250 + 16, "the deadlines follow: only the first slow ones are given up"


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("window", ["fixed", "sliding", "bucket", "gcra"])
def test_p14_limits_changed_in_mid_job_are_followed_within_two_windows(window: str, factor: float) -> None:
    service = Service(limits=RateLimits.of(window, None, 100_000))  # type: ignore[arg-type]
    tokens = service.limits.tokens
    assert tokens is not None

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.call_at(120.0, lambda: tokens.change(100_000 * factor, loop.time()))
        async with embedder_of(service, REAL, concurrency=8) as embedder:
            texts = [f"{i:05d}" + "x" * 395 for i in range(int(1_000 * (2 + 3 * factor)))]
            outcome = await embed(embedder, texts)
        assert (outcome.error, outcome.report.failed) == (None, 0)

    run_virtual(run)
    late = [event for event in service.ledger.events if event.at >= 240.0]
    refused = sum(event.label != "accepted" for event in late)
    assert refused <= 0.02 * len(late)


def test_p15_two_embedders_on_one_key_share_its_limit() -> None:
    service = Service(limits=RateLimits.of("bucket", None, 1_000_000))

    async def job(number: int) -> float:
        texts = [f"{number}{i:05d}" + "x" * 1_994 for i in range(1_500)]
        async with embedder_of(service, REAL, concurrency=8) as embedder:
            embedder._engine.random = Random(number)
            outcome = await embed(embedder, texts)
        assert (outcome.error, outcome.report.failed) == (None, 0)
        return outcome.seconds

    async def both() -> tuple[float, float]:
        return await asyncio.gather(job(1), job(2))

    first, second = run_virtual(both)
    assert max(first, second) <= 1.25 * 60 * (1_500_000 - 100_000) / 1_000_000
    assert 0.5 <= first / second <= 2.0
    assert service.ledger.rate_limited <= 0.05 * service.ledger.requests


ONE_OF_TWO = """
import asyncio, sys
from tests.hostile.jobs import at, embed
from types import SimpleNamespace

async def main(url, number):
    async with at(SimpleNamespace(url=url)) as embedder:
        outcome = await embed(embedder, [f"{number}{i:05d}" + "x" * 394 for i in range(900)])
        print(outcome.report.stored, outcome.report.failed)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_p15_two_processes_on_one_key_share_its_limit() -> None:
    async with serving(limits=RateLimits.of("bucket", None, 1_200_000)) as server:
        both = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", ONE_OF_TWO, server.url, number, cwd=ROOT, stdout=asyncio.subprocess.PIPE
            )
            for number in "12"
        ]
        outputs = [(await process.communicate())[0] for process in both]
        assert outputs == [b"900 0\n", b"900 0\n"]
        assert server.ledger.texts_again == 0
        assert server.ledger.rate_limited <= 0.5 * server.ledger.requests


def test_p25_a_reply_that_says_nothing_of_its_cost_is_counted_as_the_provider_estimates() -> None:

    service = Service(script=Always(Mutate(wrong("usage missing"))))
    outcome = virtually(service, numbers(500), concurrency=1)
    assert (outcome.error, outcome.report.stored, outcome.report.billed_tokens) == (None, 500, 500)


def test_p25_a_huge_count_stops_a_job_with_a_budget_and_no_other() -> None:

    huge = Always(Mutate(wrong("usage huge")))
    free = virtually(Service(script=huge), numbers(100), concurrency=1, max_batch_size=10)
    assert (free.error, free.report.stored) == (None, 100)
    service = Service(script=huge)
    bound = virtually(service, numbers(100), concurrency=1, max_batch_size=10, budget=Budget(max_billed_tokens=1_000))
    assert isinstance(bound.error, BudgetExceededError)
    assert service.ledger.requests == 1


def test_p25_a_count_of_nothing_buys_nothing_more_than_the_budget() -> None:
    service = Service(script=Always(Mutate(wrong("usage none"))))
    outcome = virtually(service, numbers(100), concurrency=1, max_batch_size=10, budget=Budget(max_billed_tokens=25))
    assert isinstance(outcome.error, BudgetExceededError)
    assert 0 < service.ledger.billed_tokens <= 25


def test_a_query_gives_up_in_time_while_the_provider_is_away() -> None:
    async def run() -> None:
        async with embedder_of(Service(script=Always(Status(503)))) as embedder:
            started = asyncio.get_running_loop().time()
            with pytest.raises(UnavailableError, match=r"no vector (in time|within 3 s)") as raised:
                await embedder.embed_query("a question", timeout=3.0)
            now = asyncio.get_running_loop().time()
            assert 0 < now - started <= 3
            assert raised.value.retry_after
            assert now + raised.value.retry_after > started + 3

    run_virtual(run)
