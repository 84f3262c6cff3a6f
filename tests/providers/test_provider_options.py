"""The options that every provider takes which is reached over HTTP, and tokens that a callable gives."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from aembed import Embedder, RetryPolicy
from aembed.cli._options import merge_options, parse_option
from aembed.errors import AuthenticationError, ConfigError, UnavailableError
from aembed.limits import Limits
from aembed.providers import HTTPProvider, Service, open_provider
from aembed.providers._provider import HTTPProvider as Provider
from tests.core.broken_replies import reply_of, unit_vectors
from tests.providers.raw_server import RawServer, json_reply, serving

KEY = "sk-canary-5up3rs3cr3t-0123456789"
TEXTS = ["alpha", "beta"]
GOOD = json_reply(reply_of(unit_vectors(1, 2, 8), floats=False))
ONE = json_reply(reply_of(unit_vectors(1, 1, 8), floats=False))
WRONG_KEY = json_reply({"error": {"message": "the token has expired", "code": "invalid_token"}}, 401)


def bodies(server: RawServer) -> list[Any]:
    return [json.loads(request.body) for request in server.requests]


async def sent(server: RawServer, name: str = "openai:model", **options: Any) -> Any:
    made = open_provider(name, base_url=server.url, api_key=KEY, **options)
    await made.embed(TEXTS, input_type="document")
    await made.aclose()


async def test_headers_and_fields_of_the_users_own_go_with_each_request() -> None:
    async with serving(GOOD) as server:
        fields = {"provider": {"order": ["nebius"]}, "user": "u-7"}
        await sent(server, headers={"X-Title": "search", "Helicone-Auth": "Bearer sk-other"}, extra_body=fields)
        assert bodies(server) == [{"model": "model", "input": TEXTS, "encoding_format": "base64", **fields}]
        headers = server.requests[0].headers
        assert (headers["x-title"], headers["helicone-auth"]) == ("search", "Bearer sk-other")


async def test_a_header_of_the_users_own_stands_in_no_error_and_no_repr(caplog: pytest.LogCaptureFixture) -> None:
    secret = "hc-9f8e7d6c5b4a-secret"
    refusal = json_reply({"error": {"message": f"unknown header value {secret}"}}, 400)
    async with serving(refusal) as server:
        made = open_provider("openai:m", base_url=server.url, api_key=KEY, headers={"helicone-auth": secret})
        with caplog.at_level(logging.DEBUG), pytest.raises(Exception) as caught:  # noqa: PT011
            await made.embed(TEXTS, input_type="query")
        await made.aclose()
    assert secret not in f"{caught.value} {caught.value!r} {made!r} {vars(caught.value)} {caplog.text}"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"headers": {"Content-Length": "5"}}, "'Content-Length' is not a name that a header of your own may have"),
        ({"headers": {"x y": "5"}}, "'x y' is not a name"),
        ({"headers": {"x-team": "a\r\nb: c"}}, "the value of x-team must be printable ASCII"),
        ({"headers": {"x-team": 5}}, "the value of x-team must be printable ASCII"),
        ({"headers": "x: y"}, "headers='x: y' must be a mapping"),
        ({"extra_body": ["a"]}, r"extra_body=\['a'\] must be a mapping"),
        ({"extra_body": {"a": {1, 2}, "b": object()}}, "holds what JSON cannot hold"),
        ({"truncate": "yes"}, "truncate='yes' must be True or False"),
        ({"input_types": "passage,query"}, "openai: has no field for input_types; use document_prefix, query_prefix"),
    ],
)
def test_what_no_request_can_hold_is_refused_before_any(options: Mapping[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_provider("openai:model", api_key=KEY, **options)


def test_the_command_takes_entries_of_a_mapping_one_by_one() -> None:
    given = ["headers.X-Team=7", "headers.X-Title=a=b", "extra_body.user=u-7", 'extra_body.provider={"order": ["a"]}']
    assert merge_options(map(parse_option, [*given, "extra-body.user=u-8", "allow_http=true"])) == {
        "headers": {"X-Team": "7", "X-Title": "a=b"},
        "extra_body": {"user": "u-8", "provider": {"order": ["a"]}},
        "allow_http": True,
    }


@pytest.mark.parametrize(
    "given",
    [
        "headers.Authorization=Bearer sk-1",
        'headers={"api-key": "sk-1"}',
        "headers.Ocp-Apim-Subscription-Key=sk-1",
        "headers.helicone-auth=Bearer sk-1",
        "headers.X_ApiKey=sk-1",
        "headers.x-session-tokens=sk-1",
    ],
)
def test_a_key_is_refused_on_the_command_line_without_being_shown(given: str) -> None:
    with pytest.raises(ConfigError, match="a key is never passed on the command line") as caught:
        parse_option(given)
    assert "sk-1" not in str(caught.value)


class Tokens:
    """An async callable that gives one token after the other."""

    def __init__(self, tokens: Sequence[str | Exception]) -> None:
        self._tokens = list(tokens)
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        token = self._tokens[min(self.asked, len(self._tokens)) - 1]
        if isinstance(token, Exception):
            raise token
        return token


def keys(server: RawServer) -> list[str]:
    return [request.headers["authorization"].removeprefix("Bearer ") for request in server.requests]


async def test_a_token_is_asked_for_once_and_again_after_it_was_refused() -> None:
    tokens = Tokens(["token-one-0123456789", "token-two-0123456789"])
    async with serving(ONE, WRONG_KEY, ONE, ONE) as server:
        async with Embedder("openai:model", base_url=server.url, api_key=tokens, cache_bytes=0) as embedder:
            for text in TEXTS:
                await embedder.embed_query(text)
            await embedder.embed_query("gamma")
        assert keys(server) == ["token-one-0123456789"] * 2 + ["token-two-0123456789"] * 2
    assert tokens.asked == 2


async def test_a_token_that_stays_refused_ends_it_and_stands_in_no_error() -> None:
    tokens = Tokens([f"token-{number}-0123456789" for number in range(9)])
    echoed = json_reply({"error": {"message": "token-1-0123456789 is no good", "code": "invalid_token"}}, 401)
    async with serving(echoed) as server:
        async with Embedder("openai:model", base_url=server.url, api_key=tokens) as embedder:
            with pytest.raises(AuthenticationError) as caught:
                await embedder.embed_query("alpha")
        assert len(server.requests) <= 3
    assert "0123456789" not in f"{caught.value} {caught.value.body}"


async def test_where_no_token_can_be_had_nothing_is_sent_and_the_callables_words_are_not_told() -> None:
    async with serving(ONE) as server:
        tokens = Tokens([ConnectionError("secret of the token service")])
        retry = RetryPolicy(backoff_base=0.01, max_outage=0.2)
        async with Embedder("openai:model", base_url=server.url, api_key=tokens, retry=retry) as embedder:
            with pytest.raises(UnavailableError, match="gave no token: it raised ConnectionError") as caught:
                await embedder.embed_query("alpha")
        assert server.requests == []
        assert tokens.asked > 1
    assert "secret" not in str(caught.value)


class Cuts(HTTPProvider):
    service = Service(
        name="cuts",
        base_url="https://api.example.com/v1",
        limits=Limits(max_batch_size=8, max_tokens_per_batch=1_000, max_tokens_per_text=100),
        dimensions_field="output_dimension",
        input_type_field="task",
        input_types=("passage", "question"),
        uncut={"truncation": False},
        cut={"truncation": True},
    )


async def test_what_a_service_calls_width_input_type_and_cutting_is_data() -> None:
    async with serving(GOOD) as server:
        for options in ({}, {"truncate": True, "dimensions": 8, "input_types": "doc,"}):
            made: Provider = Cuts("m", base_url=server.url, **options)
            for input_type in ("document", "query"):
                await made.embed(TEXTS, input_type=input_type)  # type: ignore[arg-type]
            await made.aclose()
        usual = {"model": "m", "input": TEXTS, "encoding_format": "base64"}
        assert bodies(server) == [
            {**usual, "truncation": False, "task": "passage"},
            {**usual, "truncation": False, "task": "question"},
            {**usual, "truncation": True, "output_dimension": 8, "task": "doc"},
            {**usual, "truncation": True, "output_dimension": 8},
        ]
