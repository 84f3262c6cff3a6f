from __future__ import annotations

import pytest

from aembed.core.retrying import WAIT_AND_RETRY, Again, FailItems, FailJob, Split, Verdict, verdict
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
        (InvalidReplyError("x"), 10, 1, Again()),
        (InvalidReplyError("x"), 1, 1, Again()),
        (InvalidReplyError("x"), 10, 2, Split()),
        (InvalidReplyError("x"), 1, 2, FailItems()),
        (BadRequestError("x"), 2, 0, Split()),
        (BadRequestError("x"), 1, 0, FailItems()),
        (RateLimitError("x"), 2, 0, Split()),
        (UnavailableError("x"), 10, 0, FailItems()),
        (InputError("x"), 1, 0, FailItems()),
    ],
)
def test_verdict(error: AembedError, items: int, broken_replies: int, expected: Verdict) -> None:
    assert verdict(error, items=items, broken_replies=broken_replies) == expected


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
