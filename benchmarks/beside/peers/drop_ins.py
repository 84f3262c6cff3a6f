"""aembed in the frameworks' own classes, and what these cost where the vectors are there already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aembed import Embedder
from benchmarks.beside.peers.job import DIMENSIONS, MODEL, Embed, Job, Rows, a_call_a_text

NAME = f"openai:{MODEL}"


def options(job: Job) -> dict[str, Any]:
    return {"api_key": job.key, "base_url": job.url}


def openai(job: Job) -> Embed:
    from aembed.integrations.openai import AsyncOpenAI

    client = AsyncOpenAI(**options(job))

    async def run(texts: Sequence[str]) -> Rows:
        reply = await client.embeddings.create(model=MODEL, input=list(texts))
        return [item.embedding for item in reply.data]

    return run


def openai_each(job: Job) -> Embed:
    from aembed.integrations.openai import AsyncOpenAI

    client = AsyncOpenAI(**options(job))

    async def run(texts: Sequence[str]) -> Rows:
        return await a_call_a_text(client, texts)

    return run


def langchain(job: Job) -> Embed:
    from aembed.integrations.langchain import AembedEmbeddings

    return AembedEmbeddings(NAME, **options(job)).aembed_documents


def llama_index(job: Job) -> Embed:
    from aembed.integrations.llama_index import AembedEmbedding

    return AembedEmbedding(NAME, **options(job)).aget_text_embedding_batch


def floats(job: Job) -> Embed:
    """The vectors, and the floats that LangChain's interface wants."""
    embedder = Embedder(NAME, **options(job))

    async def run(texts: Sequence[str]) -> Rows:
        return (await embedder.embed_documents(texts)).vectors.tolist()

    return run


# The interfaces alone: lists of Python floats, and the framework's own objects and events.


def ready() -> Any:
    return np.random.default_rng(1).standard_normal((20_000, DIMENSIONS), np.float32)


def openai_alone(job: Job) -> Embed:
    from aembed.integrations.openai import _items

    matrix = ready()

    async def run(texts: Sequence[str]) -> Rows:
        return [item.embedding for item in _items(matrix[: len(texts)], "float")]

    return run


def openai_each_alone(job: Job) -> Embed:
    from aembed.integrations.openai import _items

    matrix = ready()

    async def run(texts: Sequence[str]) -> Rows:
        return [_items(matrix[n : n + 1], "float")[0].embedding for n in range(len(texts))]

    return run


def langchain_alone(job: Job) -> Embed:
    matrix = ready()

    async def run(texts: Sequence[str]) -> Rows:
        return matrix[: len(texts)].tolist()

    return run


def llama_index_alone(job: Job) -> Embed:
    from aembed.integrations.llama_index import AembedEmbedding

    matrix = ready()

    class Ready(AembedEmbedding):
        async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return matrix[: len(texts)].tolist()

    return Ready(NAME, **options(job)).aget_text_embedding_batch
