"""Servers that count tokens otherwise than we do, and a limit that is filled to the last token (row A7)."""

from __future__ import annotations

from functools import cache
from math import ceil

import pytest

from aembed.core.counting import RESERVE, STEP, Counting, fitting_tokens
from aembed.core.packing import Cap
from aembed.providers.openai import OpenAIProvider
from tests.hostile.jobs import REAL, embed, virtually
from tests.sections import sections
from tests.service.faults import Fault, Request
from tests.service.in_process import embedder_of
from tests.service.ledger import tokens_in
from tests.service.refusals import too_many_tokens
from tests.service.service import Counts, Rules, Service, above, each_text
from tests.stage.clock import run_virtual

CONCURRENCY = 8


@cache
def corpus() -> list[str]:
    return sections(19_207)


def least(counts: Counts) -> int:
    sizes = [len(text.encode()) for text in corpus()]
    return Cap(2_048, 300_000).least_batches(len(sizes), counts(sizes))


COUNTS: dict[str, Counts] = {
    "as we do": above(0.0),
    "each text rounded up": each_text,
    "half a percent above": above(0.005),
    "a tenth above": above(0.1),
    "half as much again": above(0.5),
    "a tenth below": above(-0.1),
    "three more for each text": lambda sizes: tokens_in(sum(sizes)) + 3 * len(sizes),
}


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("concurrency", [1, CONCURRENCY, 32])
def test_a7_what_the_first_replies_cost_tells_how_the_server_counts(name: str, concurrency: int) -> None:
    counts = COUNTS[name]
    service = Service(Rules(counts=counts))
    outcome = virtually(service, corpus(), REAL, concurrency=concurrency)
    assert outcome.report.stored == len(corpus())
    assert service.ledger.refused.total() <= 1
    assert service.ledger.requests <= least(counts) + concurrency + 2
    assert service.ledger.texts_again == 0


@pytest.mark.parametrize("name", ["as we do", "each text rounded up", "half a percent above"])
def test_a7_a_reserve_is_left_free_where_replies_do_not_say_what_they_cost(name: str) -> None:
    service = Service(Rules(counts=COUNTS[name], says_usage=False))
    outcome = virtually(service, corpus(), REAL, concurrency=CONCURRENCY)
    assert outcome.report.stored == len(corpus())
    assert service.ledger.refused.total() <= 1
    assert service.ledger.requests <= least(COUNTS[name]) + CONCURRENCY + 2


WORDS = {
    "OpenAI's": "Requested {got} tokens, max {most} tokens per request",
    "short": "Requested {got}, max {most}",
    "a context": "This model's maximum context length is {most} tokens, however you requested {got} tokens",
    "the limit alone": "at most {most} tokens in all; max {most} tokens per request",
}


class Counted:
    """A request of which that many times its tokens are above the limit is refused in those words."""

    def __init__(self, words: str, scale: float, most: int = 300_000) -> None:
        self.words, self.scale, self.most = words, scale, most

    def __call__(self, request: Request) -> Fault | None:
        got = ceil(self.scale * request.tokens)
        if got <= self.most:
            return None
        refused = too_many_tokens(got, self.most)
        assert isinstance(refused.body, dict)
        refused.body["error"]["message"] = self.words.format(got=got, most=self.most)
        return refused


@pytest.mark.parametrize(
    ("words", "scale"),
    [(words, scale) for words in WORDS for scale in (1.012, 1.05, 1.4) if words != "the limit alone" or scale < 1.1],
)
def test_a7_a_refusal_makes_the_next_request_just_enough_smaller(words: str, scale: float) -> None:
    """The replies do not say what they cost, so that full requests of one wave are refused, and none after it."""
    service = Service(Rules(says_usage=False), script=Counted(WORDS[words], scale))

    async def run() -> float:
        async with embedder_of(service, REAL, concurrency=4) as embedder:
            outcome = await embed(embedder, corpus())
            assert outcome.report.stored == len(corpus())
            return embedder._engine.dispatcher.cap.tokens

    cap = run_virtual(run)
    assert 0.95 * 300_000 < cap * scale <= 300_000
    refused = [number for number, event in enumerate(service.ledger.events) if event.label != "accepted"]
    alone = words == "the limit alone"
    assert len(refused) <= 4 * (3 if alone else 1)
    assert service.ledger.requests <= least(above(scale * (STEP if alone else 1.0) - 1)) + 4 + 2 * len(refused)


def test_a7_the_providers_own_address_is_filled_as_it_was() -> None:
    """How it counts has been recorded; what its replies cost is counted otherwise, and is no reason to send less."""
    assert not OpenAIProvider("text-embedding-3-small", api_key="k").limits.estimated
    elsewhere = OpenAIProvider("text-embedding-3-small", api_key="k", base_url="https://gateway.test/v1")
    assert elsewhere.limits.estimated


# the arithmetic


def test_a7_the_reserve_ends_once_replies_have_told_and_as_much_as_one_request_has() -> None:
    counting = Counting()
    for _ in range(3):
        assert counting.estimate_of(24_000) == 24_000 * (1 - RESERVE)
        counting.observe(8_000, 8_000)
    assert counting.estimate_of(24_000) > 23_980
    assert counting.estimate_of(300_000) == 300_000 * (1 - RESERVE)
    counting.observe(280_000, 280_000)
    assert 299_000 < counting.estimate_of(300_000) <= 300_000


@pytest.mark.parametrize("billed", [None, 0, 40_000])
def test_a7_what_cannot_be_meant_tells_nothing(billed: int | None) -> None:
    counting = Counting()
    for _ in range(10):
        counting.observe(8_000, billed)
        counting.observe(20, 30)
    assert counting.estimate_of(300_000) == 300_000 * (1 - RESERVE)


def test_a7_texts_that_cost_more_are_followed_at_once_and_forgotten_slowly() -> None:
    counting = Counting()
    counting.observe(10_000, 14_000)
    assert counting.estimate_of(300_000) < 300_000 / 1.4
    for _ in range(300):
        counting.observe(10_000, 10_000)
    assert counting.estimate_of(300_000) > 299_000


@pytest.mark.parametrize(
    ("estimated", "most", "requested", "fits"),
    [
        (300_000, 300_000, 300_674, 300_000 / (300_674 / 300_000)),
        (300_000, 20_000, 300_000, 20_000),
        (40_000, 20_000, 80_000, 10_000),
        (300_000, 8_192, 9_000, 8_192),
        (299_000, 300_000, None, 299_000 / 1.02),
        (300_000, 64_000, None, 64_000),
        (5_000, 1_000, 5_000_000, 1_000),
    ],
)
def test_a7_what_fits_after_a_refusal(estimated: float, most: int, requested: int | None, fits: float) -> None:
    assert fits * 0.999 < fitting_tokens(estimated, most, requested) <= fits
