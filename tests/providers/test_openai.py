from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aembed import Embedder
from aembed.errors import (
    AuthenticationError,
    BadRequestError,
    ConfigError,
    InvalidReplyError,
    NotFoundError,
    ProviderError,
    RateLimitError,
    UnavailableError,
)
from aembed.limits import Limits
from aembed.protocols import Provider
from aembed.providers import open_provider
from aembed.providers._provider import INLINE_BYTES
from aembed.providers._rows import ROWS, ollama_url
from aembed.providers._secrets import Secret
from aembed.providers._urls import check_base_url
from aembed.providers.openai import OpenAIProvider
from aembed.types import Reply, Space
from tests.core.broken_replies import reply_of, unit_vectors
from tests.providers.clients import every_client, http_client
from tests.providers.raw_server import RawServer, json_reply, reply, serving, then_close, then_reset
from tests.providers.test_http import SELF_SIGNED, own_certificate

KEY = "sk-canary-5up3rs3cr3t-0123456789"
SMALL = "text-embedding-3-small"
TEXTS = ["alpha", "beta", "gamma"]
VECTORS = unit_vectors(1, 3, 8)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)


def base64_reply(vectors: Any = VECTORS, **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return json_reply(reply_of(vectors, floats=False), headers=named)


def floats_reply(vectors: Any = VECTORS) -> bytes:
    return json_reply(reply_of(vectors, floats=True))


def provider(server: RawServer, client: Any = None, **options: Any) -> OpenAIProvider:
    options = {"dimensions": 8, "api_key": KEY, **options}
    return OpenAIProvider(SMALL, base_url=server.url, http_client=client, **options)


async def embed(made: OpenAIProvider, texts: list[str] = TEXTS) -> Reply:
    try:
        async with asyncio.timeout(20):
            return await made.embed(texts, input_type="document")
    finally:
        await made.aclose()


@every_client
async def test_a_request_and_its_reply(client: str) -> None:
    said = base64_reply(x_request_id="req_7", openai_processing_ms="78", x_ratelimit_remaining_tokens="99")
    async with serving(said) as server, http_client(client) as given:
        got = await embed(provider(server, given))
    assert np.array_equal(got.matrix, VECTORS)
    assert (got.model, got.usage.tokens, got.request_id, got.server_seconds) == (SMALL, 7, "req_7", 0.078)
    assert got.hints.remaining_tokens == 99
    sent = server.requests[0]
    assert sent.target == "/v1/embeddings"
    assert sent.json == {"model": SMALL, "input": TEXTS, "encoding_format": "base64", "dimensions": 8}
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.headers["accept-encoding"] == "identity"
    assert sent.headers["content-type"] == "application/json"


def test_it_is_a_provider() -> None:
    assert isinstance(OpenAIProvider(SMALL, api_key=KEY), Provider)


def test_dimensions_are_sent_only_when_they_were_given() -> None:
    body = OpenAIProvider(SMALL, api_key=KEY).payload(["é\n\x00"], "")
    assert body == {"model": SMALL, "input": ["é\n\x00"], "encoding_format": "base64"}


@pytest.mark.parametrize(
    ("model", "space", "price"),
    [
        (SMALL, Space("openai", SMALL, 1_536), 0.02),
        ("text-embedding-3-large", Space("openai", "text-embedding-3-large", 3_072), 0.13),
        ("text-embedding-ada-002", Space("openai", "text-embedding-ada-002", 1_536), 0.10),
        ("text-embedding-9", Space("openai", "text-embedding-9", None), None),
    ],
)
def test_known_models(model: str, space: Space, price: float | None) -> None:
    made = OpenAIProvider(model, api_key=KEY)
    assert (made.space, made.price_usd) == (space, price)


def test_limits_of_the_rows() -> None:
    assert OpenAIProvider(SMALL, api_key=KEY).limits == Limits(2_048, 300_000, 8_191, 4.0, "cl100k_base")
    tei = OpenAIProvider("BAAI/bge-small-en-v1.5", service=ROWS["tei"])
    assert (tei.limits.max_batch_size, tei.limits.max_tokens_per_batch, tei.limits.encoding) == (32, 16_384, None)
    ollama = OpenAIProvider("nomic-embed-text:latest", service=ROWS["ollama"])
    assert (ollama.limits.max_batch_size, ollama.space.dimensions, ollama.price_usd) == (256, 768, 0.0)
    assert "encoding_format" not in ollama.payload(["a"], "")


@pytest.mark.parametrize(
    ("model", "dimensions"),
    [(SMALL, 0), (SMALL, -1), (SMALL, 1_537), ("text-embedding-ada-002", 256), ("unknown", 16_001)],
)
def test_dimensions_that_the_model_cannot_have(model: str, dimensions: int) -> None:
    with pytest.raises(ConfigError, match="dimensions"):
        OpenAIProvider(model, api_key=KEY, dimensions=dimensions)


def test_a_missing_key_says_what_to_type() -> None:
    with pytest.raises(ConfigError, match=r"export OPENAI_API_KEY=\.\.\."):
        OpenAIProvider(SMALL)
    with pytest.raises(ConfigError, match=r"export OPENAI_API_KEY=\.\.\."):
        OpenAIProvider(SMALL, base_url="https://api.openai.com/v1/")


async def test_the_environment_is_read_as_the_official_sdk_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(base64_reply()) as server:
        monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
        monkeypatch.setenv("OPENAI_PROJECT_ID", "proj_1")
        made = OpenAIProvider(SMALL, dimensions=8)
        assert made.space.endpoint == server.url
        await embed(made)
    headers = server.requests[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert (headers["openai-organization"], headers["openai-project"]) == ("org-1", "proj_1")


async def test_another_server_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with serving(base64_reply()) as server:
        await embed(OpenAIProvider("any", base_url=server.url, service=ROWS["tei"]))
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:11434/v1"),
        ("127.0.0.1:9", "http://127.0.0.1:9/v1"),
        (":9", "http://127.0.0.1:9/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("http://localhost:9/", "http://localhost:9/v1"),
        ("http://localhost", "http://localhost:80/v1"),
        ("https://ollama.example", "https://ollama.example:443/v1"),
        ("[::1]:9", "http://[::1]:9/v1"),
    ],
)
def test_ollama_host_in_its_forms(host: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ollama_url(host) == url
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert OpenAIProvider("all-minilm", service=ROWS["ollama"]).space.endpoint == url


@pytest.mark.parametrize("host", ["user:pass@localhost", "localhost/path", "ftp://localhost", "localhost:port", "a b"])
def test_ollama_host_that_is_none(host: str) -> None:
    with pytest.raises(ConfigError, match="OLLAMA_HOST") as raised:
        ollama_url(host)
    assert "pass" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/v1",
        "http://169.254.169.254/v1",
        "http://127.0.0.1.example.com/v1",
        "http://10.0.0.1",
        "ftp://localhost",
        "file:///etc/passwd",
        "//localhost/v1",
        "localhost:8080",
        "",
        "https://",
        "https://user:canary@example.com/v1",
        "https://canary@example.com/v1",
        "https://example.com/v1?key=canary",
        "https://example.com/v1#canary",
        "https://exa mple.com/v1",
        "https://example.com:port/v1",
        "https://[::1/v1",
        "https://example.com/\r\nhost: canary",
    ],
)
def test_z3_a_base_url_that_a_key_must_not_go_to(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url") as raised:
        OpenAIProvider(SMALL, api_key=KEY, base_url=url)
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:1/v1/",
        "http://127.0.0.1",
        "http://127.9.9.9:8",
        "http://[::1]:8/v1",
        "http://[::ffff:127.0.0.1]:8/v1",
        "http://llama.localhost:8/v1",
        "https://a.example/v1",
        "https://A.Example:8443/v1",
        "https://a.example./v1",
        "https://my_service/v1",
    ],
)
def test_z3_https_or_this_machine(url: str) -> None:
    assert check_base_url(f" {url}\n") == url.rstrip("/")


NEARBY = [
    "http://infinity:7997/v1",
    "http://my_service:7997",
    "http://192.168.1.5:8080/v1",
    "http://10.0.0.1",
    "http://[fd00::1]:8080/v1",
    "http://host.docker.internal:8080/v1",
    "http://nas.local/v1",
]


@pytest.mark.parametrize("url", NEARBY)
def test_e3_http_to_a_server_beside_us_names_the_way_to_it_in_one_line(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        open_provider(f"openai:{SMALL}", api_key=KEY, base_url=url)
    said = str(raised.value)
    assert "is in a network of your own" in said
    assert "open_provider(..., allow_http=True), or --option allow_http=true" in said
    assert "\n" not in said
    made = open_provider(f"openai:{SMALL}", api_key=KEY, base_url=url, allow_http=True)
    assert made.space.endpoint == url


def test_e3_http_to_strangers_takes_the_same_leave_and_says_what_it_means() -> None:
    with pytest.raises(ConfigError, match=r"unencrypted, by way of strangers.*allow_http=True.*allow_http=true"):
        OpenAIProvider(SMALL, api_key=KEY, base_url="http://api.example.com/v1")
    OpenAIProvider(SMALL, api_key=KEY, base_url="http://api.example.com/v1", allow_http=True)


def test_e3_a_server_that_the_environment_names_takes_the_same_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://ollama:11434")
    with pytest.raises(ConfigError, match="OLLAMA_HOST: ollama is in a network of your own"):
        open_provider("ollama:all-minilm")
    assert open_provider("ollama:all-minilm", allow_http=True).space.endpoint == "http://ollama:11434/v1"


@pytest.mark.parametrize(
    "url", ["ftp://infinity/v1", "http://user:canary@infinity/v1", "http://infinity/v1?key=canary"]
)
def test_e3_the_leave_is_for_http_and_nothing_else(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        OpenAIProvider(SMALL, api_key=KEY, base_url=url, allow_http=True)
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"allow_htpp": True},
            "openai: has no option 'allow_htpp'; it takes allow_http=true or false; document_prefix=",
        ),
        ({"allow_http": "yes"}, "allow_http='yes' must be True or False"),
        ({"allow_http": 1}, "allow_http=1 must be True or False"),
        ({"encoding": "int8"}, 'encoding=\'int8\' must be "base64", "float" or None'),
    ],
)
def test_e3_options_of_a_provider_are_checked_by_name_and_value(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        open_provider(f"openai:{SMALL}", api_key=KEY, **options)
    assert says in str(raised.value)


@pytest.mark.parametrize("name", ["local", "fake:x"])
def test_e3_a_provider_without_options_says_so(name: str) -> None:
    with pytest.raises(ConfigError, match="has no option 'allow_http'; it takes none"):
        open_provider(name, allow_http=True)


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("https://bücher.example/v1", "https://xn--bcher-kva.example/v1"),
        ("https://BÜCHER.example:8443/v1/", "https://xn--bcher-kva.example:8443/v1"),
        ("https://пример.испытание", "https://xn--e1afmkfd.xn--80akhbyknj4f"),
        ("https://faß.example/v1", "https://xn--fa-hia.example/v1"),
        ("http://bücher.localhost:1/v1", "http://xn--bcher-kva.localhost:1/v1"),
    ],
)
def test_e9_a_host_in_another_alphabet_is_what_idna_makes_of_it(url: str, seen: str) -> None:
    assert OpenAIProvider(SMALL, api_key=KEY, base_url=url).space.endpoint == seen


@pytest.mark.parametrize(
    "url",
    [
        "https://a..b/v1",
        "https://.example.com/v1",
        "https://example.com../v1",
        f"https://{'x' * 64}.example/v1",
        f"https://{'x' * 70}/v1",
        f"https://{'.'.join(['x' * 60] * 5)}/v1",
        f"https://{'ü' * 70}.example/v1",
        "https://-a.example/v1",
        "https://☃.example/v1",
        "https://ü..example/v1",
        "https://a%b.example/v1",
    ],
)
def test_e9_a_host_that_cannot_be_is_said_at_once_in_one_line(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url names a host that cannot be") as raised:
        OpenAIProvider(SMALL, api_key=KEY, base_url=url)
    assert "\n" not in str(raised.value)


async def test_e9_requests_go_to_the_name_that_idna_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(base64_reply()) as server:
        made = OpenAIProvider(SMALL, base_url=f"http://bücher.localhost:{server.port}/v1", dimensions=8)
        assert np.array_equal((await embed(made)).matrix, VECTORS)
        assert server.requests[0].headers["host"] == f"xn--bcher-kva.localhost:{server.port}"


@pytest.mark.parametrize("key", ["k", "ollama", "sk-1234"])
def test_e9_of_a_short_key_whole_words_are_cut_out_and_no_others(key: str) -> None:
    said = f"the key {key} is wrong, look for '{key}' or Bearer {key}; api_key={key}. kollamask sk-12345 skunk broken"
    shown = Secret(key).redact(said)
    assert shown.count("[redacted]") == 4
    assert shown.endswith("kollamask sk-12345 skunk broken")


async def test_n10_a_redirect_stops_the_job() -> None:
    async with serving(reply(b"", 307, {"location": "https://elsewhere.example/v1"})) as server:
        with pytest.raises(NotFoundError, match=r"https://elsewhere\.example/v1"):
            await embed(provider(server))
        assert len(server.requests) == 1


# -- base64 and numbers ---------------------------------------------------------------------------------------

REFUSED = [
    json_reply({"error": {"message": "encoding_format must be float", "param": "encoding_format"}}, 400),
    json_reply({"detail": [{"loc": ["body", "encoding_format"], "msg": "Extra inputs are not permitted"}]}, 422),
    json_reply({"error": "base64 is not supported"}, 400),
    json_reply(reply_of(VECTORS[:, :0], floats=False)),
    json_reply(reply_of(VECTORS[:, :0], floats=True)),
    json_reply(reply_of(VECTORS[:, :4], floats=False)),
    json_reply({"data": [], "model": SMALL}),
    json_reply({"data": None, "model": SMALL}),
    json_reply({"data": [{"index": i, "embedding": None} for i in range(len(TEXTS))], "model": SMALL}),
    json_reply({"error": {"message": "KeyError: 'encoding_format'", "type": "InternalServerError"}}, 500),
]


@pytest.mark.parametrize("said", REFUSED)
async def test_a6_a_server_without_base64_is_asked_for_numbers_once(said: bytes) -> None:
    async with serving(said, floats_reply()) as server:
        made = provider(server)
        with pytest.raises(ProviderError) as raised:
            await made.embed(TEXTS, input_type="document")
        assert raised.value.at_once
        for _ in range(2):
            assert np.array_equal((await made.embed(TEXTS, input_type="document")).matrix, VECTORS)
        await made.aclose()
    assert ["encoding_format" in request.json for request in server.requests] == [True, False, False]
    assert made.limits.max_batch_size == 256


async def test_a_server_that_ignores_base64_is_fine_and_gets_smaller_batches() -> None:
    async with serving(floats_reply()) as server:
        made = provider(server)
        assert made.limits.max_batch_size == 2_048
        assert np.array_equal((await embed(made)).matrix, VECTORS)
    assert len(server.requests) == 1
    assert made.limits.max_batch_size == 256


async def test_a3_a9_what_numbers_would_not_cure_is_not_bought_again_for_them() -> None:
    one = reply_of(VECTORS[:1], floats=False)
    others = reply_of(VECTORS[:, :5], floats=False)
    for said in (json_reply(one), json_reply(others), reply(b"", 503)):
        async with serving(said) as server:
            with pytest.raises(ProviderError) as raised:
                await embed(provider(server))
            assert not raised.value.at_once


async def test_a6_base64_that_breaks_after_it_has_worked_costs_the_text_no_try() -> None:
    """Of those that are on their way then one is sent again at once, and the next replies are asked for in numbers."""
    broken = json_reply({"data": [{"index": i, "embedding": None} for i in range(len(TEXTS))], "model": SMALL})
    async with serving(base64_reply(), broken, floats_reply()) as server:
        made = provider(server)
        await made.embed(TEXTS, input_type="document")
        with pytest.raises(ProviderError) as raised:
            await made.embed(TEXTS, input_type="document")
        assert raised.value.at_once
        assert np.array_equal((await made.embed(TEXTS, input_type="document")).matrix, VECTORS)
        await made.aclose()
    assert ["encoding_format" in request.json for request in server.requests] == [True, True, False]


async def test_a9_a_server_with_vectors_in_neither_form_is_asked_for_numbers_twice() -> None:
    nothing = json_reply({"object": "list", "data": None})
    async with serving(*[nothing] * 6) as server:
        made, at_once = provider(server), []
        for _ in range(6):
            with pytest.raises(ProviderError) as raised:
                await made.embed(TEXTS, input_type="document")
            at_once.append(raised.value.at_once)
        await made.aclose()
    assert at_once == [True, False, True, False, False, False]
    assert ["encoding_format" in request.json for request in server.requests] == [True, False, True, False, True, True]


async def test_a6_a_server_that_knows_base64_is_asked_for_it_whatever_an_error_says_of_it() -> None:
    """One of several servers may not: what it refuses is asked for in numbers once, and nothing else is.

    Vectors that are missing or broken in mid-job are another matter: the next replies are asked for in numbers.
    """
    said = [refused for refused in REFUSED if b" 200 " not in refused.split(b"\r\n", 1)[0]]
    assert len(said) == 4
    answers = [answer for refused in said for answer in (refused, floats_reply())]
    async with serving(base64_reply(), *answers, base64_reply()) as server:
        made = provider(server)
        await made.embed(TEXTS, input_type="document")
        for _ in said:
            with pytest.raises(ProviderError) as raised:
                await made.embed(TEXTS, input_type="document")
            assert raised.value.at_once
            await made.embed(TEXTS, input_type="document")
        await made.embed(TEXTS, input_type="document")
        await made.aclose()
    asked = ["encoding_format" in request.json for request in server.requests]
    assert asked == [True, *[True, False] * len(said), True]
    assert made.limits.max_batch_size == 2_048


@pytest.mark.parametrize(("encoding", "asked"), [("float", [None, None]), ("base64", ["base64", "base64"])])
@pytest.mark.parametrize("said", [base64_reply(), floats_reply()], ids=["base64", "numbers"])
async def test_a_form_of_the_vectors_that_was_chosen_is_the_one_that_is_asked_for(
    encoding: Any, asked: list[str | None], said: bytes
) -> None:
    async with serving(said) as server:
        made = provider(server, encoding=encoding)
        for _ in asked:
            assert np.array_equal((await made.embed(TEXTS, input_type="document")).matrix, VECTORS)
        await made.aclose()
        assert [request.json.get("encoding_format") for request in server.requests] == asked


async def test_base64_that_was_chosen_is_not_given_up() -> None:
    async with serving(REFUSED[0]) as server:
        with pytest.raises(ProviderError) as raised:
            await embed(provider(server, encoding="base64"))
        assert not raised.value.at_once


async def test_where_numbers_fail_too_nothing_is_remembered() -> None:
    async with serving(REFUSED[0], reply(b"", 503), base64_reply()) as server:
        made = provider(server)
        for at_once in (True, False):
            with pytest.raises(ProviderError) as raised:
                await made.embed(TEXTS, input_type="document")
            assert raised.value.at_once == at_once
        assert np.array_equal((await embed(made)).matrix, VECTORS)
    assert ["encoding_format" in request.json for request in server.requests] == [True, False, True]


# -- replies ----------------------------------------------------------------------------------------------------


async def test_a_large_reply_of_numbers_is_parsed_in_a_thread_and_no_other() -> None:
    jumps: list[int] = []

    async def run_in_thread(function: Callable[[], Any]) -> Any:
        jumps.append(1)
        return await asyncio.to_thread(function)

    vectors = unit_vectors(2, 200, 1_536)
    assert len(base64_reply(vectors)) > INLINE_BYTES
    async with serving(base64_reply(vectors), floats_reply(vectors[:1]), floats_reply(vectors)) as server:
        made = OpenAIProvider(SMALL, base_url=server.url, run_in_thread=run_in_thread)
        for inputs, threads in ((200, 0), (1, 0), (200, 1)):
            got = await made.embed(["a"] * inputs, input_type="document")
            assert len(jumps) == threads
            assert np.array_equal(got.matrix, vectors[:inputs])
        await made.aclose()


@every_client
async def test_p16_fewer_vectors_are_an_invalid_reply(client: str) -> None:
    async with serving(base64_reply(VECTORS[:2], x_request_id="req_9")) as server, http_client(client) as given:
        with pytest.raises(InvalidReplyError, match="2 vectors for 3 inputs") as raised:
            await embed(provider(server, given))
    assert (raised.value.status_code, raised.value.request_id) == (200, "req_9")


async def test_p19_a_norm_that_this_model_cannot_have_is_an_invalid_reply() -> None:
    async with serving(base64_reply(VECTORS * 3)) as server:
        with pytest.raises(InvalidReplyError, match="length 3"):
            await embed(provider(server))
        other = OpenAIProvider("any", base_url=server.url, dimensions=8)
        assert np.array_equal((await embed(other)).matrix, VECTORS * 3)


async def test_p23_an_error_object_in_a_200_is_treated_by_its_code() -> None:
    body = {"error": {"message": "try again in 2s", "code": "rate_limit_exceeded"}}
    async with serving(json_reply(body)) as server:
        with pytest.raises(RateLimitError) as raised:
            await embed(provider(server))
    assert raised.value.hints is not None
    assert raised.value.hints.retry_after == 2.0


WHOLE = json.dumps(reply_of(VECTORS, floats=False)).encode()
ENDS = {"nothing": 0, "the first byte": 1, "within a vector": 60, "between two": -60, "before the last byte": -1}


@every_client
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https without close_notify"])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("floats", [False, True], ids=["base64", "numbers"])
async def test_e8_json_that_ends_early_with_its_connection_is_a_broken_connection(
    client: str, tls: bool, end: int, floats: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(SELF_SIGNED))
    whole = json.dumps(reply_of(VECTORS, floats=True)).encode() if floats else WHOLE
    cut = (then_reset if tls else then_close)(reply(whole[:end], length=False))
    async with serving(cut, tls=own_certificate() if tls else None) as server, http_client(client) as given:
        with pytest.raises(UnavailableError, match="the connection broke within a reply"):
            await embed(provider(server, given))


@every_client
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https without close_notify"])
async def test_e8_json_that_is_whole_is_read_though_the_connection_ends_it(
    client: str, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(SELF_SIGNED))
    said = (then_reset if tls else then_close)(reply(WHOLE, length=False))
    async with serving(said, tls=own_certificate() if tls else None) as server, http_client(client) as given:
        assert np.array_equal((await embed(provider(server, given))).matrix, VECTORS)


@every_client
@pytest.mark.parametrize("said", [reply(WHOLE[:-60]), then_close(reply(b"<html>no</html>", length=False))])
async def test_n4_what_is_whole_and_no_json_is_invalid(client: str, said: Any) -> None:
    async with serving(said) as server, http_client(client) as given:
        with pytest.raises(InvalidReplyError):
            await embed(provider(server, given))


async def test_n9_the_cap_grows_with_the_request() -> None:
    async with serving(json_reply(reply_of(VECTORS, floats=False) | {"more": "x" * 1_100_000})) as server:
        with pytest.raises(InvalidReplyError, match=r"larger than 1,000,768 bytes"):
            await embed(provider(server))


async def test_i7_a_lone_surrogate_is_a_bad_request_that_does_not_show_the_text() -> None:
    texts = ["fine", "canary \ud800", "fine"]
    async with serving(base64_reply()) as server:
        with pytest.raises(BadRequestError, match="lone surrogate") as raised:
            await embed(provider(server), texts)
    assert raised.value.offender == 1
    assert "canary" not in "".join(traceback.format_exception(raised.value))
    assert server.requests == []


async def test_a_dimension_that_is_not_known_is_whatever_comes() -> None:
    async with serving(base64_reply()) as server:
        made = OpenAIProvider("any", base_url=server.url)
        assert made.space.dimensions is None
        assert (await embed(made)).matrix.shape == (3, 8)


# -- secrets ----------------------------------------------------------------------------------------------------


@every_client
async def test_z1_no_refusal_shows_the_key(client: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    echo = {"error": {"message": f"Incorrect API key provided: {KEY[:9]}****{KEY[-4:]} or {KEY}"}}
    answers = [json_reply(echo, status) for status in (400, 401, 403, 404, 429, 500)] + [json_reply(echo)]
    shown = []
    async with serving(*answers) as server, http_client(client) as given:
        made = provider(server, given)
        for _ in answers:
            with pytest.raises(ProviderError) as raised:
                await made.embed(TEXTS, input_type="document")
            shown.append("".join(traceback.format_exception(raised.value)) + repr(vars(raised.value)))
        shown.append(f"{made!r} {made} {vars(made)}")
        await made.aclose()
    text = "".join(shown) + caplog.text
    assert len(server.requests) == len(answers)
    assert "canary" not in text
    assert KEY[-4:] not in text


async def test_p6_a_bad_key_is_an_authentication_error() -> None:
    async with serving(json_reply({"error": {"message": "no", "code": "invalid_api_key"}}, 401)) as server:
        with pytest.raises(AuthenticationError, match="401: no"):
            await embed(provider(server))
        assert len(server.requests) == 1


def test_the_rows_name_themselves() -> None:
    assert {name: row.name for name, row in ROWS.items()} == {name: name for name in ROWS}


@pytest.mark.parametrize(
    ("prefix", "given", "used"),
    [
        ("ollama", "http://127.0.0.1:11434", "http://127.0.0.1:11434/v1"),
        ("ollama", "http://127.0.0.1:11434/", "http://127.0.0.1:11434/v1"),
        ("ollama", "http://127.0.0.1:11434/v1/embeddings", "http://127.0.0.1:11434/v1"),
        ("ollama", "http://127.0.0.1:11434/behind/a/proxy", "http://127.0.0.1:11434/behind/a/proxy"),
        ("tei", "http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("openai", "http://127.0.0.1:7997", "http://127.0.0.1:7997"),
        ("openai", "http://127.0.0.1:7997/embeddings/", "http://127.0.0.1:7997"),
        ("openai", "https://api.openai.com/v1/embeddings", ""),
    ],
)
def test_a14_an_address_that_is_written_in_another_way_is_understood(prefix: str, given: str, used: str) -> None:
    made = open_provider(f"{prefix}:{SMALL}", base_url=given, api_key=KEY)
    assert made.space.endpoint == used


async def test_a14_where_nothing_is_at_the_address_it_is_named() -> None:
    async with serving(json_reply({"detail": "Not Found"}, 404)) as server:
        with pytest.raises(NotFoundError) as raised:
            await embed(OpenAIProvider(SMALL, api_key=KEY, base_url=f"{server.url.removesuffix('/v1')}/api"))
    assert "/api/embeddings; should base_url be http://127.0.0.1:" in str(raised.value)
    assert "/api/v1?)" in str(raised.value)
    assert KEY not in str(raised.value)


async def test_a14_where_the_model_is_missing_the_address_is_right() -> None:
    async with serving(json_reply({"error": {"message": "model 'x' not found"}}, 404)) as server:
        with pytest.raises(NotFoundError) as raised:
            await embed(provider(server))
    assert "POST" not in str(raised.value)


@pytest.mark.parametrize(
    ("said", "cost_usd"),
    [
        (6.2e-7, 6.2e-7),
        (0, 0.0),
        ({"currency": "USD", "input_cost": 2.8e-8, "total_cost": 2.8e-8}, 2.8e-8),
        ({"currency": "EUR", "total_cost": 2.8e-8}, None),
        ({"total_cost": None}, None),
        (-1.0, None),
        (1e12, None),
        ("0.1", None),
        (None, None),
    ],
)
async def test_a24_a_cost_that_the_provider_names_is_read(said: Any, cost_usd: float | None) -> None:
    body = reply_of(VECTORS, floats=False) | {"usage": {"prompt_tokens": 31, "total_tokens": 31, "cost": said}}
    async with serving(json_reply(body)) as server:
        usage = (await embed(provider(server))).usage
    assert (usage.tokens, usage.cost_usd) == (31, cost_usd)


async def test_a24_it_is_what_the_report_says_whatever_the_table_of_prices() -> None:
    body = reply_of(VECTORS, floats=False) | {"usage": {"total_tokens": 1_000_000, "cost": 0.5}}
    async with serving(json_reply(body)) as server, Embedder(provider(server)) as embedder:
        report = (await embedder.embed_documents(TEXTS)).report
    assert (report.billed_tokens, report.cost_usd) == (1_000_000, 0.5)


async def test_a24_a_warning_of_the_provider_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    said = f"You have reduced rate limits of 3 RPM and 10K TPM. Your key {KEY}"
    async with serving(base64_reply(x_api_warning=said)) as server:
        made = provider(server)
        for _ in range(3):
            await made.embed(TEXTS, input_type="document")
        await made.aclose()
    (record,) = [record for record in caplog.records if "3 RPM" in record.getMessage()]
    assert record.levelname == "WARNING"
    assert KEY not in caplog.text


async def test_a24_an_empty_warning_is_none(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(base64_reply(x_api_warning="")) as server:
        await embed(provider(server))
    assert not caplog.records
