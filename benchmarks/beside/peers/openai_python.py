"""openai-python: in batches, one text a request, and the sync client in a thread pool."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openai import AsyncOpenAI, OpenAI

from benchmarks.beside.peers.job import MODEL, Embed, Job, Rows, a_call_a_text, batches, gathered, lost

THREADS = 5
TOKENS_IN_A_THREAD = 8_000


def options(job: Job) -> dict[str, Any]:
    given: dict[str, Any] = {"api_key": job.key, "base_url": job.url, "timeout": job.timeout}
    return given if job.retries is None else given | {"max_retries": job.retries}


def batched(job: Job) -> Embed:
    client = AsyncOpenAI(**options(job))

    async def request(batch: Sequence[str]) -> Rows:
        reply = await client.embeddings.create(model=MODEL, input=list(batch))
        return [item.embedding for item in reply.data]

    async def embed(texts: Sequence[str]) -> Rows:
        return await gathered(batches(texts, job.max_texts, job.max_tokens), request, job.concurrency)

    return embed


def in_a_row(job: Job) -> Embed:
    """What its users write: one batch after another."""
    client = AsyncOpenAI(**options(job))

    async def embed(texts: Sequence[str]) -> Rows:
        rows: list[Any] = []
        for batch in batches(texts, job.max_texts, job.max_tokens):
            reply = await client.embeddings.create(model=MODEL, input=list(batch))
            rows += [item.embedding for item in reply.data]
        return rows

    return embed


def each(job: Job) -> Embed:
    """What programs write that grew around single texts: a call for each."""
    client = AsyncOpenAI(**options(job))

    async def embed(texts: Sequence[str]) -> Rows:
        return await a_call_a_text(client, texts)

    return embed


def one_a_request(job: Job) -> Embed:
    client = AsyncOpenAI(**options(job))

    async def request(batch: Sequence[str]) -> Rows:
        reply = await client.embeddings.create(model=MODEL, input=batch[0])
        return [reply.data[0].embedding]

    async def embed(texts: Sequence[str]) -> Rows:
        return await gathered(([text] for text in texts), request, job.concurrency)

    return embed


def thread_pool(job: Job) -> Embed:
    client = OpenAI(**options(job))

    def request(batch: Sequence[str]) -> Rows:
        try:
            reply = client.embeddings.create(model=MODEL, input=list(batch))
        except Exception as error:
            return lost(batch, error)
        return [item.embedding for item in reply.data]

    def work(texts: Sequence[str]) -> Rows:
        with ThreadPoolExecutor(THREADS) as pool:
            parts = batches(texts, job.max_texts, TOKENS_IN_A_THREAD)
            return [row for rows in pool.map(request, parts) for row in rows]

    async def embed(texts: Sequence[str]) -> Rows:
        return await asyncio.to_thread(work, texts)

    return embed
