"""Every service that has a scripted server in the folder services/, through every behaviour: one suite for all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil
from typing import Any

import numpy as np
import pybase64
import pytest

from aembed import (
    AuthenticationError,
    BadRequestError,
    Embedder,
    InputError,
    InvalidReplyError,
    QuotaExceededError,
    RateLimitError,
    RetryPolicy,
    UnavailableError,
    open_provider,
)
from aembed.providers import HTTPProvider, prefixes
from aembed.types import Matrix
from tests.providers.raw_server import never
from tests.providers.services import ScriptedService, services
from tests.providers.services._scripted import KEY, REFUSED, Asked, running, tokens_in
from tests.providers.services.vllm import VLLM

SERVICES = {service.__name__: service for service in services()}
every_service = pytest.mark.parametrize("kind", SERVICES.values(), ids=SERVICES)
with_a_key, with_positions, that_shorten = (
    pytest.mark.parametrize("kind", list(filter(has, SERVICES.values())), ids=lambda kind: kind.__name__)
    for has in (lambda kind: kind.needs_key, lambda kind: kind.has_index, lambda kind: kind.shorter)
)
FORMS = [(kind, form) for kind in SERVICES.values() for form in sorted({*kind.encodings.values()})]
SOON = RetryPolicy(backoff_base=0.01, backoff_max=0.05)
WORDS = ("Rust values memory safety", "记忆安全和可预测的性能", "Пам'ять 🦀 is\tsafe\n", 'def f(x): return "a" + x')


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OLLAMA_HOST", "OPENAI_API_VERSION", "AZURE_OPENAI_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def mixed_texts(count: int = 500) -> list[str]:
    """Of different scripts and lengths, no two alike, each of at most 400 bytes."""
    return [f"{i} {WORDS[i % 4] * (1 + i % 7)}" for i in range(count)]


def long_texts(service: ScriptedService) -> list[str]:
    return ["safe " * ceil(service.max_tokens_per_text * share) for share in (1.3, 4)]


def tokens_of(service: ScriptedService, texts: list[str]) -> int:
    return sum(tokens_in(service.prefixes[0] + text) for text in texts)


def provider_of(service: ScriptedService, **options: Any) -> HTTPProvider:
    key = {"api_key": KEY} if service.needs_key else {}
    given = {"base_url": service.url, **key, **service.options, **options}
    provider = open_provider(f"{service.prefix}:{service.model}", **given)
    assert isinstance(provider, HTTPProvider)
    return provider


@asynccontextmanager
async def embedding(service: ScriptedService, *, concurrency: int = 4, **options: Any) -> AsyncIterator[Embedder]:
    async with Embedder(provider_of(service, **options), retry=SOON, concurrency=concurrency) as embedder:
        yield embedder


@every_service
async def test_a_job_with_everything_that_happens(kind: type[ScriptedService]) -> None:
    """500 texts, two too long, one refused, a 429 in its own words, a 5xx: the rest is right, and paid once."""
    async with running(kind) as service, embedding(service) as embedder:
        service.script = {0: service.rate_limited(), 1: service.outage()}
        good, bad = mixed_texts(497), [*long_texts(service), f"one {REFUSED}"]
        texts = [*good[:100], bad[0], *good[100:250], bad[2], *good[250:480], bad[1], *good[480:]]
        embeddings = await embedder.embed_documents(texts)
        failed = {failure.index: type(failure.error) for failure in embeddings.failures}
        assert failed.keys() == {100, 251, 482}
        assert failed[251] is BadRequestError
        assert {failed[100], failed[482]} <= {BadRequestError, InputError}
        kept = np.delete(embeddings.filled(0.0), sorted(failed), axis=0)
        assert np.allclose(kept, service.right(good, "document"), atol=1e-6)
        assert service.ledger.billed_tokens <= 1.05 * tokens_of(service, good)
        assert service.ledger.cut == 0
        assert all(asked.uncut for asked in service.ledger.decoded) or (service.cuts and not service.uncut_field)
        assert service.ledger.input_types == ({"document"} if service.input_types else {""})


@every_service
async def test_as_few_requests_as_its_limits_allow(kind: type[ScriptedService]) -> None:
    """With one request at a time: several at once are made smaller, so that they end together."""
    async with running(kind) as service, embedding(service, concurrency=1) as embedder:
        texts = mixed_texts()
        embeddings = await embedder.embed_documents(texts)
        assert np.allclose(embeddings.vectors, service.right(texts, "document"), atol=1e-6)
        most = min(service.max_inputs, service.floats_only_limit or service.max_inputs)
        least = max(ceil(len(texts) / most), ceil(tokens_of(service, texts) / service.max_tokens))
        assert service.ledger.requests <= 1.1 * least
        assert service.ledger.billed_tokens == tokens_of(service, texts)


@every_service
async def test_a_query_is_sent_as_one(kind: type[ScriptedService]) -> None:
    async with running(kind) as service, embedding(service) as embedder:
        vector = await embedder.embed_query("what is safe?")
        assert np.allclose(vector, service.right(["what is safe?"], "query")[0], atol=1e-6)
        assert service.ledger.input_types == ({"query"} if service.input_types else {""})


@with_positions
async def test_answers_in_another_order_are_put_in_theirs(kind: type[ScriptedService]) -> None:
    async with running(kind) as service, embedding(service) as embedder:
        service.scrambled = True
        texts = mixed_texts(9)
        embeddings = await embedder.embed_documents(texts)
        assert np.allclose(embeddings.vectors, service.right(texts, "document"), atol=1e-6)


@that_shorten
async def test_vectors_are_shortened_where_it_can(kind: type[ScriptedService]) -> None:
    async with running(kind) as service:
        async with embedding(service, dimensions=kind.shorter) as embedder:
            embeddings = await embedder.embed_documents(["one", "two"])
            assert np.allclose(embeddings.vectors, service.right(["one", "two"], "document", kind.shorter), atol=1e-6)
        async with embedding(service, dimensions=kind.width) as embedder:
            assert (await embedder.embed_documents(["one"])).vectors.shape == (1, kind.width)


@pytest.mark.parametrize(("kind", "encoding"), FORMS, ids=lambda value: getattr(value, "__name__", value))
async def test_both_forms_of_vectors_that_it_has(kind: type[ScriptedService], encoding: str) -> None:
    async with running(kind) as service, embedding(service, encoding=encoding) as embedder:
        embeddings = await embedder.embed_documents(["one", "two"])
        assert np.allclose(embeddings.vectors, service.right(["one", "two"], "document"), atol=1e-6)
        assert {asked.base64 for asked in service.ledger.asked} == {encoding == "base64"}


@with_a_key
async def test_a_wrong_key_stops_at_once_and_is_not_shown(
    kind: type[ScriptedService], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "sk-wrong-9876543210fedcba"
    async with running(kind) as service, embedding(service, concurrency=1, api_key=wrong) as embedder:
        with pytest.raises(AuthenticationError) as stopping:
            await embedder.embed_documents(mixed_texts())
        assert service.ledger.requests == 1
        shown = f"{stopping.value!r} {stopping.value} {stopping.value.body} {embedder!r} {caplog.text}"
        assert wrong not in shown
        assert "9876543210" not in shown


@with_a_key
async def test_an_empty_account_stops_at_once(kind: type[ScriptedService]) -> None:
    async with running(kind) as service, embedding(service, concurrency=1) as embedder:
        service.script = {0: service.no_money()}
        with pytest.raises(QuotaExceededError):
            await embedder.embed_documents(mixed_texts())
        assert service.ledger.requests == 1


@every_service
async def test_errors_are_told_apart_and_tell_no_secret(
    kind: type[ScriptedService], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(kind) as service:
        provider = provider_of(service)
        meant = [
            (service.too_long(0, 9_999_999), BadRequestError),
            (service.too_many_inputs(9_999_999), BadRequestError),
            (service.refused_text(0), BadRequestError),
            (service.rate_limited(), (RateLimitError, UnavailableError)),
            (service.outage(), UnavailableError),
            *([(service.wrong_key(KEY), AuthenticationError)] if service.needs_key else []),
        ]
        for answer, error in meant:
            service.script = {service.ledger.requests: answer}
            with pytest.raises(error) as refusing:
                await provider.embed(["one"], input_type="document")
            shown = f"{refusing.value!r} {refusing.value} {refusing.value.body}"
            assert KEY not in shown
            assert refusing.value.request_id == (f"req-{service.ledger.requests}" if kind.request_id_header else None)
        assert KEY not in caplog.text
        await provider.aclose()


@every_service
async def test_a_vector_too_few_is_no_answer(kind: type[ScriptedService]) -> None:
    async with running(kind) as service:
        provider = provider_of(service, encoding=kind.encodings[None])
        service.loses_one = True
        with pytest.raises(InvalidReplyError):
            await provider.embed(["one", "two", "three"], input_type="document")
        await provider.aclose()


@every_service
async def test_a_caller_that_is_cancelled_leaves_nothing_behind(kind: type[ScriptedService]) -> None:
    async with running(kind) as service:
        provider = provider_of(service)
        service.script = {0: never}
        task = asyncio.create_task(provider.embed(["one"], input_type="document"))
        while not service.ledger.requests:
            await service.arrived.wait()
            service.arrived.clear()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        reply = await provider.embed([kind.prefixes[0] + "two"], input_type="document")
        assert np.allclose(reply.matrix, service.right(["two"], "document"), atol=1e-6)
        assert service.ledger.requests == 2
        await provider.aclose()


class OldVLLM(VLLM):
    """Its base64 held float64, as it was recorded in 2024."""

    def item(self, row: Matrix, asked: Asked) -> dict[str, Any]:
        if not asked.base64:
            return super().item(row, asked)
        return {"object": "embedding", "embedding": pybase64.b64encode(row.astype("<f8").tobytes()).decode()}


async def test_base64_of_float64_is_read() -> None:
    async with running(OldVLLM) as service, embedding(service) as embedder:
        texts = mixed_texts()
        embeddings = await embedder.embed_documents(texts)
        assert np.allclose(embeddings.vectors, service.right(texts, "document"), atol=1e-6)
        assert all(asked.base64 for asked in service.ledger.asked)
        assert sum(len(asked.texts) for asked in service.ledger.asked) == len(texts)


def test_each_service_that_is_a_row_or_a_wire_is_here() -> None:
    """What runs in the process has no wire."""
    wired = {*prefixes()} - {"fake", "fastembed", "local", "model2vec", "sentence-transformers"}
    assert {service.prefix for service in SERVICES.values()} == wired
