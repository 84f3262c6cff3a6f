"""Real LlamaIndex. `nox -s integrations` installs it and runs this."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator

import numpy as np
import pytest

from aembed import FakeProvider, PartialError
from tests.service.own_process import KEY, MODEL, Service, serving
from tests.service.vectors import vector_of

# What LlamaIndex itself warns of is LlamaIndex's.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]
pytest.importorskip("llama_index.core")
from aembed.integrations.llama_index import AembedEmbedding  # noqa: E402


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serving("--key", KEY) as running:
        yield running


async def test_whole_lists_reach_the_embedder_and_texts_go_as_they_are(service: Service) -> None:
    texts = [f"text {n}\nof two lines" for n in range(5_000)]
    model = AembedEmbedding(MODEL, api_key=KEY, base_url=service.url)
    rows = await asyncio.to_thread(model.get_text_embedding_batch, texts)
    assert np.array_equal(np.array(rows, np.float32), [vector_of(text) for text in texts])
    assert await model.aget_text_embedding_batch(texts) == rows
    assert (await service.ledger())["requests"] <= 2 * 8
    assert np.array_equal(np.float32(await model.aget_query_embedding("q")), vector_of("q"))
    assert np.array_equal(np.float32(model.get_text_embedding("a\nb")), vector_of("a\nb"))


def test_an_index_is_built_and_asked() -> None:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    provider = FakeProvider()
    model = AembedEmbedding(provider)
    index = VectorStoreIndex([TextNode(text=f"section {n}") for n in range(300)], embed_model=model)
    [found] = index.as_retriever(similarity_top_k=1).retrieve("section 42")
    assert found.node.get_content() == "section 42"
    assert [sent.input_type for sent in provider.ledger.log][-1] == "query"
    assert provider.ledger.requests <= 9
    assert model.to_payload()["model_name"] == "fake:fake"


def test_a_text_that_fails_raises() -> None:
    with pytest.raises(PartialError, match="1 of 2 texts failed"):
        AembedEmbedding("fake:x").get_text_embedding_batch(["a", ""])


def test_it_goes_to_another_process_and_tells_no_key() -> None:
    model = AembedEmbedding(MODEL, api_key="sk-secret-0123456789", base_url="http://127.0.0.1:1/v1")
    assert "sk-secret" not in f"{model!r} {model.to_dict()} {model.to_json()} {model.to_payload()}"
    other = pickle.loads(pickle.dumps(AembedEmbedding("fake:x", dimensions=8)))
    assert len(other.get_query_embedding("a")) == 8
