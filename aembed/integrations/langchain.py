"""LangChain: embeddings for its vector stores, retrievers and indexes, in the place of OpenAIEmbeddings."""

from __future__ import annotations

from typing import Unpack

from langchain_core.embeddings import Embeddings

from aembed.embedder import Embedder
from aembed.integrations.blocking import BlockingEmbedder, as_lists
from aembed.options import EmbedderOptions
from aembed.protocols import Provider


class AembedEmbeddings(Embeddings):
    """LangChain's Embeddings, made by an Embedder: `AembedEmbeddings("openai:text-embedding-3-small", cache="c.db")`.

    `model` and `options` are those of Embedder, or it is an Embedder. Its methods may be called in any thread and
    awaited in any event loop (BlockingEmbedder). Texts that fail raise PartialError, which has the vectors of the
    others.
    """

    def __init__(self, model: str | Provider | Embedder, **options: Unpack[EmbedderOptions]) -> None:
        self._embedder = BlockingEmbedder(model, **options)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of texts to be searched, in their order."""
        rows: list[list[float]] = self._embedder.embed_documents(texts).vectors.tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        row: list[float] = self._embedder.embed_query(text).tolist()
        return row

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of texts to be searched, in their order."""
        return await as_lists((await self._embedder.aembed_documents(texts)).vectors)

    async def aembed_query(self, text: str) -> list[float]:
        """The vector of a question. Questions that come together share requests."""
        row: list[float] = (await self._embedder.aembed_query(text)).tolist()
        return row
