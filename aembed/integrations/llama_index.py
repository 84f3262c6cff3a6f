"""LlamaIndex: an embedding model for its indexes, retrievers and pipelines, in the place of OpenAIEmbedding."""

from __future__ import annotations

from typing import Any, Unpack

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager

from aembed.embedder import Embedder
from aembed.integrations.blocking import BlockingEmbedder, as_lists
from aembed.options import EmbedderOptions
from aembed.protocols import Provider

# LlamaIndex cuts a list by it, into 10 at a time if nothing is said, and allows 2,048. An Embedder packs better.
WHOLE_LIST = 2**31 - 1


class AembedEmbedding(BaseEmbedding):
    """LlamaIndex's embedding model, made by an Embedder: `Settings.embed_model = AembedEmbedding("openai:...")`.

    `model` and `options` are those of Embedder, or it is an Embedder. Its methods may be called in any thread and
    awaited in any event loop (BlockingEmbedder). It gets whole lists, and sends each text as it is. Texts that fail
    raise PartialError, which has the vectors of the others.
    """

    embed_batch_size: int = Field(default=WHOLE_LIST, description="Texts of one call: whole lists.", gt=0)
    _embedder: BlockingEmbedder = PrivateAttr()

    def __init__(
        self,
        model: str | Provider | Embedder,
        *,
        callback_manager: CallbackManager | None = None,
        **options: Unpack[EmbedderOptions],
    ) -> None:
        embedder = BlockingEmbedder(model, **options)
        space = embedder.embedder.space
        given: dict[str, Any] = {"callback_manager": callback_manager} if callback_manager else {}
        super().__init__(model_name=f"{space.provider}:{space.model}", **given)
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        """What LlamaIndex calls it where it writes it down."""
        return "AembedEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        row: list[float] = self._embedder.embed_query(query).tolist()
        return row

    async def _aget_query_embedding(self, query: str) -> list[float]:
        row: list[float] = (await self._embedder.aembed_query(query)).tolist()
        return row

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = self._embedder.embed_documents(texts).vectors.tolist()
        return rows

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await as_lists((await self._embedder.aembed_documents(texts)).vectors)
