from __future__ import annotations

import pytest

from aembed.core.retrying import (
    LOST_ON_THE_WAY,
    WAIT_AND_RETRY,
    FailItems,
    FailJob,
    Resend,
    Split,
    Verdict,
    may_be_billed,
    verdict,
)
from aembed.core.sending import NotSent
from aembed.errors import (
    AembedError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    InputError,
    InvalidReplyError,
    NotFoundError,
    OutageError,
    PermissionDeniedError,
    ProviderError,
    QuotaExceededError,
    RateLimitError,
    SpaceMismatchError,
    StoreError,
    UnavailableError,
)


@pytest.mark.parametrize(
    ("error", "items", "broken_replies", "expected"),
    [
        (InvalidReplyError("x"), 10, 1, Resend()),
        (InvalidReplyError("x"), 1, 1, Resend()),
        (InvalidReplyError("x"), 10, 2, Split()),
        (InvalidReplyError("x"), 2, 2, Split()),
        (InvalidReplyError("x"), 2, 3, Split()),
        (InvalidReplyError("x"), 1, 2, FailItems()),
        (BadRequestError("x"), 2, 0, Split()),
        (BadRequestError("x"), 1, 0, FailItems()),
        (RateLimitError("x"), 2, 0, Split()),
        (RateLimitError("x"), 1, 0, FailJob()),
        (UnavailableError("x"), 10, 0, FailItems()),
        (InputError("x"), 1, 0, FailItems()),
    ],
)
def test_verdict(error: AembedError, items: int, broken_replies: int, expected: Verdict) -> None:
    assert verdict(error, items=items, broken_replies=broken_replies) == expected


def test_a_reply_that_is_too_large_twice_stops_the_job() -> None:
    error = InvalidReplyError("x")
    error.oversized = True
    assert verdict(error, items=10, broken_replies=1) == Resend()
    assert verdict(error, items=10, broken_replies=2) == FailJob()
    assert verdict(error, items=1, broken_replies=2) == FailJob()


def test_the_text_that_the_provider_blames_goes_with_the_verdict() -> None:
    error = BadRequestError("400: input[22]")
    error.offender = 22
    assert verdict(error, items=2, broken_replies=0) == Split(22)


@pytest.mark.parametrize(
    "kind",
    [
        AuthenticationError,
        PermissionDeniedError,
        NotFoundError,
        QuotaExceededError,
        ProviderError,
        OutageError,
        BudgetExceededError,
        StoreError,
        SpaceMismatchError,
    ],
)
def test_what_no_further_request_can_cure_stops_the_job(kind: type[AembedError]) -> None:
    for items in (1, 100):
        assert verdict(kind("x"), items=items, broken_replies=0) == FailJob()


def test_only_what_waiting_clears_is_tried_again() -> None:
    assert set(WAIT_AND_RETRY) == {RateLimitError, UnavailableError}
    assert not issubclass(QuotaExceededError, WAIT_AND_RETRY)


REFUSED = [(BadRequestError, 400), (AuthenticationError, 401), (RateLimitError, 429), (UnavailableError, 500)]


@pytest.mark.parametrize(("kind", "status"), [*REFUSED, (UnavailableError, 503), (NotFoundError, 300)])
def test_what_was_refused_by_its_status_is_not_billed(kind: type[ProviderError], status: int) -> None:
    assert not may_be_billed(kind("x", status_code=status))


@pytest.mark.parametrize("status", sorted(LOST_ON_THE_WAY))
def test_what_a_gateway_lost_may_be_billed(status: int) -> None:
    assert may_be_billed(UnavailableError("x", status_code=status))


def test_a_reply_that_cannot_be_used_may_be_billed() -> None:
    assert may_be_billed(InvalidReplyError("x", status_code=200))
    assert may_be_billed(InvalidReplyError("x", status_code=299))
    assert may_be_billed(InvalidReplyError("x"))


def test_a_connection_that_broke_may_be_billed_and_a_request_that_never_left_is_not() -> None:
    broken = UnavailableError("x")
    assert may_be_billed(broken)
    broken.unsent = True
    assert not may_be_billed(broken)


def test_an_answer_with_no_status_that_says_no_is_not_billed() -> None:
    assert not may_be_billed(AuthenticationError("x"))


@pytest.mark.parametrize("error", [TimeoutError(), KeyboardInterrupt(), OutageError("x")])
def test_what_says_nothing_of_the_provider_may_be_billed(error: BaseException) -> None:
    assert may_be_billed(error)


def test_e5_what_was_cancelled_may_be_billed_unless_nothing_of_it_was_sent() -> None:
    assert may_be_billed(KeyboardInterrupt())
    assert not may_be_billed(NotSent())
