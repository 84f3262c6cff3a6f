"""The verbs as functions, for a script: each makes an Embedder, uses it once and closes it.

They take what the verbs of Embedder take, and its keywords (`EmbedderOptions`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Unpack

from aembed.embedder import Embedder, Records, Texts
from aembed.engines import AnyStore
from aembed.options import EmbedderOptions, QueryOptions
from aembed.pipeline.observing import OnFailure, OnProgress
from aembed.pipeline.results import Results
from aembed.protocols import Backlog, Provider
from aembed.results import Embeddings, Report
from aembed.types import Match, Metadata, Vector


async def embed_documents(
    texts: Texts,
    *,
    model: str | Provider,
    on_progress: OnProgress | None = None,
    **options: Unpack[EmbedderOptions],
) -> Embeddings:
    """The vectors of many texts, shape (n, dimensions), in their order; None where a text failed.

    Makes an Embedder of these keywords, uses it once and closes it. See Embedder.embed_documents.
    """
    async with Embedder(model, **options) as embedder:
        return await embedder.embed_documents(texts, on_progress=on_progress)


async def embed_query(
    text: str, *, model: str | Provider, timeout: float = 10.0, **options: Unpack[QueryOptions]
) -> Vector:
    """The vector of one query, shape (dimensions,). `timeout` is the whole call's, in seconds.

    Makes an Embedder of these keywords, uses it once and closes it: a program that asks more often keeps one. See
    Embedder.embed_query.
    """
    async with Embedder(model, **options) as embedder:
        return await embedder.embed_query(text, timeout=timeout)


@asynccontextmanager
async def stream(
    records: Records, *, model: str | Provider, **options: Unpack[EmbedderOptions]
) -> AsyncIterator[Results]:
    """Results as they complete, with an Embedder of these keywords that lives as long as the block.

    See Embedder.stream.
    """
    async with Embedder(model, **options) as embedder, embedder.stream(records) as results:
        yield results


async def embed_into(
    store: AnyStore,
    records: Records,
    *,
    model: str | Provider,
    on_progress: OnProgress | None = None,
    on_failure: OnFailure | None = None,
    retry_failed: bool = False,
    batch: bool = False,
    fallback_live: bool = False,
    **options: Unpack[EmbedderOptions],
) -> Report:
    """Embeds what the store does not have yet and writes every reply at once; how the job ended.

    Makes an Embedder of these keywords, uses it once and closes it. See Embedder.embed_into.
    """
    async with Embedder(model, **options) as embedder:
        return await embedder.embed_into(
            store,
            records,
            on_progress=on_progress,
            on_failure=on_failure,
            retry_failed=retry_failed,
            batch=batch,
            fallback_live=fallback_live,
        )


async def backfill(
    backlog: Backlog,
    *,
    model: str | Provider,
    limit: int | None = None,
    on_progress: OnProgress | None = None,
    on_failure: OnFailure | None = None,
    retry_failed: bool = False,
    batch: bool = False,
    fallback_live: bool = False,
    watch: bool = False,
    poll: float = 5.0,
    recheck: float = 3600.0,
    **options: Unpack[EmbedderOptions],
) -> Report:
    """Fills the empty embedding column of a table of your own; how the job ended.

    Makes an Embedder of these keywords, uses it once and closes it. See Embedder.backfill.
    """
    async with Embedder(model, **options) as embedder:
        return await embedder.backfill(
            backlog,
            limit=limit,
            on_progress=on_progress,
            on_failure=on_failure,
            retry_failed=retry_failed,
            batch=batch,
            fallback_live=fallback_live,
            watch=watch,
            poll=poll,
            recheck=recheck,
        )


async def search(
    store: AnyStore | Backlog,
    text: str,
    *,
    model: str | Provider,
    k: int = 5,
    where: Metadata | None = None,
    hybrid: bool = False,
    **options: Unpack[EmbedderOptions],
) -> list[Match]:
    """The k rows nearest to the text, best first.

    Makes an Embedder of these keywords, uses it once and closes it. See Embedder.search.
    """
    async with Embedder(model, **options) as embedder:
        return await embedder.search(store, text, k=k, where=where, hybrid=hybrid)
