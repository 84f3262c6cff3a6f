"""Documents that are awaited one by one (row C10): they share requests as queries do, and budgets with jobs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from aembed import BadRequestError, Budget, BudgetExceededError, Embedder, InputError, RateLimitError, RetryPolicy
from aembed.integrations.blocking import FEW, BlockingEmbedder
from aembed.types import Hints
from tests.coalesce.test_coalesce import LATENCY, nothing_is_left, now, poisoned, provider_of, sent, sizes, virtual
from tests.jobs import vector_of, words


def test_c10_documents_of_one_moment_share_a_request() -> None:
    async def test() -> None:
        provider = provider_of()
        async with Embedder(provider) as embedder:
            await embedder.embed_document("alone")
            vectors = await asyncio.gather(*map(embedder.embed_document, [*words(100), "more", "more"]))
            assert now() == pytest.approx(2 * LATENCY)
            nothing_is_left(embedder)
        assert all(np.array_equal(v, vector_of(text)) for v, text in zip(vectors, words(100), strict=False))
        assert {request.input_type for request in provider.ledger.log} == {"document"}
        assert sum(sizes(provider)) == len(sent(provider)) == 1 + len({*words(100), "more"})

    virtual(test)


def test_a_document_and_a_query_of_one_text_are_two_inputs() -> None:
    async def test() -> None:
        provider = provider_of()
        async with Embedder(provider) as embedder:
            await asyncio.gather(embedder.embed_document("text"), embedder.embed_query("text"))
        assert sorted(request.input_type for request in provider.ledger.log) == ["document", "query"]

    virtual(test)


def test_c10_a_bad_document_fails_alone() -> None:
    async def test() -> None:
        provider = provider_of(script=poisoned)
        async with Embedder(provider) as embedder:
            texts = [*words(20), "poison", ""]
            answers = await asyncio.gather(*map(embedder.embed_document, texts), return_exceptions=True)
        assert isinstance(answers[20], BadRequestError)
        assert isinstance(answers[21], InputError)
        assert "'document'" in str(answers[21])
        assert all(isinstance(each, np.ndarray) for each in answers[:20])

    virtual(test)


def test_c10_any_number_of_documents_waits_for_longer_than_a_query_would() -> None:
    def refused_for_a_minute(number: int, texts: object) -> Exception | None:
        return RateLimitError("429: slow down", hints=Hints(retry_after=60.0)) if now() < 60 else None

    async def test() -> None:
        async with Embedder(provider_of(script=refused_for_a_minute), max_queue_size=10) as embedder:
            vectors = await asyncio.gather(*map(embedder.embed_document, words(50)))
        assert len(vectors) == 50
        assert now() >= 60

    virtual(test)


def test_the_budget_of_calls_holds_for_them() -> None:
    async def test() -> None:
        provider = provider_of()
        async with Embedder(
            provider, budget=Budget(max_billed_tokens=40), retry=RetryPolicy(max_retries=0)
        ) as embedder:
            answers = await asyncio.gather(*map(embedder.embed_document, words(100)), return_exceptions=True)
            assert sum(isinstance(each, BudgetExceededError) for each in answers) > 50
            assert any(isinstance(each, np.ndarray) for each in answers)
            with pytest.raises(BudgetExceededError):
                await embedder.embed_documents(words(100))
        assert provider.ledger.billed_tokens <= 40

    virtual(test)


async def test_what_the_cache_has_is_not_bought_again(tmp_path: Path) -> None:
    bought = provider_of(latency=0.0)
    async with Embedder(bought, cache=tmp_path / "cache.db") as embedder:
        await embedder.embed_documents(words(3))
        vector = await embedder.embed_document(words(3)[1])
        with pytest.raises(InputError):
            await embedder.embed_document("")
    assert np.array_equal(vector, vector_of(words(3)[1]))
    assert sum(sizes(bought)) == 3


async def test_c10_few_texts_of_a_blocking_embedder_share_requests() -> None:
    provider = provider_of()
    lists = [[f"text {caller} {n}" for n in range(1 + caller % FEW)] for caller in range(40)]
    async with Embedder(provider) as embedder:
        blocking = BlockingEmbedder(embedder)
        found = await asyncio.gather(*map(blocking.aembed_documents, lists))
        bad = await blocking.aembed_documents(["good", ""])
    for texts, embeddings in zip(lists, found, strict=True):
        assert np.array_equal(embeddings.vectors, [vector_of(text) for text in texts])
    assert len(sizes(provider)) < 12
    assert [failure.index for failure in bad.failures] == [1]
    assert bad[0] is not None
