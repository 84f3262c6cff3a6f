from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aembed.errors import (
    AuthenticationError,
    BadRequestError,
    InvalidReplyError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    QuotaExceededError,
    RateLimitError,
    UnavailableError,
)
from aembed.providers._errors import error_for, error_in
from aembed.providers._http import HTTPReply
from aembed.providers._secrets import Secret

KEY = "sk-canary-5up3rs3cr3t-0123456789"


def refused(status: int, body: Any, headers: dict[str, str] | None = None, inputs: int = 100) -> ProviderError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return error_for(HTTPReply(status, headers or {}, raw), inputs=inputs, secrets=[Secret(KEY)])


def openai_error(message: str, kind: str | None = "invalid_request_error", code: Any = None, param: Any = None) -> Any:
    return {"error": {"message": message, "type": kind, "code": code, "param": param}}


RATE = openai_error("Rate limit reached. Please try again in 510ms.", "tokens", "rate_limit_exceeded")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, 0.51), ({"retry-after": "2"}, 2.0), ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5)],
)
def test_p1_a_429_is_a_rate_limit_with_its_hint(headers: dict[str, str], seconds: float) -> None:
    error = refused(429, RATE, {**headers, "x-request-id": "req_1"})
    assert type(error) is RateLimitError
    assert error.hints is not None
    assert error.hints.retry_after == seconds
    assert (error.status_code, error.request_id) == (429, "req_1")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, openai_error("You exceeded your current quota", "insufficient_quota", "insufficient_quota")),
        (429, openai_error("You exceeded your current quota", "insufficient_quota", None)),
        (429, openai_error("Billing hard limit has been reached", "billing_limit", "billing_hard_limit_reached")),
        (429, openai_error("Your account is not active", "billing_not_active", "billing_not_active")),
        (429, {"error": "no money", "code": "INSUFFICIENT_BALANCE"}),
        (400, openai_error("Billing hard limit has been reached", None, "billing_hard_limit_reached")),
        (403, {"detail": "no balance", "code": "insufficient_balance"}),
        (402, {"detail": "Payment required"}),
        (402, b""),
        (400, openai_error("Budget has been exceeded! Current cost: 5.1, Max budget: 5.0", "budget_exceeded", "400")),
        (400, {"code": "Arrearage", "message": "Access denied, make sure that your account is in good standing."}),
        (429, {"error": {"code": "1113", "message": "Your account is in arrears, please recharge"}}),
        (429, {"error": {"code": 1113, "message": "please recharge"}}),
        (429, openai_error("Your account is suspended", "exceeded_current_quota_error")),
        (400, {"__type": "x", "code": "ServiceQuotaExceededException", "message": "Too many"}),
        (403, {"detail": "Your account balance is insufficient; please top up"}),
        (400, openai_error("Your credit balance is too low to use this API.")),
        (500, openai_error("upstream: 402 insufficient_quota", "server_error")),
    ],
)
def test_p5_no_money_is_told_from_a_rate_limit(status: int, body: Any) -> None:
    assert type(refused(status, body)) is QuotaExceededError


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a17_words_of_no_money_count_whatever_a_proxy_makes_of_status_and_code(status: int) -> None:
    said = (
        "RateLimitError: OpenAIException - You exceeded your current quota, please check your plan and billing details."
    )
    assert type(refused(status, openai_error(said, "throttling_error", str(status)))) is QuotaExceededError


def test_a17_but_google_says_the_same_of_a_rate_by_way_of_a_proxy_too() -> None:
    said = "geminiException - You exceeded your current quota, please check your plan and billing. Please retry in 8s"
    assert type(refused(429, openai_error(said, "throttling_error", "429"))) is RateLimitError
    assert type(refused(503, openai_error(said, "throttling_error", "429"))) is UnavailableError


@pytest.mark.parametrize(
    "quoted", ["'dimensions'", "he was out of credits", "the budget has been exceeded", "insufficient funds"]
)
def test_a17_a_text_about_money_that_is_quoted_is_no_account_without_it(quoted: str) -> None:
    assert type(refused(400, openai_error(f"cannot read the input: {quoted}"))) is BadRequestError
    assert type(refused(422, openai_error("x" * 300 + quoted))) is BadRequestError
    assert type(refused(500, openai_error("x" * 300 + quoted))) is UnavailableError


def test_p5_a_rate_limit_that_speaks_of_quota_is_still_a_rate_limit() -> None:
    gemini = {"error": {"code": 429, "message": "You exceeded your current quota", "status": "RESOURCE_EXHAUSTED"}}
    azure = {"error": {"code": "429", "message": "exceeded call rate limit. Please retry after 3 seconds."}}
    assert type(refused(429, [gemini])) is RateLimitError
    error = refused(429, azure)
    assert type(error) is RateLimitError
    assert error.hints is not None
    assert error.hints.retry_after == 3.0


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, openai_error("Incorrect API key provided", code="invalid_api_key"), AuthenticationError),
        (401, b"", AuthenticationError),
        (
            403,
            openai_error("Country not supported", code="unsupported_country_region_territory"),
            PermissionDeniedError,
        ),
        (404, openai_error("The model `x` does not exist", code="model_not_found"), NotFoundError),
        (404, {"detail": "Not Found"}, NotFoundError),
        (405, b"Method Not Allowed", NotFoundError),
        (400, openai_error("The model `x` does not exist", code="model_not_found"), NotFoundError),
        (400, openai_error("invalid model ID"), NotFoundError),
        (400, openai_error("Unknown model: x", param="model"), NotFoundError),
        (400, openai_error("This model does not support specifying dimensions."), NotFoundError),
        (400, openai_error("bad value", param="dimensions"), NotFoundError),
        (400, openai_error("Unrecognized request argument supplied: dimensions"), NotFoundError),
        (422, {"detail": [{"loc": ["body", "dimensions"], "msg": "Extra inputs are not permitted"}]}, NotFoundError),
        (
            400,
            {"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}},
            AuthenticationError,
        ),
        (400, openai_error("Invalid API key"), AuthenticationError),
        (404, {"error": 'model "nomic-embed-text" not found, try pulling it first'}, NotFoundError),
        (400, {"detail": f"Model x is not supported. Supported models are {['voyage-2'] * 60}"}, NotFoundError),
        (400, openai_error("-1 is less than the minimum of 1 - 'dimensions'"), NotFoundError),
        (
            400,
            openai_error("Pooling type 'none' is not OAI compatible. Please use a different pooling type"),
            NotFoundError,
        ),
        (500, {"error": "this model does not support embeddings"}, NotFoundError),
    ],
)
def test_p6_what_no_other_batch_would_cure_stops_the_job(status: int, body: Any, kind: type[ProviderError]) -> None:
    assert type(refused(status, body)) is kind


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, openai_error("This model's maximum context length is 8192 tokens, however you requested 9000 tokens")),
        (400, openai_error("Invalid 'input': maximum context length is 8192 tokens.")),
        (400, openai_error("'$.input' is invalid. Please check the API reference", param="input")),
        (400, openai_error("'the model was not found' is no input", param="input[3]")),
        (400, openai_error("an echo: " + "unknown model " * 60)),
        (413, {"error": "`inputs` must have less than 512 tokens. Given: 600", "error_type": "Validation"}),
        (422, {"message": "batch size 64 > maximum allowed batch size 32", "code": 422, "type": "Validation"}),
        (413, b"<html><body>413 Request Entity Too Large</body></html>"),
        (424, {"error": "CUDA out of memory", "error_type": "Backend"}),
        (418, b""),
    ],
)
def test_p7_p8_what_another_batch_may_cure_is_a_bad_request(status: int, body: Any) -> None:
    assert type(refused(status, body)) is BadRequestError


@pytest.mark.parametrize("status", [500, 502, 503])
@pytest.mark.parametrize(
    ("reason", "inputs"),
    [
        ("input (4002 tokens) is too large to process. increase the physical batch size (current: 512)", None),
        ("input is too large to process. increase the physical batch size", None),
        ("the input length exceeds the context length", None),
        ("prompt too long; exceeded max context length by 1119046 tokens", None),
        ("Input Tokens Exceeded: Number of input tokens exceeds maximum length.", None),
        ("This model's maximum context length is 8192 tokens, however you requested 9000 tokens", None),
        ("batch size 88 > maximum allowed batch size 64", 64),
    ],
)
def test_a17_a_server_error_about_the_size_of_what_is_sent_is_a_refusal(
    status: int, reason: str, inputs: int | None
) -> None:
    error = refused(status, openai_error(reason, "server_error"))
    assert type(error) is BadRequestError
    assert error.max_batch_size == inputs
    assert str(error) == f"{status}: {reason}"


@pytest.mark.parametrize(
    "reason",
    [
        "the server is too busy",
        "too many requests in the queue",
        "a text took too long",
        "CUDA out of memory",
        "llama_decode returned -1",
    ],
)
def test_a17_other_server_errors_are_no_refusal(reason: str) -> None:
    assert type(refused(500, openai_error(reason, "server_error"))) is UnavailableError


@pytest.mark.parametrize(
    "name",
    ["x-request-id", "request-id", "apim-request-id", "mistral-correlation-id", "x-debug-trace-id", "x-amzn-requestid"],
)
def test_the_id_of_a_request_by_each_of_its_names(name: str) -> None:
    assert refused(400, b"", {name: "id-7", "cf-ray": "8f"}).request_id == "id-7"


@pytest.mark.parametrize("status", [408, 409, 425, 500, 502, 503, 504, 520, 524, 529, 599])
@pytest.mark.parametrize("body", [b"", b"<html><h1>Bad gateway</h1></html>", b"\xff\xfe", b'{"error": null}', b"[[[["])
def test_p10_server_errors_are_unavailable_whatever_they_say(status: int, body: bytes) -> None:
    error = refused(status, body, {"retry-after": "4"})
    assert type(error) is UnavailableError
    assert error.retry_after == 4.0


@pytest.mark.parametrize("status", [501, 505])
def test_e1_what_a_server_cannot_do_stops_the_job_in_its_own_words(status: int) -> None:
    error = refused(status, {"error": {"message": "This server does not support embeddings", "type": "not_supported"}})
    assert type(error) is NotFoundError
    assert str(error) == f"{status}: This server does not support embeddings"
    assert str(refused(status, b"")).startswith(f"{status}: the server ")


def test_p10_html_is_read_as_text() -> None:
    error = refused(502, b"<html><head></head><body>\n<h1>502 Bad Gateway</h1>\x1b[31m</body></html>")
    assert str(error) == "502: 502 Bad Gateway [31m"


@pytest.mark.parametrize(
    ("message", "inputs", "tokens"),
    [
        ("Requested 453357 tokens, max 300000 tokens per request", None, 300_000),
        ("Too many tokens in batch. Max is 16384 got 17555", None, 16_384),
        ("The max allowed tokens per submitted batch is 120000. Your batch has 130000 tokens", None, 120_000),
        ("batch size 64 > maximum allowed batch size 32", 32, None),
        ("Invalid 'input': array too long. Expected an array with maximum length 2048, but got 3000", 2_048, None),
        ("Value error, batch size is invalid, it should not be larger than 10.: input.contents", 10, None),
        ("BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch", 100, None),
        ("invalid request: total number of texts must be at most 96 - received 97", 96, None),
        ("The batch size limit is 1000. Your batch size is 1500.", 1_000, None),
        ("batch size 0 > maximum allowed batch size 0", None, None),
        ("something else", None, None),
    ],
)
def test_p7_a_refusal_teaches_the_limit(message: str, inputs: int | None, tokens: int | None) -> None:
    error = refused(400, openai_error(message))
    assert isinstance(error, BadRequestError)
    assert (error.max_batch_size, error.max_tokens_per_batch) == (inputs, tokens)
    assert message in str(error)


@pytest.mark.parametrize(
    ("body", "offender"),
    [
        (openai_error("Invalid 'input[22]': input cannot be an empty string."), 22),
        (openai_error("'$.input[0]' is too long", param=None), 0),
        (openai_error("too long", param="input[7]"), 7),
        (openai_error("too long", param="input.5"), 5),
        ({"detail": [{"loc": ["body", "input", 4], "msg": "too long"}]}, 4),
        ({"detail": [{"loc": ["body", "input", "list[str]", 6], "msg": "not a str"}]}, 6),
        (openai_error("Invalid 'input[100]': too long"), None),
        (openai_error("Invalid 'input'"), None),
        (openai_error("put[22]"), None),
    ],
)
def test_p8_a_refusal_names_its_offender(body: Any, offender: int | None) -> None:
    error = refused(400, body, inputs=100)
    assert isinstance(error, BadRequestError)
    assert error.offender == offender


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_n10_a_redirect_says_where_to_and_no_secret(status: int) -> None:
    location = f"https://user:pass@elsewhere.example/v2/embeddings?token={KEY}"
    error = refused(status, b"", {"location": location})
    assert type(error) is NotFoundError
    assert "set base_url to where it points: https://elsewhere.example/v2/embeddings" in str(error)
    assert "pass" not in str(error)
    assert "token" not in str(error)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"error": {"message": "slow down", "type": "tokens", "code": "rate_limit_exceeded"}}, RateLimitError),
        ({"error": {"message": "slow down", "code": 429}}, RateLimitError),
        ({"error": {"message": "no", "code": "429", "type": "insufficient_quota"}}, QuotaExceededError),
        ({"error": {"message": "no", "type": "insufficient_quota"}}, QuotaExceededError),
        ({"error": {"message": "who", "code": "invalid_api_key"}}, AuthenticationError),
        ({"error": {"message": "no such", "code": "model_not_found"}}, NotFoundError),
        ({"error": {"message": "oops", "type": "server_error"}}, UnavailableError),
        ({"error": {"message": "oops", "code": 503}}, UnavailableError),
        ({"message": "too long", "type": "invalid_request_error"}, BadRequestError),
        ({"error": "overloaded", "error_type": "overloaded"}, RateLimitError),
        ({"error": "oops"}, InvalidReplyError),
        ({"detail": "Not Found"}, InvalidReplyError),
    ],
)
def test_p23_an_error_in_a_200_is_treated_by_its_code(body: Any, kind: type[ProviderError]) -> None:
    error = error_in(HTTPReply(200, {}, json.dumps(body).encode()), inputs=3)
    assert type(error) is kind
    assert error.status_code == 200


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b'{"data": []}', b'{"code": 0, "data": []}', b"[" * 99_999])
def test_p23_a_200_without_an_error_holds_none(body: bytes) -> None:
    assert error_in(HTTPReply(200, {}, body), inputs=3) is None


@pytest.mark.parametrize(
    "body",
    [
        openai_error(
            f"Incorrect API key provided: {KEY[:9]}***********{KEY[-4:]}. You can find", code="invalid_api_key"
        ),
        openai_error(f"Incorrect API key provided: {KEY}.", code="invalid_api_key"),
        {"detail": f"Bearer {KEY} is not known"},
        f"<p>{KEY}</p>".encode(),
    ],
)
def test_z1_an_echoed_key_reaches_neither_message_nor_body(body: Any) -> None:
    error = refused(401, body, {"x-request-id": KEY})
    shown = f"{error} {error!r} {vars(error)}"
    assert "canary" not in shown
    assert KEY[-4:] not in shown
    assert "[redacted]" in shown


def test_z10_a_message_is_one_printable_line() -> None:
    error = refused(400, openai_error("one\r\ntwo\x1b[31m\x00three" + "x" * 5_000))
    assert str(error).isprintable()
    assert len(str(error)) <= 300
    assert len(error.body) <= 500


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["error", "message", "code", "type", "detail", "loc", "param", "msg"]), inner)
    ),
    max_leaves=15,
)


@given(st.integers(300, 999), st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_p10_no_body_makes_it_raise_anything_else(status: int, body: bytes) -> None:
    assert isinstance(error_for(HTTPReply(status, {}, body), inputs=5), ProviderError)
    assert isinstance(error_in(HTTPReply(200, {}, body), inputs=5), ProviderError | None)
