"""A 429 that no short wait clears (row A5): it is told from one that does, in every form that services give it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aembed import (
    BadRequestError,
    ConfigError,
    Embedder,
    FakeProvider,
    Hints,
    Limits,
    QuotaExceededError,
    RateLimitError,
    Record,
    Report,
    RetryPolicy,
)
from aembed.providers._errors import error_for
from aembed.providers._http import HTTPReply
from aembed.stores.memory import MemoryStore
from tests.hostile.jobs import From, at, embed, numbers, serving, virtually
from tests.providers.test_errors import openai_error, refused
from tests.service.faults import Always, Fault, Request, Status
from tests.service.in_process import embedder_of
from tests.service.refusals import error
from tests.service.service import Rules, Service
from tests.stage.clock import run_virtual


def google(*quotas: str, delay: str | None = "12s", message: str = "You exceeded your current quota.") -> Any:
    details: list[Any] = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": name} for name in quotas]}
    ]
    if delay:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    return {"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details}}


def per(window: str, most: str, got: str, *, then: str = "") -> Any:
    message = f"Rate limit reached for m in organization org-x on {window}: Limit {most}, {got}.{then}"
    return openai_error(message, "tokens", "rate_limit_exceeded")


MISTRAL = {"message": "Rate limit exceeded", "type": "rate_limited", "code": "1300"}
NOTHING = "does not include this model"
LASTING: Mapping[str, tuple[Mapping[str, str], Any, str]] = {
    "a limit of 0 requests": ({"x-ratelimit-limit-req-minute": "0"}, MISTRAL, f"{NOTHING} .*-req-minute: 0"),
    "of 0 tokens": ({"x-ratelimit-limit-tokens-minute": "0", "retry-after": "1"}, MISTRAL, NOTHING),
    "of 0 a month": ({"x-ratelimit-limit-tokens-month": "0"}, MISTRAL, NOTHING),
    "of 0 without a window and a hint": ({"x-ratelimit-limit-requests": "0"}, MISTRAL, NOTHING),
    "of 0 in words": ({}, per("requests per min (RPM)", "0", "Used 0, Requested 1"), NOTHING),
    "of 0 in Google's words": ({}, google("RequestsPerMinute", message="Quota exceeded, limit: 0, model: m"), NOTHING),
    "Google's day": ({}, google("EmbedContentRequestsPerDayPerProject-FreeTier"), "of the day .* midnight Pacific"),
    "Google's day in a list": ({}, [google("EmbedContentRequestsPerDay")], "limit of the day is used up"),
    "Google's day and minute": ({}, google("TokensPerMinute", "RequestsPerDay"), "limit of the day is used up"),
    "a day in a header": (
        {
            "x-ratelimit-limit-tokens-day": "1000000",
            "x-ratelimit-remaining-tokens-day": "0",
            "x-ratelimit-reset-tokens-day": "25920",
        },
        MISTRAL,
        "limit of the day is used up, resets in 7 h 12 min",
    ),
    "requests of a day": (
        {"x-ratelimit-limit-requests-day": "900", "x-ratelimit-remaining-requests-day": "0"},
        MISTRAL,
        "limit of the day",
    ),
    "a day in words": (
        {},
        per("requests per day (RPD)", "200", "Used 200, Requested 1", then=" Please try again in 7m12s."),
        "limit of the day is used up, resets in 7 min",
    ),
    "a month in words": ({}, {"message": "This Trial key is limited to 1000 API calls / month."}, "of the month"),
    "a daily limit": ({"retry-after": "40000"}, {"detail": "daily limit reached"}, "resets in 11 h 7 min"),
}


@pytest.mark.parametrize("name", LASTING)
def test_a5_what_no_short_wait_clears_is_a_quota_and_says_why(name: str) -> None:
    headers, body, words = LASTING[name]
    found = refused(429, body, dict(headers))
    assert type(found) is QuotaExceededError
    assert re.search(words, str(found)), str(found)


@pytest.mark.parametrize(("left", "kind"), [(499, QuotaExceededError), (500, RateLimitError)])
def test_a5_what_is_left_of_a_month_is_too_little_where_the_request_needs_more(left: int, kind: type) -> None:
    headers = {"x-ratelimit-limit-tokens-month": "1000000", "x-ratelimit-remaining-tokens-month": str(left)}
    assert type(error_for(HTTPReply(429, headers, b"{}"), inputs=3, tokens=500.0)) is kind


CLEARING: Mapping[str, tuple[Mapping[str, str], Any, float | None]] = {
    "Azure keeps no count": ({"x-ratelimit-limit-requests": "0", "retry-after": "3"}, MISTRAL, 3.0),
    "Azure says it in words": (
        {"x-ratelimit-limit-tokens": "0"},
        openai_error("exceeded call rate limit. Please retry after 3 seconds.", None, "429"),
        3.0,
    ),
    "Google's minute": ({}, google("EmbedContentTokensPerMinutePerProject"), 12.0),
    "Google's minute in words, too": ({}, google("TokensPerMinute", message="Please retry in 11.5s."), 11.5),
    "milliseconds of AWS": ({"x-amz-retry-after": "1500"}, {"message": "Too many requests"}, 1.5),
    "a field of the body": ({}, {"error": {"message": "slow down", "retry_after": 7}}, 7.0),
    "the minute": ({}, per("tokens per min (TPM)", "1000000", "Used 974150, Requested 34558"), None),
    "a minute of a plan with days": ({}, {"message": "10 requests per minute and 1000 per day are included"}, None),
    "a day with enough left": (
        {"x-ratelimit-limit-tokens-day": "1000000", "x-ratelimit-remaining-tokens-day": "500000"},
        MISTRAL,
        None,
    ),
    "nothing remaining": ({}, {"message": "Rate limit: 0 requests remaining"}, None),
}


@pytest.mark.parametrize("name", CLEARING)
def test_a5_what_a_wait_clears_is_a_rate_limit_with_its_hint(name: str) -> None:
    headers, body, seconds = CLEARING[name]
    found = refused(429, body, dict(headers))
    assert type(found) is RateLimitError
    assert found.hints is not None
    assert found.hints.retry_after == seconds


def test_a5_a_day_that_is_used_up_is_in_the_hints() -> None:
    headers, body, _ = LASTING["a day in a header"]
    hints = refused(429, body, dict(headers)).hints
    assert hints is not None
    assert (hints.spent_window, hints.reset_spent) == ("day", 25_920.0)


@pytest.mark.parametrize("name", ["a limit of 0 requests", "Google's day", "a day in a header"])
async def test_a5_over_a_socket_the_job_stops_at_once_and_the_next_run_goes_on(name: str, tmp_path: Path) -> None:
    headers, body, words = LASTING[name]
    records = [Record(text, text) for text in numbers(200)]
    async with serving(From(4, Status(429, body, list(headers.items())))) as server:
        async with at(server, max_batch_size=10, concurrency=2) as embedder:
            with pytest.raises(QuotaExceededError, match=words) as stopped:
                await embedder.embed_into(tmp_path / "rows.db", records)
            assert server.ledger.refused.total() <= 2
            assert stopped.value.report is not None
            assert stopped.value.report.stored == 40
            server.service.script = None
            again = await embedder.embed_into(tmp_path / "rows.db", records)
        assert (again.stored, again.unchanged, server.ledger.texts_again) == (160, 40, 0)


async def test_a5_queries_hear_it_at_once() -> None:
    async with serving(Always(Status(429, google("RequestsPerDay")))) as server, at(server) as embedder:
        with pytest.raises(QuotaExceededError, match="midnight Pacific"):
            await embedder.embed_query("when does it reset?")
        assert server.ledger.requests == 1


# larger than the limit itself

WORDS: Mapping[str, tuple[int, str]] = {
    "OpenAI": (
        429,
        "Request too large for m in organization org-x on tokens per min (TPM): Limit {most}, Requested {got}. "
        "The input or output tokens must be reduced in order to run successfully.",
    ),
    "Groq": (413, "Request too large for model `m` on tokens per minute (TPM): Limit {most}, Requested {got}, please"),
    "some is used": (429, "Rate limit reached on tokens per min: Limit: {most}, Used: 10, Requested: {got}."),
    "OpenAI's sum": (400, "Requested {got} tokens, max {most} tokens per request"),
    "the other way round": (400, "Requested {got} tokens, limit {most}"),
    "with commas": (429, "Request too large: Limit {most:,}, Requested {got:,}"),
    "Voyage": (400, "The max allowed tokens per submitted batch is {most}. Your batch has {got} tokens after"),
    "GitHub": (413, "Request body too large for m model. Max size: {most} tokens."),
    "a context": (400, "This model's maximum context length is {most} tokens, however you requested {got} tokens"),
    "vLLM": (400, "This model's maximum context length is {most} tokens. However, you requested {got} tokens in the"),
    "Google": (400, "The input token count ({got}) exceeds the maximum number of tokens allowed ({most})."),
    "Vertex": (400, "the input token count is {got} but the model supports up to {most}. Reduce the input"),
    "Cohere": (
        400,
        "too many tokens: size limit exceeded by {over} tokens. The limit for m is {most} tokens.",
    ),
    "no numbers": (429, "Request too large for m. The input must be reduced."),
}


class TooLarge:
    """A request of more than 1,000 tokens is refused in those words."""

    def __init__(self, name: str, most: int = 1_000, scale: float = 1.0) -> None:
        self.code, self.words = WORDS[name]
        self.most, self.scale = most, scale

    def __call__(self, request: Request) -> Fault | None:
        got = int(request.tokens * self.scale)
        if got <= self.most:
            return None
        message = self.words.format(most=self.most, got=got, over=got - self.most)
        return Status(self.code, error(message, "tokens", code="rate_limit_exceeded"))


@pytest.mark.parametrize("name", WORDS)
async def test_a5_a_request_that_is_larger_than_the_limit_is_divided_and_not_waited_for(name: str) -> None:
    texts = [f"{number:04}" + 396 * "x" for number in range(300)]
    async with serving(TooLarge(name)) as server, at(server, concurrency=2) as embedder:
        outcome = await embed(embedder, texts)
        assert outcome.error is None
        assert outcome.report.stored == 300
        assert server.ledger.texts_again == 0
        learned = name != "no numbers"
        assert server.ledger.refused.total() <= (2 if learned else 2 * 15)
        most = embedder._engine.dispatcher.cap.tokens
        assert most <= 1_000
        if learned:
            assert most > 980
            assert server.ledger.requests <= 30 + 2 + 2 + 3


@pytest.mark.parametrize("name", ["OpenAI", "Groq", "OpenAI's sum", "vLLM", "no numbers"])
def test_a5_a_text_that_alone_is_larger_than_the_limit_fails_with_that_reason(name: str) -> None:
    """Also where five such come first of all: they are no sign that everything is refused."""
    texts = [f"{number:04}" + 396 * "x" for number in range(60)]
    large = [0, 1, 2, 30, 59]
    for index in large:
        texts[index] += 4_800 * "y"
    outcome = virtually(Service(script=TooLarge(name)), texts, concurrency=2)
    if name == "no numbers":
        assert outcome.report.failed <= len(large)
        return
    assert outcome.error is None
    assert outcome.failed == large
    assert outcome.reasons == {"BadRequestError"}
    assert "1300" in str(outcome.embeddings.failures[0].error)


def test_a5_a_text_that_is_too_large_for_the_plan_is_sent_again_by_the_next_run() -> None:
    """A larger plan takes it: nothing is wrong with the text."""
    records = [Record("large", 8_000 * "y"), Record("small", "small")]
    service, store = Service(script=TooLarge("OpenAI")), MemoryStore()

    async def twice() -> None:
        async with embedder_of(service) as embedder:
            first = await embedder.embed_into(store, records)
            assert (first.stored, first.failed) == (1, 1)
            service.script = None
            second = await embedder.embed_into(store, records)
            assert (second.stored, second.unchanged, second.failed) == (1, 1, 0)

    run_virtual(twice)


def test_a5_a_long_text_among_few_is_not_taken_for_a_smaller_limit_of_all() -> None:
    """The words do not say that it is one text: nothing is learned from them that would hold for all."""

    def script(request: Request) -> Fault | None:
        longest = max(len(text) for text in request.texts)
        return TooLarge("vLLM", most=4_000)(request) if longest > 16_000 else None

    texts = [20_000 * "x", *numbers(3)]
    service = Service(script=script, rules=Rules(max_tokens_per_input=100_000))

    async def run() -> None:
        async with embedder_of(service) as embedder:
            outcome = await embed(embedder, texts)
            assert outcome.failed == [0]
            assert embedder._engine.dispatcher.cap.tokens > 290_000

    run_virtual(run)


def test_a5_the_error_names_the_limit_and_what_was_counted() -> None:
    code, words = WORDS["OpenAI"]
    found = refused(code, openai_error(words.format(most=1_000, got=5_000), "tokens", "rate_limit_exceeded"))
    assert isinstance(found, BadRequestError)
    assert (found.max_tokens_per_batch, found.requested_tokens) == (1_000, 5_000)


def test_a5_a_limit_of_requests_is_none_of_tokens() -> None:
    found = refused(429, per("requests per min (RPM)", "3", "Used 3, Requested 5"))
    assert type(found) is RateLimitError


def test_a5_a_provider_of_ones_own_may_say_that_a_day_is_used_up() -> None:
    async def job() -> None:
        hints = Hints(spent_window="day", reset_spent=7_200.0)
        provider = FakeProvider(script=lambda number, texts: RateLimitError("429: enough for today", hints=hints))
        async with Embedder(provider) as embedder:
            with pytest.raises(QuotaExceededError, match="enough for today") as stopped:
                await embedder.embed_documents(numbers(10))
        assert stopped.value.hints == hints
        assert provider.ledger.requests == 1

    run_virtual(job)


# a limit of a day that the provider's row names


def limited(**limits: Any) -> FakeProvider:
    return FakeProvider(limits=Limits(10, 100_000, 8_191, **limits))


def at_the_hour(embedder: Embedder, hour: int, day: int = 28) -> None:
    embedder._engine.budgets.clock = lambda: datetime(2026, 11, day, hour, tzinfo=UTC)


async def test_a5_a_limit_of_the_day_is_counted_in_the_store_and_the_next_day_goes_on(tmp_path: Path) -> None:
    """100 texts are ten requests, of which a day allows four: over two runs, each by a process of its own."""
    records = [Record(text, text) for text in numbers(100)]
    stored, messages = [], []
    for day, hour, count in ((28, 9, 20), (28, 10, 100), (28, 23, 100), (29, 0, 100)):
        provider = limited(requests_per_day=4)
        async with Embedder(provider) as embedder:
            at_the_hour(embedder, hour, day)
            try:
                report = await embedder.embed_into(tmp_path / "rows.db", records[:count])
            except QuotaExceededError as error:
                messages.append(f"{error.hints} {error}")
                report = error.report or Report()
        stored.append((provider.ledger.requests, report.stored + report.unchanged))
    assert stored == [(2, 20), (2, 40), (0, 40), (4, 80)]
    assert re.search(r"'day', reset_spent=3600.0.* 4 requests a day .* resets at 2026-11-29 00:00 UTC", messages[1])


async def test_a5_what_is_left_of_a_days_tokens_is_filled_and_not_passed(tmp_path: Path) -> None:
    """Texts of 5 tokens, of which a day allows 333: the last request has what is left of them."""
    records = [Record(text, text) for text in (f"{number:020d}" for number in range(100))]
    provider = limited(tokens_per_day=333)
    async with Embedder(provider) as embedder:
        with pytest.raises(QuotaExceededError, match="333 tokens a day") as stopped:
            await embedder.embed_into(tmp_path / "rows.db", records)
    assert stopped.value.report is not None
    assert 300 < stopped.value.report.billed_tokens <= 333


async def test_a5_a_day_ends_at_midnight_of_its_own_time_zone() -> None:
    """07:00 UTC is still the day before in California, where the service counts; 08:00 is not."""
    async with Embedder(limited(requests_per_day=1, day_zone="America/Los_Angeles")) as embedder:
        at_the_hour(embedder, 6)
        await embedder.embed_documents(numbers(10))
        at_the_hour(embedder, 7)
        with pytest.raises(QuotaExceededError, match="resets at 2026-11-28 00:00 PST") as stopped:
            await embedder.embed_documents(numbers(10))
        assert stopped.value.hints == Hints(spent_window="day", reset_spent=3_600.0)
        at_the_hour(embedder, 8)
        await embedder.embed_documents(numbers(10))


async def test_a5_a_refused_request_takes_nothing_from_the_day_that_is_counted() -> None:
    def refuse_the_first(number: int, texts: Any) -> Exception | None:
        return RateLimitError("429: busy") if number == 1 else None

    provider = FakeProvider(script=refuse_the_first, limits=Limits(10, 100_000, 8_191, requests_per_day=3))
    async with Embedder(provider, retry=RetryPolicy(backoff_base=0.01)) as embedder:
        embeddings = await embedder.embed_documents(numbers(30))
    assert not embeddings.failures
    assert provider.ledger.requests == 4


async def test_a5_a_time_zone_that_is_not_known_is_told_before_anything_is_sent() -> None:
    provider = limited(requests_per_day=1, day_zone="Mars/Olympus")
    async with Embedder(provider) as embedder:
        with pytest.raises(ConfigError, match="Mars/Olympus"):
            await embedder.embed_documents(numbers(10))
    assert provider.ledger.requests == 0
