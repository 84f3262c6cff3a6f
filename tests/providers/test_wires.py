"""What services with formats of their own do beside what is the same for all (test_conformance.py)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from aembed import (
    AuthenticationError,
    BadRequestError,
    ConfigError,
    Embedder,
    Failure,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    Record,
    RetryPolicy,
    Space,
    SQLiteStore,
    UnavailableError,
    open_provider,
)
from aembed.providers import HTTPProvider
from aembed.providers._aws import sign
from aembed.providers._secrets import Secret
from aembed.providers.bedrock import BedrockProvider
from tests.providers.services._scripted import KEY, WAIT, Answer, ScriptedService, running
from tests.providers.services.bedrock import ACCESS_KEY, REGION, SECRET_KEY, CohereOnBedrock, Titan, error
from tests.providers.services.cohere import Cohere, CohereV3
from tests.providers.services.gemini import MOST_BYTES, Gemini, Gemini2
from tests.providers.services.ollama_native import OllamaNative


def provider_of(service: ScriptedService, **options: Any) -> HTTPProvider:
    key = {"api_key": KEY} if service.needs_key else {}
    given = {"base_url": service.url, **key, **options}
    made = open_provider(f"{service.prefix}:{service.model}", **given)
    assert isinstance(made, HTTPProvider)
    return made


@asynccontextmanager
async def embedding(service: ScriptedService, **options: Any) -> AsyncIterator[Embedder]:
    async with Embedder(provider_of(service, **options), retry=RetryPolicy(max_retries=1)) as embedder:
        yield embedder


# Cohere


def test_coheres_rate_in_texts_is_that_of_its_own_address() -> None:
    assert open_provider("cohere:embed-v4.0", api_key=KEY).limits.texts_per_minute == 2_000
    elsewhere = open_provider("cohere:embed-v4.0", api_key=KEY, base_url="https://cohere.example")
    assert elsewhere.limits.texts_per_minute is None
    assert elsewhere.space.endpoint == "https://cohere.example/v2"


class Trial(Cohere):
    def headers_of_success(self, billed: int) -> dict[str, str]:
        return {"x-trial-endpoint-call-limit": "100", "x-trial-endpoint-call-remaining": "95"}


async def test_calls_of_a_trial_key_of_cohere_are_counted_by_its_headers() -> None:
    async with running(Trial) as service:
        provider = provider_of(service)
        reply = await provider.embed(["one"], input_type="document")
        assert reply.hints is not None
        assert (reply.hints.limit_requests, reply.hints.remaining_requests) == (100, 95)
        await provider.aclose()


async def test_cohere_cuts_where_it_may() -> None:
    long = "safe " * 1_000
    async with running(CohereV3) as service:
        provider = provider_of(service)
        with pytest.raises(BadRequestError, match="too many tokens") as refusing:
            await provider.embed([long], input_type="document")
        assert refusing.value.max_tokens == 512
        cutting = provider_of(service, truncate=True)
        assert (await cutting.embed([long], input_type="document")).matrix.shape == (1, 1_024)
        assert service.ledger.cut == 1
        await provider.aclose()
        await cutting.aclose()


# Gemini


async def test_gemini_says_how_long_to_wait_and_which_quota_is_one_of_a_day() -> None:
    async with running(Gemini) as service:
        provider = provider_of(service)
        service.script = {0: service.rate_limited(), 1: service.no_money()}
        with pytest.raises(RateLimitError) as limiting:
            await provider.embed(["one"], input_type="document")
        assert limiting.value.hints is not None
        assert limiting.value.hints.retry_after == pytest.approx(WAIT)
        with pytest.raises(QuotaExceededError, match="midnight Pacific") as stopping:
            await provider.embed(["one"], input_type="document")
        assert stopping.value.hints is not None
        assert stopping.value.hints.spent_window == "day"
        await provider.aclose()


async def test_a_body_for_gemini_is_never_too_large() -> None:
    """Texts of the most tokens that there can be, a tenth of whose characters JSON has to escape."""
    texts = [f"{i:04} {('nine chars' + chr(34)) * 2_900}" for i in range(260)]
    assert len("".join(texts).encode()) > 1.9 * MOST_BYTES
    async with running(Gemini2) as service, embedding(service) as embedder:
        embeddings = await embedder.embed_documents(texts)
        assert np.allclose(embeddings.vectors, service.right(texts, "document"), atol=1e-6)
        assert len(service.ledger.decoded) == service.ledger.requests == len(service.ledger.asked)


async def test_shortened_vectors_of_gemini_embedding_001_are_made_1_long_where_that_is_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with running(Gemini) as service:
        async with embedding(service, dimensions=768) as embedder:
            vectors = (await embedder.embed_documents(["one"])).vectors
            assert np.linalg.norm(vectors) == pytest.approx(0.58, abs=1e-3)
            assert "are 0.58 to 0.58 long, not 1" in caplog.text
        caplog.clear()
        async with embedding(service, dimensions=768, normalize=True) as embedder:
            assert np.linalg.norm((await embedder.embed_documents(["one"])).vectors) == pytest.approx(1)
        async with embedding(service) as embedder:
            assert np.linalg.norm((await embedder.embed_documents(["one"])).vectors) == pytest.approx(1, abs=1e-3)
        assert caplog.text == ""


async def test_gemini_is_asked_in_the_version_that_base_url_names() -> None:
    async with running(Gemini) as service:
        provider = provider_of(service, base_url=f"http://127.0.0.1:{service.port}/v1")
        await provider.embed(["one"], input_type="query")
        assert (provider.path, service.ledger.requests) == ("/models/gemini-embedding-001:batchEmbedContents", 1)
        await provider.aclose()
    named = open_provider("gemini:models/gemini-embedding-2", api_key=KEY)
    assert named.space == Space("gemini", "gemini-embedding-2", 3_072)


# Ollama


@pytest.mark.parametrize(
    ("given", "path", "base"),
    [
        ("http://127.0.0.1:11434", "/api/embed", "http://127.0.0.1:11434"),
        ("http://127.0.0.1:11434/", "/api/embed", "http://127.0.0.1:11434"),
        (" http://127.0.0.1:11434/api/embed/ ", "/api/embed", "http://127.0.0.1:11434"),
        ("http://127.0.0.1:11434/v1", "/embeddings", "http://127.0.0.1:11434/v1"),
        ("http://127.0.0.1:11434/v1/embeddings", "/embeddings", "http://127.0.0.1:11434/v1"),
        ("http://127.0.0.1:11434/behind/v1/", "/embeddings", "http://127.0.0.1:11434/behind/v1"),
    ],
)
def test_the_path_of_a_url_chooses_ollamas_route(given: str, path: str, base: str) -> None:
    made = open_provider("ollama:nomic-embed-text", base_url=given)
    assert isinstance(made, HTTPProvider)
    assert (made.path, made.base_url) == (path, base)
    assert made.space.endpoint == (base if base.endswith("/v1") else f"{base}/v1")


def test_where_no_address_is_given_ollama_has_the_space_that_it_always_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    for url in (None, "http://localhost:11434", "http://localhost:11434/v1"):
        assert open_provider("ollama:nomic-embed-text", base_url=url).space == Space("ollama", "nomic-embed-text", 768)
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:7777")
    made = open_provider("ollama:nomic-embed-text")
    assert isinstance(made, HTTPProvider)
    assert (made.base_url, made.space.endpoint) == ("http://127.0.0.1:7777", "http://127.0.0.1:7777/v1")


async def test_a_store_of_ollamas_other_route_goes_on_and_buys_nothing(tmp_path: Path) -> None:
    records = [Record(f"r{i}", f"text number {i}") for i in range(40)]
    async with running(OllamaNative) as service:
        async with embedding(service, base_url=f"{service.url}/v1") as by_openai:
            await by_openai.embed_into(SQLiteStore(tmp_path / "store.db"), records)
            other = (await by_openai.embed_documents([record.text for record in records])).vectors
        bought = service.ledger.requests
        async with embedding(service) as native:
            assert native.space == by_openai.space
            report = await native.embed_into(SQLiteStore(tmp_path / "store.db"), records)
            assert (report.requests, report.unchanged, service.ledger.requests) == (0, 40, bought)
            own = (await native.embed_documents([record.text for record in records])).vectors
        cosines = np.einsum("ij,ij->i", own, other) / (np.linalg.norm(own, axis=1) * np.linalg.norm(other, axis=1))
        assert cosines.min() > 1 - 1e-6


async def test_ollama_refuses_what_it_would_have_cut() -> None:
    """OLLAMA_CONTEXT_LENGTH, of the server itself, may allow less than what it tells of the model."""
    async with running(Narrow) as service:
        async with embedding(service) as embedder:
            embeddings = await embedder.embed_documents(["one", "safe " * 1_000, "two"])
            (failure,) = embeddings.failures
            assert isinstance(failure, Failure)
            assert isinstance(failure.error, BadRequestError)
            assert (failure.index, service.ledger.cut) == (1, 0)
        async with embedding(service, truncate=True) as embedder:
            assert not (await embedder.embed_documents(["safe " * 1_000])).failures
            assert service.ledger.cut == 1


class Narrow(OllamaNative):
    max_tokens_per_text = 512
    told: ClassVar[int | None] = 2_048


class Unknown(OllamaNative):
    """A model of the user's own."""

    model = "mine"
    prefixes = ("", "")
    parameters: ClassVar[str] = 'num_ctx                        700\nstop                           "x"'


async def test_ollama_is_asked_once_what_its_model_is() -> None:
    async with running(Unknown) as service:
        async with embedding(service) as embedder:
            await embedder.embed_documents(["one"])
            embeddings = await embedder.embed_documents(["one", "safe " * 1_500])
            assert "the limit is 700" in str(embeddings.failures[0].error)
            assert embedder.space.dimensions == 768
        assert service.ledger.others == ["/api/show"]


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"model_info": {"bert.context_length": "x"}}', b"\xff"])
async def test_an_odd_answer_to_that_question_does_no_harm(body: bytes) -> None:
    class Odd(Unknown):
        def tell(self, request: Any) -> Answer:
            return Answer(200, body)

    async with running(Odd) as service, embedding(service) as embedder:
        assert (await embedder.embed_documents(["one"])).vectors.shape == (1, 768)


# Bedrock


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials of AWS in the environment, and none elsewhere."""
    for name in ("AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_REGION", REGION)


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("kind", [Titan, CohereOnBedrock])
async def test_without_a_key_requests_to_bedrock_are_signed(kind: type[ScriptedService]) -> None:
    async with running(kind) as service, embedding(service, api_key=None) as embedder:
        embeddings = await embedder.embed_documents(["one", "zwei und drei"])
        assert np.allclose(embeddings.vectors, service.right(["one", "zwei und drei"], "document"), atol=1e-6)


@pytest.mark.parametrize("token", ["", "FwoGZXIvYXdzEXAMPLE/+="])
def test_signatures_are_those_of_botocore(token: str) -> None:
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = "https://bedrock-runtime.eu-central-1.amazonaws.com/model/us.cohere.embed-v4%3A0/invoke"
    body = b'{"a": "\xc3\xa9"}'
    key = Secret(":".join(filter(None, (ACCESS_KEY, SECRET_KEY, token))))
    while True:
        ours = sign(url, body, key, service="bedrock", region=REGION)
        signed = {name: value.reveal() for name, value in ours.items() if isinstance(value, Secret)}
        theirs = AWSRequest("POST", url, data=body)
        SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY, token or None), "bedrock", REGION).add_auth(theirs)
        if theirs.headers["x-amz-date"] == signed["x-amz-date"]:  # no second began between them
            break
    assert signed == {name.lower(): value for name, value in theirs.headers.items()}


@pytest.mark.usefixtures("aws")
async def test_credentials_of_aws_that_are_refused_are_read_again_and_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "FwoGZXIvYXdzEXAMPLETOKEN0123456789")
    async with running(Titan) as service, embedding(service, api_key=None) as embedder:
        service.script = {0: error(403, "ExpiredTokenException", f"{ACCESS_KEY} {SECRET_KEY} has expired")}
        assert (await embedder.embed_documents(["one"])).vectors.shape == (1, 1_024)
        assert service.ledger.requests == 2
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another/secret/of/forty/characters/12345")
        service.script = {2: error(403, "ExpiredTokenException", f"{ACCESS_KEY} {SECRET_KEY} has expired")}
        with pytest.raises(AuthenticationError) as refusing:
            await embedder.embed_documents(["two"])
        shown = f"{refusing.value!r} {refusing.value.body} {embedder!r} {caplog.text}"
        for secret in (ACCESS_KEY, SECRET_KEY, "another/secret", "EXAMPLETOKEN"):
            assert secret not in shown


@pytest.mark.usefixtures("aws")
async def test_without_any_credentials_of_aws_the_job_stops_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    async with running(Titan) as service, embedding(service, api_key=None) as embedder:
        with pytest.raises(ConfigError, match="aws configure"):
            await embedder.embed_documents(["one"])
        assert service.ledger.requests == 0


@pytest.mark.usefixtures("aws")
def test_models_and_regions_of_bedrock(monkeypatch: pytest.MonkeyPatch) -> None:
    made = open_provider("bedrock:us.cohere.embed-v4:0", region="us-east-1", api_key=KEY)
    assert isinstance(made, HTTPProvider)
    assert made.base_url == "https://bedrock-runtime.us-east-1.amazonaws.com"
    assert made.path == "/model/us.cohere.embed-v4%3A0/invoke"
    assert made.space == Space("bedrock", "us.cohere.embed-v4:0", 1_536)
    assert (made.price_usd, made.limits.max_batch_size) == (0.12, 96)
    other = open_provider("bedrock:us.cohere.embed-v4:0", base_url="https://bedrock-runtime.us-west-2.amazonaws.com")
    assert isinstance(other, BedrockProvider)
    assert (other.space, other.signs_for) == (made.space, "us-west-2")
    titan = open_provider("bedrock:amazon.titan-embed-text-v2:0", dimensions=512)
    assert isinstance(titan, HTTPProvider)
    assert titan.payload(["one"], "") == {"inputText": "one", "dimensions": 512, "normalize": True}
    older = open_provider("bedrock:amazon.titan-embed-text-v1")
    assert isinstance(older, HTTPProvider)
    assert older.payload(["one"], "") == {"inputText": "one"}
    with pytest.raises(ConfigError, match="is not amazon"):
        open_provider("bedrock:anthropic.claude")
    with pytest.raises(ConfigError, match="region='frankfurt' is no region"):
        open_provider("bedrock:amazon.titan-embed-text-v2:0", region="frankfurt")
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(ConfigError, match="export AWS_REGION"):
        open_provider("bedrock:amazon.titan-embed-text-v2:0")


async def test_tokens_of_bedrock_are_counted_by_a_header() -> None:
    async with running(CohereOnBedrock) as service:
        provider = provider_of(service)
        assert (await provider.embed(["one", "four words are here"], input_type="document")).usage.tokens == 6
        await provider.aclose()


@pytest.mark.parametrize(
    ("status", "kind", "meant"),
    [
        (429, "ThrottlingException", RateLimitError),
        (429, "ModelNotReadyException", UnavailableError),
        (400, "ServiceQuotaExceededException", QuotaExceededError),
        (408, "ModelTimeoutException", UnavailableError),
        (424, "ModelErrorException", UnavailableError),
        (503, "ServiceUnavailableException", UnavailableError),
        (400, "ValidationException", BadRequestError),
        (403, "AccessDeniedException", PermissionDeniedError),
        (403, "UnrecognizedClientException", AuthenticationError),
        (404, "ResourceNotFoundException", NotFoundError),
    ],
)
async def test_kinds_of_errors_of_bedrock(status: int, kind: str, meant: type[Exception]) -> None:
    async with running(Titan) as service:
        provider = provider_of(service)
        service.script = {0: error(status, kind, "What the model says.")}
        with pytest.raises(meant, match="What the model says"):
            await provider.embed(["one"], input_type="document")
        await provider.aclose()
