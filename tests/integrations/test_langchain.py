"""Real LangChain, and the tests that it has for embeddings. `nox -s integrations` installs it and runs this."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from aembed import Embedder, FakeProvider, PartialError
from tests.service.own_process import KEY, MODEL, Service, serving
from tests.service.vectors import vector_of

pytest.importorskip("langchain_core")
standard = pytest.importorskip("langchain_tests.integration_tests")
unit = pytest.importorskip("langchain_tests.unit_tests")
from aembed.integrations.langchain import AembedEmbeddings  # noqa: E402

pytestmark = pytest.mark.timeout(300)


class TestUnit(unit.EmbeddingsUnitTests):  # type: ignore[misc, name-defined]
    embeddings_class = AembedEmbeddings
    embedding_model_params = {"model": "fake:x"}  # noqa: RUF012


class TestIntegration(standard.EmbeddingsIntegrationTests):  # type: ignore[misc, name-defined]
    embeddings_class = AembedEmbeddings
    embedding_model_params = {"model": "fake:x"}  # noqa: RUF012


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serving("--key", KEY) as running:
        yield running


async def test_whole_lists_are_right_by_place_and_questions_share_requests(service: Service) -> None:
    texts = [f"text {n}" for n in range(5_000)]
    embeddings = AembedEmbeddings(MODEL, api_key=KEY, base_url=service.url)
    rows = await embeddings.aembed_documents(texts)
    assert isinstance(rows[0][0], float)
    assert np.array_equal(np.array(rows, np.float32), [vector_of(text) for text in texts])
    assert rows == await asyncio.to_thread(embeddings.embed_documents, texts)
    # Twice the list; one request may hold 2,048 texts, and eight go at a time.
    assert (await service.ledger())["requests"] <= 2 * 8
    before = (await service.ledger())["requests"]
    questions = await asyncio.gather(*(embeddings.aembed_query(f"question {n}") for n in range(200)))
    assert all(np.array_equal(np.float32(row), vector_of(f"question {n}")) for n, row in enumerate(questions))
    assert (await service.ledger())["requests"] - before <= 40


async def test_questions_are_of_the_type_of_questions_and_an_open_embedder_is_used_where_it_is() -> None:
    provider = FakeProvider()
    async with Embedder(provider) as embedder:
        embeddings = AembedEmbeddings(embedder)
        await embeddings.aembed_query("a question")
        await embeddings.aembed_documents(["a text"])
    assert [sent.input_type for sent in provider.ledger.log] == ["query", "document"]


def test_a_text_that_fails_raises_with_the_vectors_of_the_others() -> None:
    with pytest.raises(PartialError, match="1 of 3 texts failed") as raised:
        AembedEmbeddings("fake:x").embed_documents(["a", "", "b"])
    assert raised.value.embeddings is not None
    assert [vector is None for vector in raised.value.embeddings] == [False, True, False]


def test_a_vector_store_of_langchains_is_filled_and_asked() -> None:
    from langchain_core.vectorstores import InMemoryVectorStore

    store: Any = InMemoryVectorStore.from_texts(["one", "two", "three"], AembedEmbeddings("fake:x"))
    assert [found.page_content for found in store.similarity_search("two", k=1)] == ["two"]
    [found] = asyncio.run(store.asimilarity_search("three", k=1))
    assert found.page_content == "three"
