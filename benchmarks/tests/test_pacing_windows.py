"""Limits of windows other than a minute, limits that nothing enforces, and limits that are counted in texts."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed import Embedder, FakeProvider
from aembed.core.pacing import Pacer
from aembed.core.pacing._budget import RateBudget
from aembed.errors import ProviderError, RateLimitError
from aembed.limits import Limits
from aembed.types import Hints
from benchmarks.promises.pacing import KINDS
from tests.core.traffic import accept, refuse, send
from tests.service.windows import WINDOWS, Window, WindowKind
from tests.stage.clock import run_virtual
from tests.stage.simulation import REFUSAL_SECONDS, Client, Service, now

TOGETHER = Hints(limit_tokens=3_000, remaining_tokens=2_910, reset_tokens=2.0, window_tokens=2.0)
"""3,000 tokens in two seconds, of which 90 are spent, whatever is sent."""

# Windows


@pytest.mark.parametrize(
    ("window", "limit", "pace", "largest"),
    [
        (1.0, 60_000, 0.8 / 1.15, 200),
        (2.0, 30_000, 0.8 / 1.075, 200),
        (5.0, 12_000, 0.8 / 1.03, 200),
        (10.0, 6_000, 0.838 / 1.015, 162),
        (60.0, 1_000, 0.97, 27),
        (300.0, 200, 0.97, 5.4),
        (3_600.0, 1_000 / 60, 0.97, 0.45),
    ],
)
def test_a20_a_limit_is_of_its_window_and_the_pace_leaves_room_for_one_batch_and_its_lateness(
    window: float, limit: float, pace: float, largest: float
) -> None:
    """1,000 in that time. A batch is a fifth of a short window, or 2.7 % of what a minute has."""
    budget = RateBudget(None)
    budget.observe(1_000, None, None, 0.0, 0.0, window=window)
    assert budget.limit == pytest.approx(limit)
    assert budget.window == window
    assert budget.rate == pytest.approx(pace * limit / 60)
    assert budget.max_cost == pytest.approx(largest)


@given(
    window=st.sampled_from([2.0, 5.0, 10.0, 60.0]),
    sizes=st.lists(st.floats(0.05, 1.0), min_size=2, max_size=80),
    late=st.randoms(use_true_random=False),
)
def test_a20_no_window_holds_more_than_its_limit(window: float, sizes: list[float], late: Random) -> None:
    """But for what goes out in a tenth of a second, where the first is late and the last has caught up with that."""
    pacer = Pacer()
    pacer.observe(Hints(limit_tokens=1_000_000, window_tokens=window), 0.0)
    most = pacer.max_batch_tokens
    assert most is not None
    now, arrivals = 0.0, []
    for size in sizes:
        now = max(now, pacer.reserve(size * most, now).start) + late.uniform(0.0, 0.1)
        arrivals.append((now + late.uniform(0.0, 0.05), size * most))
    for begin, _ in arrivals:
        held = sum(cost for at, cost in arrivals if begin <= at < begin + window)
        assert held <= 1_000_000 * (1 + 0.08 / window)


def test_a20_what_was_spent_before_the_window_counts_no_more() -> None:
    """1,116 tokens a second may be sent; 2,400 were, before the limit was known."""
    for sent_at, wait in ((9.5, 2.05), (7.0, 0.0)):
        pacer = Pacer()
        first = send(pacer, 2_400, sent_at)
        pacer.note_accepted(first, Hints(limit_tokens=3_000, window_tokens=2.0), 10.0, 1)
        assert pacer.reserve(600, 10.0).start == pytest.approx(10.0 + wait, abs=0.01)


def test_a20_a_window_of_seconds_is_told_as_what_it_is_in_a_minute() -> None:
    pacer = Pacer()
    pacer.observe(Hints(limit_requests=5, window_requests=1.0), 0.0)
    assert pacer.belief() == "300 requests a minute, as the replies say"
    starts = [pacer.reserve(1, 0.0).start for _ in range(9)]
    assert starts[-1] - starts[0] == pytest.approx(8 / (0.8 / 1.15 * 5), abs=0.11)


# Limits that nothing enforces


def observed(budget: RateBudget, remaining: int, cost: float, times: int, seconds: float = 0.1) -> RateBudget:
    for number in range(times):
        budget.observe(3_000, remaining, 2.0, cost, 10.0 + number, window=2.0, seconds=seconds)
    return budget


def test_a20_a_limit_that_the_traffic_contradicts_three_times_is_dropped() -> None:
    """500 tokens were taken, and 90 are missing."""
    assert observed(RateBudget(None), 2_910, 500.0, 2).limit == 90_000
    budget = observed(RateBudget(None), 2_910, 500.0, 3)
    assert (budget.limit, budget.learned, budget.window) == (None, None, 60.0)
    assert budget.due <= 10.0
    assert observed(budget, 2_910, 500.0, 5).limit is None


def test_a20_another_limit_is_believed_after_that() -> None:
    budget = observed(RateBudget(None), 2_910, 500.0, 3)
    budget.observe(3_000, 2_000, 2.0, 500.0, 20.0, window=60.0)
    assert budget.limit == 3_000
    budget = observed(RateBudget(None), 2_910, 500.0, 3)
    budget.observe(4_000, 2_000, 2.0, 500.0, 20.0, window=2.0)
    assert budget.limit == 120_000


def test_a20_a_limit_that_the_user_gave_is_kept() -> None:
    budget = observed(RateBudget(60_000.0), 2_910, 500.0, 9)
    assert (budget.limit, budget.learned) == (60_000.0, None)


@pytest.mark.parametrize(
    ("remaining", "cost", "seconds", "dropped"),
    [
        (2_901, 500.0, 0.1, True),  # less than a fifth of it is missing
        (2_900, 500.0, 0.1, False),
        (2_400, 500.0, 0.1, False),  # all of it is missing
        (2_999, 29.9, 0.1, False),  # less than a hundredth of the limit
        (2_999, 30.0, 0.0, True),
        (3_000, 500.0, 0.17, False),  # 1,500 a second come back: twice that in a sixth of a second
        (3_000, 500.0, 0.16, True),
        (2_910, 500.0, 5.0, True),  # it comes back, but not to the same number each time
        (0, 500.0, 0.1, False),
    ],
)
def test_a20_what_contradicts_a_limit(remaining: int, cost: float, seconds: float, dropped: bool) -> None:
    assert (observed(RateBudget(None), remaining, cost, 4, seconds).limit is None) is dropped


def test_a20_a_reply_that_shows_what_was_spent_begins_the_row_again() -> None:
    budget = observed(RateBudget(None), 2_910, 500.0, 2)
    observed(budget, 2_000, 500.0, 1)
    assert observed(budget, 2_910, 500.0, 2).limit == 90_000
    assert observed(budget, 2_910, 500.0, 1).limit is None


def test_a20_a_limit_that_changed_is_judged_anew() -> None:
    budget = observed(RateBudget(None), 2_910, 500.0, 2)
    budget.observe(6_000, 5_900, 2.0, 700.0, 12.0, window=2.0, seconds=0.1)
    budget.observe(6_000, 5_900, 2.0, 700.0, 13.0, window=2.0, seconds=0.1)
    assert budget.limit == 180_000
    budget.observe(6_000, 5_900, 2.0, 700.0, 14.0, window=2.0, seconds=0.1)
    assert budget.limit is None


def test_a20_what_waits_for_a_limit_that_is_dropped_starts_at_once() -> None:
    pacer = Pacer()
    for number in range(2):
        accept(pacer, 500, float(number), hints=TOGETHER, seconds=0.1)
    under_way = send(pacer, 500, 10.0)
    pacer.reserve(60_000, 10.0)
    waiting = pacer.reserve(500, 10.0)
    assert waiting.start > 50.0
    pacer.note_accepted(under_way, TOGETHER, 10.1, 1)
    assert waiting.start == 10.1
    assert (pacer.limit("tokens"), pacer.belief()) == (None, "")


# Texts


def test_a_limit_of_texts_sets_the_pace_and_the_largest_batch() -> None:
    pacer = Pacer(texts_per_minute=6_000)
    assert pacer.max_batch_texts == 162
    assert Pacer().max_batch_texts is None
    assert Pacer(texts_per_minute=10).max_batch_texts == 1
    starts = [pacer.reserve(10, 5.0, texts=97).start for _ in range(3)]
    assert starts == pytest.approx([5.0, 5.9, 6.9])
    assert pacer.spent_units("texts", 7.0) == 3 * 97
    assert pacer.belief() == "6,000 texts a minute, as it was given"


def test_full_requests_are_sent_full_where_they_are_a_small_part_of_the_limit() -> None:
    """As at Cohere: 96 texts a request, 2,000 a minute; calls are counted, too."""
    pacer = Pacer(texts_per_minute=2_000, texts_per_request=96)
    assert pacer.max_batch_texts == 96
    starts = [pacer.reserve(10, 0.0, texts=96).start for _ in range(80)]
    # No window of a minute sees more than the limit, though each request comes 0.15 s late or early.
    most = max(sum(start <= late < start + 60.15 for late in starts) for start in starts)
    assert 1_800 <= most * 96 <= 2_000
    assert Pacer(texts_per_minute=2_000, texts_per_request=256).max_batch_texts == 54


def test_a_job_at_a_limit_of_texts_sends_as_few_requests_as_it_can() -> None:
    provider = FakeProvider(limits=Limits(96, 300_000, 8_000, texts_per_minute=2_000), latency=0.2)

    async def job() -> None:
        async with Embedder(provider) as embedder:
            assert len((await embedder.embed_documents([f"text {n}" for n in range(960)])).failures) == 0

    run_virtual(job)
    assert [sent.inputs for sent in provider.ledger.log] == [96] * 10


def test_texts_that_join_a_request_as_it_is_sent_are_charged() -> None:
    pacer = Pacer(texts_per_minute=6_000)
    query = pacer.reserve(10, 0.0, texts=1, interactive=True)
    pacer.resize(query, 10, 98, 0.0)
    assert pacer.spent_units("texts", 0.0) == 98
    assert pacer.reserve(10, 0.0, texts=1).start == pytest.approx(0.9, abs=0.03)


def test_texts_of_a_request_that_is_given_back_cost_nothing() -> None:
    pacer = Pacer(texts_per_minute=6_000)
    pacer.give_back(pacer.reserve(10, 0.0, texts=970), 0.0)
    assert pacer.spent_units("texts", 0.0) == 0
    assert pacer.reserve(10, 0.0, texts=1).start == 0.0


def test_headers_of_texts_lower_the_limit_and_close_the_gate_where_nothing_is_left() -> None:
    pacer = Pacer(texts_per_minute=6_000)
    pacer.observe(Hints(limit_texts=3_000), 0.0)
    assert pacer.max_batch_texts == 81
    left = Hints(limit_texts=3_000, remaining_texts=9)
    assert refuse(pacer, 10, 100.0, hints=left, texts=10, in_flight=8).closes
    assert not refuse(pacer, 10, 200.0, hints=left, texts=9, in_flight=8).closes


class TextService(Service):
    """Counts texts, in windows of that kind."""

    def __init__(self, kind: WindowKind, limit: int, *, headers: bool) -> None:
        super().__init__(headers=headers, retry_after=False)
        self.window: Window = WINDOWS[kind](limit)
        self.used = Counter[int]()

    def judge(self, tokens: int, inputs: int, client: str) -> tuple[ProviderError | None, float]:
        minute = int(now() // 60)
        if self.window.wait(inputs, now()):
            self.refused[minute] += 1
            return RateLimitError("429: too many", status_code=429, hints=self._hints(now(), None)), REFUSAL_SECONDS
        self.window.spend(inputs, now())
        self.used[minute] += inputs
        return None, self.seconds(tokens)

    def _hints(self, now: float, wait: float | None) -> Hints:
        if not self.headers:
            return Hints()
        remaining, reset = int(self.window.remaining(now)), self.window.reset(now)
        return Hints(limit_texts=int(self.window.limit), remaining_texts=remaining, reset_texts=reset)


@pytest.mark.parametrize("headers", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a15_a_window_that_is_counted_in_texts_is_used_and_hardly_hit(kind: WindowKind, headers: bool) -> None:
    """3,000 texts a minute, in batches of forty. Without headers the pace is found out."""

    async def minutes() -> tuple[TextService, Client]:
        service = TextService(kind, 3_000, headers=headers)
        client = Client(service, largest=4_000)
        client.start()
        await asyncio.sleep(480.0)
        return service, client

    service, client = run_virtual(minutes)
    refused = sum(service.refused[minute] for minute in range(2, 8))
    used = sum(service.used[minute] for minute in range(2, 8))
    assert client.failed == 0
    assert used >= (0.93 if headers else 0.85) * 6 * 3_000
    assert refused <= (0.01 if headers else 0.04) * sum(client.done.values())
