"""Whose fault is it? Rows A1 to A4: by the ledger, no text fails for its server, and nothing is bought without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from aembed import (
    AembedError,
    BadRequestError,
    Embedder,
    FakeProvider,
    InvalidReplyError,
    NotFoundError,
    OutageError,
    PermissionDeniedError,
    QuotaExceededError,
    Record,
    Report,
    UnavailableError,
)
from aembed.stores.memory import MemoryStore
from tests.hostile.jobs import At
from tests.service.faults import Always, Cut, Fault, Hang, Late, Mutate, Outage, Request, Script, Status, Truncate
from tests.service.in_process import embedder_of
from tests.service.refusals import Deadly, InMidJob, OneAtATime, TooHeavy, error
from tests.service.server import Latency
from tests.service.service import Rules, Service
from tests.service.shapes import OfBase64, all_null, all_zero, average, first_alone, float64, no_rows
from tests.service.vectors import digest
from tests.stage.clock import run_virtual

LATENCY = Latency(0.1)
MOST_BILLED = 16
"""Times that one text is on the bill of one job, whatever happens (docs/operations.md)."""


@dataclass
class End:
    """Of one job: what it said, what it stored and for how long it ran."""

    report: Report | None
    error: AembedError | None
    seconds: float
    service: Service
    store: MemoryStore = field(repr=False)

    @property
    def failed(self) -> list[str]:
        assert self.report
        return sorted(failure.id for failure in self.report.failures)

    @property
    def bought_again(self) -> int:
        """Texts, each as often as it was billed more than once."""
        return self.service.ledger.texts_again

    @property
    def requests(self) -> int:
        return self.service.ledger.requests


def texts_of(count: int, bad: Sequence[int] = ()) -> list[str]:
    marked = set(bad)
    return [f"{'bad' if i in marked else 'text'} {i} {'word ' * (i * 7_919 % 20)}" for i in range(count)]


def is_bad(text: str) -> bool:
    return text.startswith("bad")


def job(
    script: Script | None,
    texts: Sequence[str],
    *,
    store: MemoryStore | None = None,
    rules: Rules | None = None,
    **options: Any,
) -> End:
    service, kept = Service(rules or Rules(), script=script), store or MemoryStore()

    async def run() -> End:
        loop = asyncio.get_running_loop()
        async with embedder_of(service, LATENCY, **options) as embedder:
            started, report, stopping = loop.time(), None, None
            try:
                report = await embedder.embed_into(kept, [Record(" ".join(text.split()[:2]), text) for text in texts])
            except AembedError as caught:
                stopping, report = caught, caught.report
            return End(report, stopping, loop.time() - started, service, kept)

    return run_virtual(run)


# A1: one text that its server dies of

FAULTS: dict[str, Fault] = {
    "500": Status(500, error("the runner has stopped unexpectedly")),
    "503": Status(503),
    "a connection that breaks": Cut(),
    "no answer": Hang(),
    "504": Status(504, billed=True),
}


@pytest.mark.parametrize("concurrency", [1, 8, 32])
@pytest.mark.parametrize("count", [1, 2, 20])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a1_exactly_the_texts_fail_that_the_server_dies_of(fault: Fault, count: int, concurrency: int) -> None:
    bad = Random(count).sample(range(200), count)
    healthy = job(None, texts_of(200, bad), concurrency=concurrency)
    end = job(Deadly(is_bad, fault), texts_of(200, bad), concurrency=concurrency, timeout=3.0)
    assert end.report
    assert (end.report.stored, end.failed) == (200 - count, sorted(f"bad {i}" for i in bad))
    assert all(isinstance(failure.error, UnavailableError) for failure in end.report.failures)
    assert end.requests - healthy.requests <= 40 * count
    assert max(end.service.ledger.times_billed.values()) <= MOST_BILLED
    if not isinstance(fault, Hang):
        assert end.seconds - healthy.seconds <= 5.0 * count


@pytest.mark.parametrize("concurrency", [1, 8, 32])
def test_a1_in_a_large_job_a_text_takes_30_further_requests_at_most(concurrency: int) -> None:
    bad = [17, 5_000, 9_999, 15_000, 19_999]
    healthy = job(None, texts_of(20_000), concurrency=concurrency)
    end = job(Deadly(is_bad, Status(500)), texts_of(20_000, bad), concurrency=concurrency)
    assert end.failed == sorted(f"bad {i}" for i in bad)
    assert end.requests - healthy.requests <= 30 * len(bad)
    assert end.bought_again <= 5 * len(bad)


def test_a1_a_text_that_failed_is_tried_again_by_the_next_run() -> None:
    store, texts = MemoryStore(), texts_of(50, [7])
    job(Deadly(is_bad, Status(500)), texts, store=store)
    again = job(None, texts, store=store)
    assert again.report
    assert (again.report.unchanged, again.report.stored, again.requests) == (49, 1, 1)


def test_a1_where_nothing_is_accepted_no_text_is_to_blame() -> None:
    end = job(Always(Status(500)), texts_of(200), concurrency=8)
    assert end.report
    assert isinstance(end.error, OutageError)
    assert (end.report.failed, end.report.pending) == (0, 200)


def test_a1_an_outage_blames_no_text() -> None:
    for fault in (Status(500), Cut(), Hang()):
        end = job(Outage(0.05, 60.0, fault), texts_of(20_000), concurrency=8, timeout=3.0)
        assert end.report
        assert (end.report.stored, end.report.failed) == (20_000, 0)


@pytest.mark.parametrize("fault", [Status(500), Cut()], ids=["500", "a connection that breaks"])
def test_a1_of_many_queries_at_once_those_fail_that_the_server_dies_of(fault: Fault) -> None:
    texts = texts_of(40, [3, 31])

    async def run() -> list[Any]:
        async with embedder_of(Service(script=Deadly(is_bad, fault)), LATENCY) as embedder:
            return await asyncio.gather(*map(embedder.embed_query, texts), return_exceptions=True)

    answers = run_virtual(run)
    failed = [text for text, answer in zip(texts, answers, strict=True) if isinstance(answer, BaseException)]
    assert failed == [text for text in texts if is_bad(text)]
    assert all(isinstance(answer, UnavailableError) for answer in answers if isinstance(answer, BaseException))


PAGE = Status(403, b"<html><title>Attention Required!</title><h1>Sorry, you have been blocked</h1></html>")
CONTENT: dict[str, Fault] = {
    "a firewall's page": PAGE,
    "a 403 of a filter": Status(403, error("The response was filtered due to the content management policy.")),
    "a 403 of moderation": Status(403, error("Your input was flagged by moderation")),
    "a 451": Status(451, {"message": "Unavailable for legal reasons"}),
    "a 403 of a firewall in JSON": Status(403, {"message": "Forbidden: request blocked by security policy"}),
}


@pytest.mark.parametrize("concurrency", [1, 8, 32])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("fault", CONTENT.values(), ids=CONTENT)
def test_a1_exactly_the_texts_fail_that_are_blocked_for_what_they_hold(
    fault: Fault, count: int, concurrency: int
) -> None:
    bad = Random(count).sample(range(200), count)
    healthy = job(None, texts_of(200, bad), concurrency=concurrency)
    end = job(Deadly(is_bad, fault), texts_of(200, bad), concurrency=concurrency)
    assert end.report
    assert (end.report.stored, end.failed) == (200 - count, sorted(f"bad {i}" for i in bad))
    assert end.requests - healthy.requests <= 40 * count
    assert end.bought_again <= 10 * count


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("status", [404, 501])
def test_a1_a_web_page_blames_a_text_where_others_are_accepted_and_else_the_address(
    status: int, concurrency: int
) -> None:
    page = Status(status, b"<html><h1>Rejected</h1></html>")
    end = job(Deadly(is_bad, page), texts_of(200, [50, 150]), concurrency=concurrency, max_batch_size=20)
    assert end.report
    assert (end.report.stored, end.failed) == (198, ["bad 150", "bad 50"])
    assert "others are accepted" in str(end.report.failures[0].error)
    end = job(Always(page), texts_of(200), concurrency=concurrency, max_batch_size=20)
    assert isinstance(end.error, NotFoundError)
    assert end.requests <= concurrency


@pytest.mark.parametrize("concurrency", [1, 8, 32])
def test_a1_a_firewall_that_blocks_everything_stops_the_job(concurrency: int) -> None:
    for script in (Always(PAGE), InMidJob(PAGE, after=5)):
        end = job(script, texts_of(2_000), concurrency=concurrency, max_batch_size=20)
        assert isinstance(end.error, PermissionDeniedError)
        assert end.report
        assert (end.report.failed, end.service.ledger.texts_again) == (0, 0)
        assert end.service.ledger.refused.total() <= concurrency + 3


# A2: an account or a server that refuses everything, in mid-job

REFUSALS: dict[str, tuple[Fault, type[AembedError]]] = {
    "no money": (Status(400, error("Budget has been exceeded!", "budget_exceeded")), QuotaExceededError),
    "words that nobody knows": (Status(400, error("The flux is out of order.")), BadRequestError),
    "another status": (Status(422, {"detail": "not now"}), BadRequestError),
    "replies without vectors": (Status(200, {"object": "list", "data": None}), InvalidReplyError),
}
SMALL = Rules(max_inputs=20)


@pytest.mark.parametrize("concurrency", [1, 8, 32])
@pytest.mark.parametrize(("fault", "kind"), REFUSALS.values(), ids=REFUSALS)
def test_a2_what_refuses_every_text_in_mid_job_stops_it_and_condemns_none(
    fault: Fault, kind: type[AembedError], concurrency: int
) -> None:
    account = InMidJob(fault, after=100)
    store, texts = MemoryStore(), texts_of(4_000)
    end = job(account, texts, store=store, rules=SMALL, concurrency=concurrency)
    assert isinstance(end.error, kind)
    assert end.report
    assert (end.report.failed, end.report.refused_earlier) == (0, 0)
    assert account.sent_after <= 10
    again = job(None, texts, store=store, rules=SMALL, concurrency=concurrency)
    assert again.report
    assert again.report.unchanged == end.report.stored > 0
    assert again.report.stored == 4_000 - again.report.unchanged
    assert again.bought_again == 0


@pytest.mark.parametrize("concurrency", [1, 8, 32])
@pytest.mark.parametrize("words", ["dial tcp 10.1.2.3:443: connect: connection refused", "The flux is out of order."])
def test_a2_what_clears_while_the_job_waits_costs_no_text(words: str, concurrency: int) -> None:
    account = InMidJob(Status(400, error(words)), after=100, seconds=1.5)
    end = job(account, texts_of(4_000), rules=SMALL, concurrency=concurrency)
    assert end.report
    assert (end.report.stored, end.report.failed, end.error) == (4_000, 0, None)
    assert account.sent_after <= 10
    assert end.bought_again <= 1


def test_a2_bad_texts_are_refused_one_by_one_where_the_account_is_well() -> None:
    bad = [*range(0, 400, 40), *range(1_000, 1_006)]
    refusal = Status(400, error("The input could not be processed."))
    end = job(Deadly(is_bad, refusal), texts_of(2_000, bad), concurrency=4)
    assert end.failed == sorted(f"bad {i}" for i in bad)


def test_a1_a_text_that_failed_is_not_sent_again_for_an_equal_one_of_the_same_job() -> None:
    service = Service(Rules(), script=Deadly(is_bad, Status(504, billed=True)))

    async def slowly() -> AsyncIterator[Record]:
        for number in range(3):
            yield Record(f"bad {number}", "bad text")
            yield Record(f"good {number}", f"good {number}")
            await asyncio.sleep(60)

    async def run() -> Report:
        async with embedder_of(service, LATENCY, concurrency=2) as embedder:
            return await embedder.embed_into(MemoryStore(), slowly())

    report = run_virtual(run)
    assert (report.stored, report.failed) == (3, 3)
    assert 0 < service.ledger.times_billed[digest(b"bad text")] <= MOST_BILLED / 2


# A3: a server whose replies can be used for one text at a time


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("change", [all_zero, first_alone, average])
def test_a3_a_server_that_can_be_used_for_one_text_at_a_time_is_learned_once(
    change: Callable[[dict[str, Any]], Any], concurrency: int
) -> None:
    end = job(OneAtATime(change), texts_of(3_000), concurrency=concurrency)
    assert end.report
    assert (end.report.stored, end.report.failed) == (3_000, 0)
    in_flight = min(2_048 * concurrency, 3_000)
    assert end.bought_again <= in_flight + 0.05 * 3_000


# A4: a batch that is too heavy for its server

SIXTY_FOUR = error("batch size 88 > maximum allowed batch size 64")
HEAVY: dict[str, Script] = {
    "500 above 16 inputs": TooHeavy(Status(500, error("llama_decode returned -1")), max_inputs=16),
    "504 above 100 kB": TooHeavy(Status(504, billed=True), max_bytes=100_000),
    "no answer above 300 inputs": TooHeavy(Hang(billed=True), max_inputs=300),
    "a connection that breaks above 1,000 inputs": TooHeavy(Cut(), max_inputs=1_000),
    "429 above 100 inputs": TooHeavy(Status(429, error("slow down")), max_inputs=100),
    "429 above 100 inputs, to wait a second": TooHeavy(
        Status(429, error("slow down"), headers=[("retry-after", "1")]), max_inputs=100
    ),
    "half of a reply above 500 inputs": TooHeavy(Truncate(), max_inputs=500),
    "500 that names 64 inputs": TooHeavy(
        Status(500, error("batch size 88 > maximum allowed batch size 64")), max_inputs=64
    ),
}


@pytest.mark.parametrize("concurrency", [1, 8, 32])
@pytest.mark.parametrize("script", HEAVY.values(), ids=HEAVY)
def test_a4_the_size_that_a_server_bears_is_learned(script: Script, concurrency: int) -> None:
    end = job(script, texts_of(20_000), concurrency=concurrency, timeout=10.0)
    assert end.report
    assert (end.report.stored, end.report.failed) == (20_000, 0)
    assert end.bought_again <= min(2_048 * concurrency, 20_000) + 0.25 * 20_000
    assert max(end.service.ledger.times_billed.values()) <= MOST_BILLED


def test_a4_a_429_for_the_size_costs_one_minute_and_no_more() -> None:
    """A rate limit of a minute has room by then; what is refused all the same is too large."""
    script = TooHeavy(Status(429, error("slow down")), max_inputs=100)
    end = job(script, texts_of(20_000), concurrency=8)
    assert end.report
    assert end.report.stored == 20_000
    assert end.seconds <= 180
    assert end.bought_again == 0


# A9: what is wrong with the answers of a whole server, or of one that it stands for


def _other_width(reply: dict[str, Any]) -> dict[str, Any]:
    return reply | {"data": [item | {"embedding": item["embedding"][:32]} for item in reply["data"]]}


ROUTERS: dict[str, Fault] = {
    "an error in a 200": Status(200, error("No successful provider responses.", code="404")),
    "other words in a 200": Status(200, error("The route is being moved.", code="404")),
    "a gateway's words in a 400": Status(400, error("dial tcp 10.0.0.7:80: connect: connection refused")),
}


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("fault", ROUTERS.values(), ids=ROUTERS)
def test_a9_a_routers_answer_that_passes_stops_no_job(fault: Fault, concurrency: int) -> None:
    router = InMidJob(fault, after=100, seconds=0.01)
    end = job(router, texts_of(4_000), rules=SMALL, concurrency=concurrency)
    assert end.report
    assert (end.error, end.report.stored, end.report.failed) == (None, 4_000, 0)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a3_a_broken_reply_that_all_got_counts_for_no_text(concurrency: int) -> None:
    """For a moment no reply has vectors; after that the next reply to each of its texts ends early, once."""
    accepted, had, cut = set[str](), set[str](), set[str]()

    def script(request: Request) -> Fault | None:
        if 0.05 <= request.at < 1.5:
            had.update(set(request.texts) - accepted)  # What was accepted is sent as a control.
            return Status(200, {"object": "list", "data": None})
        if again := had.intersection(request.texts) - cut:
            cut.update(again)
            return Truncate(0.5)
        accepted.update(request.texts)
        return None

    end = job(script, texts_of(100), concurrency=concurrency, max_batch_size=1)
    assert cut
    assert end.report
    assert (end.error, end.report.stored, end.report.failed) == (None, 100, 0)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a9_vectors_that_all_turn_null_condemn_no_text(concurrency: int) -> None:
    server = InMidJob(Mutate(all_null), after=100)
    end = job(server, texts_of(4_000), rules=SMALL, concurrency=concurrency)
    assert end.report
    assert isinstance(end.error, InvalidReplyError)
    assert end.report.failed == 0
    assert server.sent_after <= 10


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("count", [1, 5_000])
def test_a9_a_server_that_ignores_dimensions_is_left_after_its_first_reply(count: int, concurrency: int) -> None:
    end = job(lambda request: Mutate(_other_width), texts_of(count), concurrency=concurrency)
    assert isinstance(end.error, InvalidReplyError)
    assert "instead of 48" in str(end.error)
    assert end.report
    assert end.report.failed == 0
    assert end.requests <= concurrency + 3
    assert end.bought_again <= 3


def test_a9_queries_of_a_server_that_ignores_dimensions_are_not_divided() -> None:
    service = Service(script=lambda request: Mutate(_other_width))

    async def run() -> list[Any]:
        async with embedder_of(service, LATENCY) as embedder:
            return await asyncio.gather(*map(embedder.embed_query, texts_of(40)), return_exceptions=True)

    answers = run_virtual(run)
    assert all(isinstance(answer, InvalidReplyError) and "instead of 48" in str(answer) for answer in answers)
    assert service.ledger.requests <= 4


# A6: base64 that works, and then does not: several servers behind one address


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("every", [2, 3])
@pytest.mark.parametrize("change", [all_null, no_rows, float64])
def test_a6_a_server_whose_replies_hold_base64_only_sometimes_costs_no_text(
    change: Callable[[dict[str, Any]], Any], every: int, concurrency: int
) -> None:
    script = OfBase64(Mutate(change), every)
    end = job(script, texts_of(300), rules=Rules(max_inputs=1), concurrency=concurrency)
    assert end.report
    assert (end.report.stored, end.report.failed) == (300, 0)
    assert end.bought_again <= 0.1 * 300
    assert max(end.service.ledger.times_billed.values()) <= 3


@pytest.mark.parametrize("change", [all_null, no_rows])
def test_a6_what_failed_in_base64_beside_others_has_both_tries_in_numbers(
    change: Callable[[dict[str, Any]], Any],
) -> None:
    """The first of those that fail together shows that numbers are to be asked for; the first numbers are broken."""
    in_base64, in_numbers = set[str](), set[str]()

    def script(request: Request) -> Fault | None:
        text = request.texts[0]
        if request.base64:
            in_base64.add(text)
            return None if len(in_base64) <= 4 else Mutate(change)
        is_first = text not in in_numbers
        in_numbers.add(text)
        return Truncate(0.3) if is_first and text in in_base64 else None

    end = job(script, texts_of(40), max_batch_size=1, concurrency=4)
    assert end.report
    assert (end.report.stored, end.report.failed) == (40, 0)
    assert max(end.service.ledger.times_billed.values()) <= 3


# A8: a text that is too long for its server, and may be cut

LIMIT = "Input of 6000 characters exceeds the maximum of 2048."


@pytest.mark.parametrize("too_long", ["truncate", "split"])
@pytest.mark.parametrize("words", [LIMIT, "This text is too long for the model.", "400"])
def test_a8_a_text_that_its_server_refuses_as_too_long_is_cut_further(words: str, too_long: str) -> None:
    refusal = Deadly(lambda text: len(text) > 2_048, Status(400, error(words)))
    texts = [*texts_of(50), "= " * 3_000, *texts_of(50)]
    end = job(refusal, texts, too_long=too_long)
    assert end.report
    if words == "400":
        assert (end.report.stored, end.report.failed) == (100, 1)
        return
    assert (end.report.stored, end.report.failed) == (101, 0)
    assert end.requests <= 12 + 8


def test_a8_where_nothing_may_be_cut_it_fails() -> None:
    refusal = Deadly(lambda text: len(text) > 2_048, Status(400, error(LIMIT)))
    end = job(refusal, [*texts_of(50), "= " * 3_000])
    assert end.report
    assert (end.report.stored, end.failed) == (50, ["= ="])


def test_a8_what_is_refused_at_every_length_is_cut_a_bounded_number_of_times() -> None:
    refusal = Deadly(lambda text: text.startswith("="), Status(400, error(LIMIT)))
    end = job(refusal, [*texts_of(50), "= " * 3_000], too_long="truncate")
    assert end.report
    assert (end.report.stored, end.failed) == (50, ["= ="])
    assert end.requests <= 24 + 8


async def test_a8_a_query_that_is_refused_as_too_long_is_cut_too() -> None:
    def refuse(number: int, texts: Sequence[str]) -> Exception | None:
        error = BadRequestError("400: too long")
        error.about_length = True
        return error if any(len(text) > 2_000 for text in texts) else None

    async with Embedder(FakeProvider(script=refuse), too_long="truncate") as embedder:
        assert (await embedder.embed_query("= " * 3_000)).shape


# A16: a gateway that waits for its own upstream, and answers late


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("most", [100, 2_048])
def test_a16_what_a_gateway_answers_late_is_not_paid_twice(most: int, concurrency: int) -> None:
    """Every seventh request waits 6 s for a place upstream; the others take 0.1 s."""
    late = Late(6.0)
    end = job(
        lambda request: late if request.number % 7 == 6 else None,
        texts_of(20_000),
        rules=Rules(max_inputs=most),
        concurrency=concurrency,
    )
    assert end.report
    assert (end.report.stored, end.report.failed) == (20_000, 0)
    assert end.bought_again <= 0.02 * 20_000


@pytest.mark.parametrize(("concurrency", "number"), [(1, 6), (1, 30), (1, 150), (8, 6)])
def test_a16_one_connection_that_hangs_holds_no_job_up_for_the_whole_timeout(concurrency: int, number: int) -> None:
    """Of 200 requests one is 0.5 % of the bill, be it the sixth or the last but a few."""
    rules, texts = Rules(max_inputs=20), texts_of(4_000)
    healthy = job(None, texts, rules=rules, concurrency=concurrency)
    end = job(At(number, Hang(billed=True)), texts, rules=rules, concurrency=concurrency)
    assert end.report
    assert (end.report.stored, end.report.failed) == (4_000, 0)
    assert end.seconds - healthy.seconds <= 10.0
    assert end.bought_again <= 20


def test_a16_where_requests_hang_to_the_end_the_next_ones_are_cut_sooner() -> None:
    end = job(lambda request: Hang() if request.number % 20 == 19 else None, texts_of(20_000), rules=SMALL)
    assert end.report
    assert end.report.stored == 20_000
    assert end.seconds <= 60.0 + 120.0
