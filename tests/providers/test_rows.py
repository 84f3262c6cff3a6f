"""What single services have of their own, beside what the conformance suite tries of all."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from aembed import AuthenticationError, ConfigError, Embedder, open_provider
from aembed.providers import HTTPProvider
from aembed.providers._rows import ROWS
from aembed.providers.azure import AZURE
from aembed.providers.cohere import COHERE
from aembed.providers.gemini import GEMINI
from aembed.providers.perplexity import PERPLEXITY
from tests.pages import ROOT
from tests.providers.raw_server import RawServer, json_reply, serving
from tests.providers.services._scripted import KEY, Answer, running
from tests.providers.services.azure import Azure
from tests.providers.services.tei import TEI


def opened(name: str, **options: Any) -> HTTPProvider:
    provider = open_provider(name, **options)
    assert isinstance(provider, HTTPProvider)
    return provider


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY", "OPENAI_API_VERSION", "CLOUDFLARE_ACCOUNT_ID"):
        monkeypatch.delenv(name, raising=False)


def test_azure_is_found_by_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="AZURE_OPENAI_ENDPOINT"):
        opened("azure:text-embedding-3-small")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://acme.openai.azure.com/")
    with pytest.raises(ConfigError, match="AZURE_OPENAI_API_KEY"):
        opened("azure:text-embedding-3-small")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    provider = opened("azure:text-embedding-3-small", deployment="search")
    assert (provider.base_url, provider.path) == ("https://acme.openai.azure.com/openai/v1", "/embeddings")
    assert provider.payload(["a"], "")["model"] == "search"
    assert opened("azure:text-embedding-3-small").payload(["a"], "")["model"] == "text-embedding-3-small"
    assert (provider.space.dimensions, provider.price_usd) == (1_536, 0.022)
    monkeypatch.setenv("OPENAI_API_VERSION", "2024-10-21")
    dated = opened("azure:text-embedding-3-small", deployment="a/b")
    assert f"{dated.base_url}{dated.path}" == (
        "https://acme.openai.azure.com/openai/deployments/a%2Fb/embeddings?api-version=2024-10-21"
    )
    assert dated.space == provider.space
    with pytest.raises(ConfigError, match="api_version"):
        opened("azure:text-embedding-3-small", api_version="2024-10-21&x=1")


@pytest.mark.parametrize(
    ("prefix", "first", "second"),
    [
        ("gemini:gemini-embedding-001", "GOOGLE_API_KEY", "GEMINI_API_KEY"),
        ("cohere:embed-v4.0", "CO_API_KEY", "COHERE_API_KEY"),
        ("deepinfra:BAAI/bge-m3", "DEEPINFRA_API_KEY", "DEEPINFRA_API_TOKEN"),
    ],
)
async def test_a_key_is_read_from_the_first_of_its_variables_that_is_set(
    monkeypatch: pytest.MonkeyPatch, prefix: str, first: str, second: str
) -> None:
    """In the order of the service's own SDK. It goes to the service, or to the base_url that was given."""
    for name in (first, second, "CO_API_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=rf"export {first}=\.\.\.  \(or {second}\)"):
        opened(prefix)
    own, other = "key-in-the-first-variable", "key-in-the-second-variable"
    monkeypatch.setenv(second, other)
    assert await sent_key(opened(prefix)) == other
    monkeypatch.setenv(first, f" {own}\n")
    assert await sent_key(opened(prefix)) == own
    assert await sent_key(opened(prefix, api_key="key-that-was-passed")) == "key-that-was-passed"
    assert own not in repr(opened(prefix))
    monkeypatch.setenv(first, "key with\nwhat no header holds")
    with pytest.raises(ConfigError, match=first) as raised:
        opened(prefix)
    assert "what no header holds" not in str(raised.value)


async def sent_key(provider: HTTPProvider) -> str:
    """The key that goes out in the header of a request."""
    (value,) = (await provider._credentials.headers()).values()
    return value.reveal().removeprefix("Bearer ")


async def test_a_token_for_azure_is_a_bearers_and_is_asked_for_again_once_refused() -> None:
    class Entra(Azure):
        key_header = "authorization"

    given = []

    async def token() -> str:
        given.append(KEY if given else "expired-token-000000")
        return given[-1]

    async with running(Entra) as service:
        provider = opened("azure:text-embedding-3-small", base_url=service.url, api_key=token)
        async with Embedder(provider) as embedder:
            assert (await embedder.embed_documents(["one"])).report.stored == 1
        assert (len(given), service.ledger.requests) == (2, 2)


async def test_a_key_for_azure_that_is_refused_is_not_sent_again() -> None:
    async with running(Azure) as service:
        provider = opened("azure:text-embedding-3-small", base_url=service.url, api_key="wrong-key-00000")
        async with Embedder(provider) as embedder:
            with pytest.raises(AuthenticationError, match="invalid subscription key"):
                await embedder.embed_documents(["one"])
        assert service.ledger.requests == 1


def test_keys_of_voyage_go_where_they_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened("voyage:voyage-4", api_key="pa-0123456789").base_url == "https://api.voyageai.com/v1"
    assert opened("voyage:voyage-4", api_key="al-0123456789").base_url == "https://ai.mongodb.com/v1"
    monkeypatch.setenv("VOYAGE_API_KEY", "al-0123456789")
    provider = opened("voyage:voyage-4")
    assert provider.base_url == "https://ai.mongodb.com/v1"
    assert provider.space.endpoint == ""
    assert opened("voyage:voyage-4", base_url="https://proxy.example.com").base_url == "https://proxy.example.com"


@pytest.mark.parametrize(
    ("name", "document", "query"),
    [
        ("openrouter:openai/text-embedding-3-small", ("", "search_document"), ("", "search_query")),
        ("openrouter:intfloat/e5-large-v2", ("passage: ", ""), ("query: ", "")),
        ("jina:jina-embeddings-v3", ("", "retrieval.passage"), ("", "retrieval.query")),
        ("jina:jina-embeddings-v2-base-en", ("", ""), ("", "")),
        ("nvidia:nvidia/nv-embedqa-e5-v5", ("", "passage"), ("", "query")),
        ("mistral:mistral-embed", ("", ""), ("", "")),
        ("deepinfra:intfloat/e5-large-v2", ("passage: ", ""), ("query: ", "")),
    ],
)
def test_documents_and_queries_are_told_apart_by_one_means(
    name: str, document: tuple[str, str], query: tuple[str, str]
) -> None:
    prepared = opened(name, api_key=KEY).preparation
    assert (prepared.document_prefix, prepared.document_type) == document
    assert (prepared.query_prefix, prepared.query_type) == query


@pytest.mark.parametrize(
    ("name", "uncut", "cut"),
    [
        ("voyage:voyage-4", {"truncation": False}, {"truncation": True}),
        ("jina:jina-embeddings-v3", {"truncate": False}, {"truncate": True}),
        ("nvidia:nvidia/nv-embedqa-e5-v5", {"truncate": "NONE"}, {"truncate": "END"}),
    ],
)
def test_texts_are_cut_where_that_is_wanted_alone(name: str, uncut: dict[str, Any], cut: dict[str, Any]) -> None:
    assert uncut.items() <= opened(name, api_key=KEY).payload(["a"], "").items()
    assert cut.items() <= opened(name, api_key=KEY, truncate=True).payload(["a"], "").items()


@pytest.mark.parametrize("name", ["together:BAAI/bge-base-en-v1.5", "cloudflare:@cf/baai/bge-m3"])
def test_dimensions_are_refused_where_there_is_no_field_for_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", "0123456789abcdef")
    with pytest.raises(ConfigError, match="no field that shortens vectors"):
        opened(name, api_key=KEY, dimensions=256)


def test_an_account_of_cloudflare_is_no_way_to_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", "../../../x@evil.example.com")
    with pytest.raises(ConfigError, match="CLOUDFLARE_ACCOUNT_ID"):
        opened("cloudflare:@cf/baai/bge-m3", api_key=KEY)


async def test_tei_tells_its_limits_and_that_it_cuts(caplog: pytest.LogCaptureFixture) -> None:
    class Cutting(TEI):
        max_inputs = 100

        def tell(self, request: Any) -> Answer:
            answer = super().tell(request)
            return Answer(answer.status, answer.body | {"auto_truncate": True})

    async with running(Cutting) as service:
        provider = opened("tei:BAAI/bge-m3", base_url=service.url)
        async with Embedder(provider, concurrency=1) as embedder:
            with caplog.at_level(logging.WARNING):
                await embedder.embed_documents([str(i) for i in range(200)])
                await embedder.embed_documents(["one"])
            assert (provider.limits.max_batch_size, provider.limits.max_tokens_per_text) == (100, 700)
        assert (service.ledger.requests, service.ledger.others) == (3, ["/info"])
        assert caplog.text.count("cuts texts of more tokens than 700") == 1


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"max_client_batch_size": 64, "max_batch_tokens": "many", "max_input_length": 512}, (64, 16_384, 512)),
        ({"max_client_batch_size": -1, "max_batch_tokens": None}, (32, 16_384, 8_192)),
        (["max_client_batch_size"], (32, 16_384, 8_192)),
        ("max_client_batch_size", (32, 16_384, 8_192)),
    ],
)
async def test_what_tei_tells_that_is_odd_is_left_alone(said: Any, told: tuple[int, int, int]) -> None:
    async with serving(json_reply(said)) as server:
        assert isinstance(server, RawServer)
        provider = opened("tei:some-model", base_url=server.url)
        await provider.learn()
        limits = provider.limits
        assert (limits.max_batch_size, limits.max_tokens_per_batch, limits.max_tokens_per_text) == told
        await provider.aclose()


def test_the_table_of_the_page_has_every_row_with_its_limits() -> None:
    page = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:3] == "| `"]
    table = {row[0].strip("` :"): row[2:] for row in cells if len(row) == 7}
    own = {"azure": AZURE, "cohere": COHERE, "gemini": GEMINI, "perplexity": PERPLEXITY}
    # Bedrock has other limits for each family of its models.
    assert table.keys() == {*ROWS, *own, "bedrock"}
    for name, row in {**ROWS, **own}.items():
        texts, tokens, types, cut, checked = table[name]
        assert int(texts.partition(", or")[0].replace(",", "")) == row.limits.max_batch_size, name
        number = next(re.finditer(r"[\d,]*\d", tokens))[0]
        assert int(number.replace(",", "")) == row.limits.max_tokens_per_batch, name
        assert (f"`{row.input_type_field}`" in types) == bool(row.input_type_field), name
        assert bool(row.uncut) == ("asked to refuse" in cut), name
        assert checked, name
