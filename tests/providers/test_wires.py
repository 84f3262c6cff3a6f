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
    BadRequestError,
    Embedder,
    Failure,
    QuotaExceededError,
    RateLimitError,
    Record,
    RetryPolicy,
    Space,
    SQLiteStore,
    open_provider,
)
from aembed.providers import HTTPProvider
from tests.providers.services._scripted import KEY, WAIT, Answer, ScriptedService, running
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
    """A Modelfile, or the server itself, may allow less than what is known of the model."""
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
