"""An Embedder for code that is not asynchronous, and for frameworks that call from wherever they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Unpack

from aembed.coalesce import embed_queries
from aembed.embedder import Embedder, Texts
from aembed.errors import ConfigError
from aembed.integrations._background import await_in, background_loop, wait_for
from aembed.options import EmbedderOptions
from aembed.protocols import Provider
from aembed.query_verbs import QUERY_TIMEOUT
from aembed.results import Embeddings
from aembed.types import Matrix, Vector

# Law 11: no more than 5 ms at a time. Measured: 100,000 floats are made in 2 ms.
FLOATS_AT_ONCE = 100_000
# Chosen: frameworks that embed as they go ask for 1 to 10 texts at a time. Larger, lists that fill a request of their
# own would wait for others.
FEW = 16
"""Lists of so many texts at the most share requests with those of other callers."""


class BlockingEmbedder:
    """An Embedder that any thread may call, and any event loop may await.

    `model` and `options` are those of Embedder, or it is an Embedder. What it does runs in one event loop of a process,
    a thread of aembed's own, and so its callers share requests, limits and connections. An Embedder that is open in an
    event loop which runs stays there: that thread can await this one, and not call it, which is a ConfigError.
    After a fork the child has a loop of its own. It can be pickled, unless it was made of an Embedder.
    """

    def __init__(self, model: str | Provider | Embedder, **options: Unpack[EmbedderOptions]) -> None:
        if isinstance(model, Embedder) and options:
            raise ConfigError(f"{next(iter(options))}= is for a model that is named; an Embedder has its own")
        self.embedder = model if isinstance(model, Embedder) else Embedder(model, **options)
        self._model, self._options = model, options

    def __repr__(self) -> str:
        return f"<BlockingEmbedder of {self.embedder!r}>"

    def __reduce__(self) -> tuple[Callable[[], BlockingEmbedder], tuple[()]]:
        if isinstance(self._model, Embedder):
            raise TypeError("an Embedder cannot go to another process; name the model in its place")
        return partial(BlockingEmbedder, self._model, **self._options), ()

    def embed_documents(self, texts: Texts) -> Embeddings:
        """See Embedder.embed_documents. A list of a few texts shares its request with others that come meanwhile."""
        return wait_for(self._embed_documents(texts), self._loop)

    def embed_query(self, text: str, *, timeout: float = QUERY_TIMEOUT) -> Vector:
        """See Embedder.embed_query."""
        return wait_for(self.embedder.embed_query(text, timeout=timeout), self._loop)

    async def aembed_documents(self, texts: Texts) -> Embeddings:
        """The same, awaited in any event loop."""
        return await await_in(self._embed_documents(texts), self._loop)

    async def aembed_query(self, text: str, *, timeout: float = QUERY_TIMEOUT) -> Vector:
        """The same, awaited in any event loop."""
        return await await_in(self.embedder.embed_query(text, timeout=timeout), self._loop)

    def close(self) -> None:
        """Closes the Embedder; see Embedder.aclose."""
        wait_for(self.embedder.aclose(), self._loop)

    async def aclose(self) -> None:
        """The same, awaited in any event loop."""
        await await_in(self.embedder.aclose(), self._loop)

    async def _embed_documents(self, texts: Texts) -> Embeddings:
        if isinstance(texts, list) and 1 <= len(texts) <= FEW and not self.embedder._engine.caching.is_on:
            return await embed_queries(texts, self.embedder.embed_document, FEW)
        return await self.embedder.embed_documents(texts)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return self.embedder._engine.running_loop or background_loop()


def pieces_of(matrix: Matrix) -> Iterator[Matrix]:
    """Some rows at a time, which become Python's floats before anybody has to wait."""
    at_once = max(1, FLOATS_AT_ONCE // max(1, matrix.shape[1]))
    return (matrix[start : start + at_once] for start in range(0, len(matrix), at_once))


async def as_lists(matrix: Matrix) -> list[list[float]]:
    """`matrix.tolist()`, which leaves the event loop time for others."""
    rows: list[list[float]] = []
    for piece in pieces_of(matrix):
        rows += piece.tolist()
        await asyncio.sleep(0)
    return rows
