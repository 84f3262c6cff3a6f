# pyright: strict
"""What a program of a user's looks like to a type checker: all names are found, all types are right. It runs, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Unpack
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

import aembed
from aembed import (
    AembedError,
    Budget,
    BudgetExceededError,
    Embedded,
    Embedder,
    EmbedderOptions,
    Embeddings,
    Failure,
    FakeProvider,
    Limits,
    Match,
    MemoryStore,
    OnFailure,
    OnProgress,
    Plan,
    Progress,
    ProgressBar,
    Record,
    Report,
    Results,
    RetryPolicy,
    SQLiteColumn,
    SQLiteStore,
    Stats,
    Store,
    Vector,
    open_store,
)
from aembed.integrations.blocking import BlockingEmbedder
from aembed.testing import Ledger, Script


def told(progress: Progress) -> None:
    assert progress.inputs >= progress.stored


async def told_slowly(failure: Failure) -> None:
    await asyncio.sleep(0)
    assert isinstance(failure.error, AembedError)


async def rows() -> AsyncIterator[Record]:
    yield Record("a", "one text", {"page": 1}, "notes.md")
    yield Record(17, "a number for an id")
    yield Record(uuid4(), "a UUID for an id")


def lines() -> Iterator[str]:
    yield from ("one", "two")


async def of_a_list(embedder: Embedder) -> NDArray[np.float32]:
    embeddings: Embeddings = await embedder.embed_documents(["one", "two", "three"], on_progress=told)
    first: Vector | None = embeddings[0]
    some: list[Vector | None] = embeddings[:2]
    assert first is not None
    assert len(some) == 2
    width: int = first.shape[0]
    assert width == 64
    assert [failure.index for failure in embeddings.failures] == []
    tokens: int | None = embeddings.usage.tokens
    assert tokens
    return embeddings.vectors


async def of_a_stream(embedder: Embedder) -> list[str]:
    ids: list[str] = []
    async with embedder.stream(lines()) as results:
        await read(results, ids)
    report: Report = results.report
    assert report.stored == len(ids)
    return ids


async def read(results: Results, ids: list[str]) -> None:
    async for result in results:
        match result:
            case Embedded(id=id, vector=vector):
                ids.append(f"{id} {vector.shape[0]}")
            case Failure(id=id, error=error):
                ids.append(f"{id} {error}")


async def of_a_store(embedder: Embedder, store: Store | str | Path) -> list[Match]:
    observed: OnProgress = told
    failed: OnFailure = told_slowly
    plan: Plan = await embedder.plan(store, [Record("a", "one text")])
    assert plan.new == 1
    report = await embedder.embed_into(store, rows(), on_progress=observed, on_failure=failed, retry_failed=True)
    cost: float | None = report.cost_usd
    assert cost is not None
    matches = await embedder.search(store, "one text", k=2, where={"page": 1})
    for found in matches:
        assert found.score <= 1.01
        assert (found.metadata or {}).get("page") == 1
    many: list[list[Match]] = await embedder.search_many(store, ["one text"], k=2, where={"page": {"lte": 1}})
    assert [len(each) for each in many] == [len(matches)]
    return matches


async def of_a_column(path: Path) -> Report:
    column = SQLiteColumn(path, "notes", text="body")
    report = await aembed.backfill(column, model="fake:fake", limit=10, retry_failed=True, concurrency=2)
    matches = await aembed.search(column, "text", model="fake:fake", k=1)
    assert matches
    await column.aclose()
    return report


async def handed_on(texts: list[str], **options: Unpack[EmbedderOptions]) -> int:
    """A function of a user's own with the keywords of Embedder."""
    try:
        return len(await aembed.embed_documents(texts, model="fake:fake", **options))
    except BudgetExceededError as error:
        return 0 if error.embeddings is None else len(error.embeddings)


def blocking(texts: list[str]) -> tuple[NDArray[np.float32], Vector]:
    """Code that is not asynchronous."""
    embedder = BlockingEmbedder("fake:fake", concurrency=2)
    try:
        embeddings: Embeddings = embedder.embed_documents(texts)
        return embeddings.vectors, embedder.embed_query("one", timeout=3.0)
    finally:
        embedder.close()


async def scripted() -> int:
    """As the tests of an app have it."""
    script: Script = [None, 0.01]
    with FakeProvider(vectors={"one": [1.0] * 64}, keep_texts=True).standing_in() as provider:
        provider.script = script
        bar: OnProgress = ProgressBar()
        await aembed.embed_documents(["one"], model="fake:any", on_progress=bar)
    ledger: Ledger = provider.ledger
    return len(ledger.log[0].texts)


async def main(folder: Path) -> None:
    provider = FakeProvider("mine", 64, limits=Limits(16, 300_000, 8_191))
    async with Embedder(
        provider,
        concurrency=4,
        retry=RetryPolicy(max_retries=1),
        timeout=20.0,
        budget=Budget(max_billed_tokens=10_000),
        max_queue_size=None,
        too_long="truncate",
    ) as embedder:
        assert (await of_a_list(embedder)).shape == (3, 64)
        assert len(await of_a_stream(embedder)) == 2
        assert await of_a_store(embedder, MemoryStore())
        assert await of_a_store(embedder, SQLiteStore(folder / "rows.db"))
        vector: Vector = await embedder.embed_query("one", timeout=5)
        vector = await embedder.embed_document("one")
        assert float(vector @ vector) > 0.9
        stats: Stats = embedder.stats()
        assert stats.waiting == 0
    store = open_store(folder / "others.db")
    report = await aembed.embed_into(store, ["one", "two"], model="fake:fake", dimensions=32, retry_failed=False)
    assert report.stored == 2
    async with aembed.stream(["one"], model="fake:fake", concurrency=1) as results:
        assert [result.index async for result in results] == [0]
    assert (await aembed.embed_query("one", model=FakeProvider(), timeout=3.0, cache_bytes=0)).shape == (64,)
    assert await handed_on(["one"], concurrency=2, budget=Budget(max_cost_usd=1.0)) == 1
    made = aembed.open_provider("bedrock:amazon.titan-embed-text-v2:0", api_key="k", region="eu-west-1", normalize=True)
    assert made.space.dimensions == 1_024
    await store.aclose()
    assert await scripted() == 1
    matrix, vector = await asyncio.to_thread(blocking, ["one", "two"])
    assert matrix.shape == (2, *vector.shape)
