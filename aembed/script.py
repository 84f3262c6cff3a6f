"""The verbs as functions, for a script: each makes an Embedder, uses it once and closes it.

They take what the verbs of Embedder take, and its keywords (`EmbedderOptions`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Unpack

from aembed.embedder import AnyStore, Embedder, Records, Texts
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
    """See Embedder.embed_documents."""
    async with Embedder(model, **options) as embedder:
        return await embedder.embed_documents(texts, on_progress=on_progress)


async def embed_query(
    text: str, *, model: str | Provider, timeout: float = 10.0, **options: Unpack[QueryOptions]
) -> Vector:
    """See Embedder.embed_query; `timeout` is the whole call's."""
    async with Embedder(model, **options) as embedder:
        return await embedder.embed_query(text, timeout=timeout)


@asynccontextmanager
async def stream(
    records: Records, *, model: str | Provider, **options: Unpack[EmbedderOptions]
) -> AsyncIterator[Results]:
    """See Embedder.stream."""
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
    **options: Unpack[EmbedderOptions],
) -> Report:
    """See Embedder.embed_into."""
    async with Embedder(model, **options) as embedder:
        return await embedder.embed_into(
            store, records, on_progress=on_progress, on_failure=on_failure, retry_failed=retry_failed
        )


async def backfill(
    backlog: Backlog,
    *,
    model: str | Provider,
    limit: int | None = None,
    on_progress: OnProgress | None = None,
    on_failure: OnFailure | None = None,
    retry_failed: bool = False,
    **options: Unpack[EmbedderOptions],
) -> Report:
    """See Embedder.backfill."""
    async with Embedder(model, **options) as embedder:
        return await embedder.backfill(
            backlog, limit=limit, on_progress=on_progress, on_failure=on_failure, retry_failed=retry_failed
        )


async def search(
    store: AnyStore | Backlog,
    text: str,
    *,
    model: str | Provider,
    k: int = 5,
    where: Metadata | None = None,
    **options: Unpack[EmbedderOptions],
) -> list[Match]:
    """See Embedder.search."""
    async with Embedder(model, **options) as embedder:
        return await embedder.search(store, text, k=k, where=where)
