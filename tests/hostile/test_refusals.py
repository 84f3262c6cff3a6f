"""400, 413, 422: what is searched, what is learned, what fails (rows P7 to P9)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from aembed import BadRequestError, Failure
from tests.hostile.jobs import embed, numbers, virtually
from tests.service.faults import Fault, Plan, Request, Status, Truncate
from tests.service.in_process import embedder_of
from tests.service.refusals import HiddenInputCap, HiddenTokenCap, Poison, bad_input, too_many_tokens
from tests.service.service import Service
from tests.stage.clock import run_virtual

TEXTS = numbers(2_048)


@pytest.mark.parametrize("position", [0, 1, 777, 1_024, 2_047])
def test_p8_one_bad_text_in_2048_costs_24_further_requests_and_no_neighbour(position: int) -> None:
    service = Service(script=Poison({TEXTS[position]}))
    outcome = virtually(service, TEXTS, concurrency=1)
    assert outcome.error is None
    assert outcome.failed == [position]
    assert outcome.report.stored == 2_047
    # Two texts alone prove the job and, after the last refusal, that good texts are still accepted.
    assert service.ledger.requests <= 1 + 24
    assert service.ledger.billed_tokens <= 2_047 + 1


def test_p8_a_named_offender_needs_no_search_and_keeps_the_providers_reason() -> None:
    service = Service(script=Poison({TEXTS[1_500]}, named=True))
    outcome = virtually(service, TEXTS, concurrency=1)
    assert outcome.failed == [1_500]
    assert service.ledger.requests == 4  # the batch, one text that proves the job, the offender, the others
    (failure,) = outcome.embeddings.failures
    assert isinstance(failure, Failure)
    assert isinstance(failure.error, BadRequestError)
    assert "the input could not be processed" in str(failure.error)
    assert failure.error.status_code == 400
    assert failure.error.request_id


def test_p8_a_server_that_names_the_wrong_text_is_believed_once() -> None:
    def blames_the_first(request: Request) -> Fault | None:
        return bad_input(0) if TEXTS[1_500] in request.texts else None

    service = Service(script=blames_the_first)
    outcome = virtually(service, TEXTS, concurrency=1)
    assert outcome.failed == [1_500]
    assert service.ledger.requests <= 2 + 1 + 24


POISONS: dict[str, Callable[[], list[int]]] = {
    "adjacent": lambda: list(range(700, 720)),
    "at the start": lambda: list(range(20)),
    "at the end": lambda: list(range(4_076, 4_096)),
    "scattered": lambda: sorted(Random(3).sample(range(4_096), 20)),
}


@pytest.mark.parametrize("where", POISONS)
@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
def test_p8_twenty_bad_texts_fail_and_no_other(where: str, named: bool, concurrency: int) -> None:
    texts, bad = numbers(4_096), POISONS[where]()
    service = Service(script=Poison({texts[i] for i in bad}, named))
    outcome = virtually(service, texts, concurrency=concurrency)
    assert outcome.error is None
    assert outcome.failed == bad
    assert outcome.reasons == {"BadRequestError"}
    assert outcome.report.stored == 4_076
    assert service.ledger.requests <= 16 + 20 * (2 if named else 24)
    # A short text that is known to be good is asked for each at most, or for two where others were in flight beside it.
    assert service.ledger.texts_again <= 20 * (1 if named or concurrency == 1 else 2)


@pytest.mark.parametrize("concurrency", [1, 8, 64])
@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
def test_p9_all_bad_stops_after_15_requests_and_those_in_flight(concurrency: int, named: bool) -> None:
    service = Service(script=Poison(lambda text: True, named))
    outcome = virtually(service, numbers(9_000), concurrency=concurrency)
    assert isinstance(outcome.error, BadRequestError)
    assert service.ledger.requests <= 15 + concurrency
    assert outcome.report.stored == 0
    assert outcome.report.failed <= 2
    assert outcome.report.pending >= 2_000


def test_p9_a_job_in_which_even_a_word_is_refused_stops_after_two_requests() -> None:
    service = Service(script=Poison(lambda text: True))
    outcome = virtually(service, numbers(50), concurrency=1, max_batch_size=1)
    assert isinstance(outcome.error, BadRequestError)
    assert service.ledger.requests == 2
    assert outcome.report.failed == 0


def test_p9_after_one_acceptance_bad_texts_are_only_bad_texts() -> None:
    service = Service(script=Poison(lambda text: text != "0000"))
    outcome = virtually(service, numbers(30), concurrency=1, max_batch_size=1)
    assert outcome.error is None
    assert outcome.failed == list(range(1, 30))


def test_p7_a_hidden_smaller_token_cap_is_learned_for_the_rest_of_the_job() -> None:
    texts = [f"{i:05d}" + "x" * 395 for i in range(6_000)]
    service = Service(script=HiddenTokenCap(20_000))
    outcome = virtually(service, texts, concurrency=4)
    assert outcome.error is None
    assert outcome.report.stored == 6_000
    assert service.ledger.refused.total() <= 2 * 4
    assert max(event.tokens for event in service.ledger.events[-20:]) <= 20_000
    assert service.ledger.texts_again == 0


@pytest.mark.parametrize("code", [413, 422])
def test_p7_a_hidden_smaller_input_count_is_learned_for_the_rest_of_the_job(code: int) -> None:
    service = Service(script=HiddenInputCap(32, code))
    outcome = virtually(service, numbers(9_000), concurrency=4)
    assert outcome.error is None
    assert outcome.report.stored == 9_000
    assert service.ledger.refused.total() <= 2 * 4
    assert service.ledger.texts_again == 0


def test_p7_a_limit_that_no_message_explains_is_learned_from_what_fits() -> None:
    def silent(request: Request) -> Fault | None:
        return Status(413, b"") if len(request.texts) > 300 else None

    service = Service(script=silent)
    outcome = virtually(service, numbers(9_000), concurrency=2)
    assert outcome.error is None
    assert outcome.report.stored == 9_000
    assert service.ledger.refused.total() <= 2 * 7
    late = service.ledger.events[-20:]
    assert {event.label for event in late} == {"accepted"}
    assert max(event.inputs for event in late) <= 300


def test_p7_a_named_limit_that_does_not_explain_the_refusal_is_not_the_lesson() -> None:
    """The server counts more tokens than we do: its own number would be refused again and again."""

    def counts_double(request: Request) -> Fault | None:
        return too_many_tokens(2 * request.tokens, 20_000) if 2 * request.tokens > 20_000 else None

    texts = [f"{i:05d}" + "x" * 395 for i in range(3_000)]
    service = Service(script=counts_double)
    outcome = virtually(service, texts, concurrency=2)
    assert outcome.error is None
    assert outcome.report.stored == 3_000
    late = service.ledger.events[len(service.ledger.events) // 2 :]
    assert {event.label for event in late} == {"accepted"}


def test_p7_the_lesson_holds_for_the_next_job_of_the_embedder() -> None:
    service = Service(script=HiddenInputCap(32))

    async def two_jobs() -> None:
        async with embedder_of(service, concurrency=2) as embedder:
            await embed(embedder, numbers(500))
            refused = service.ledger.refused.total()
            await embed(embedder, numbers(500, start=5_000))
            assert service.ledger.refused.total() == refused

    run_virtual(two_jobs)


def test_p8_a_transient_broken_reply_teaches_no_limit() -> None:
    """Only a refusal tells of a limit; a reply that ends early twice may do so for any reason."""
    service = Service(script=Plan(None, None, Truncate(), Truncate()))
    outcome = virtually(service, numbers(9_000), concurrency=1)
    assert outcome.error is None
    assert outcome.report.stored == 9_000
    assert [event.inputs for event in service.ledger.events][4:] == [512, 512, 512, 512, 1_428, 1_428]
