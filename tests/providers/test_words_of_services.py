"""Refusals in other words, nestings and statuses than those that are known: each is read for what it means (A17).

Services are imitated as they write; gateways that pass on what others said, and pages of firewalls, stand among them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from aembed.errors import (
    BadRequestError,
    QuotaExceededError,
    RateLimitError,
    UnavailableError,
)
from aembed.providers._errors import error_in
from aembed.providers._http import HTTPReply
from tests.providers.test_errors import openai_error, refused
from tests.providers.words_of_services import (
    IN_A_200,
    MONEY,
    MOST_INPUTS,
    OF_A_TEXT,
    OFFENDERS,
    PASSING,
    RESETS,
    SETTINGS,
    TOO_LONG,
    TOO_OFTEN,
    WAITS,
)


@pytest.mark.parametrize("name", MONEY)
def test_a17_no_money_in_any_words(name: str) -> None:
    assert type(refused(*MONEY[name])) is QuotaExceededError


@pytest.mark.parametrize("name", TOO_OFTEN)
def test_a17_a_rate_limit_under_any_status_though_it_speaks_of_plans_and_quotas(name: str) -> None:
    assert type(refused(*TOO_OFTEN[name])) is RateLimitError


@pytest.mark.parametrize("header", ["x-rate-limit-limit", "ratelimit-limit"])
def test_a5_a_limit_of_0_in_any_spelling_of_its_header(header: str) -> None:
    assert type(refused(429, {}, {header: "0"})) is QuotaExceededError


@pytest.mark.parametrize("name", WAITS)
def test_p1_a_wait_in_any_words_and_fields(name: str) -> None:
    body, seconds = WAITS[name]
    hints = refused(429, body).hints
    assert hints is not None
    assert hints.retry_after == seconds


@pytest.mark.parametrize("name", RESETS)
def test_a20_limits_in_any_spelling_of_their_headers(name: str) -> None:
    hints = refused(429, {"message": "x"}, dict(RESETS[name])).hints
    assert hints is not None
    assert hints.remaining_requests == 0
    assert hints.reset_requests in (5.0, 6.0, 7.0)


@pytest.mark.parametrize("words", PASSING)
def test_a9_what_a_gateway_says_of_a_server_that_is_away_or_not_up_yet(words: str) -> None:
    for status in (400, 404):
        assert type(refused(status, {"error": {"message": words}})) is UnavailableError
    assert type(refused(400, {"detail": f"cannot read the text '{words}'"})) is BadRequestError


def test_p1_a_model_that_is_loading_says_for_how_long() -> None:
    error = refused(503, {"error": "Model acme/embed is currently loading", "estimated_time": 20.0})
    assert type(error) is UnavailableError
    assert error.retry_after == 20.0


@pytest.mark.parametrize("status", [400, 413, 422, 424, 500, 503])
@pytest.mark.parametrize("words", MOST_INPUTS)
def test_p7_how_many_texts_a_request_may_have(words: str, status: int) -> None:
    bodies: list[Any] = [openai_error(words), {"detail": words}, words.encode(), {"errors": [{"message": words}]}]
    for body in bodies[: 1 + 3 * (status == 400)]:
        error = refused(status, body)
        assert isinstance(error, BadRequestError)
        assert error.max_batch_size == MOST_INPUTS[words]


@pytest.mark.parametrize(
    "words",
    [
        "Too many requests: at most 60 requests per minute",
        "limit of 2000 inputs per minute exceeded",
        "This model's maximum context length is 8192 tokens, however you requested 9000 tokens",
        "number of input tokens exceeds 512",
        "batch size of 130,000 tokens exceeds the limit of 120,000 tokens",
        "the batch exceeds 10 MB",
        "input (700 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
    ],
)
def test_p7_what_counts_something_else_is_no_number_of_texts(words: str) -> None:
    error = refused(400, openai_error(words))
    assert not isinstance(error, BadRequestError) or error.max_batch_size is None


@pytest.mark.parametrize("words", TOO_LONG)
def test_a1_a_text_that_is_too_long_in_any_words(words: str) -> None:
    for status in (400, 413, 422, 500):
        error = refused(status, openai_error(words))
        assert isinstance(error, BadRequestError)
        assert error.about_length


@pytest.mark.parametrize("name", OFFENDERS)
def test_p8_the_text_that_is_refused_is_named_in_any_way(name: str) -> None:
    error = refused(422, OFFENDERS[name])
    assert isinstance(error, BadRequestError)
    assert error.offender == 7


@pytest.mark.parametrize("name", SETTINGS)
def test_a17_what_is_wrong_with_every_batch(name: str) -> None:
    status, body, kind = SETTINGS[name]
    assert type(refused(status, body)) is kind


@pytest.mark.parametrize("name", IN_A_200)
def test_a9_an_error_in_a_200_of_any_shape(name: str) -> None:
    body, kind = IN_A_200[name]
    assert type(error_in(HTTPReply(200, {}, json.dumps(body).encode()), inputs=100)) is kind


@pytest.mark.parametrize("name", OF_A_TEXT)
def test_a17_what_one_text_holds_is_neither_account_nor_server(name: str) -> None:
    assert type(refused(*OF_A_TEXT[name])) is BadRequestError


def test_p22_an_error_behind_a_byte_order_mark_is_read() -> None:
    assert str(refused(400, b'\xef\xbb\xbf{"detail": "no"}')) == "400: no"
