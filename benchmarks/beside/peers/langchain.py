"""LangChain: its `aembed_documents` sends one batch after another, so the batches are gathered by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_openai import OpenAIEmbeddings

from benchmarks.beside.peers.job import MODEL, Embed, Job, Rows, batches, gathered

TEXTS_ALONE = 600


def opened(job: Job) -> OpenAIEmbeddings:
    # Without check_embedding_ctx_length it counts no tokens: about 2 s of CPU less on 19,207 sections.
    options: dict[str, Any] = {"check_embedding_ctx_length": False, "chunk_size": job.max_texts}
    if job.retries is not None:
        options["max_retries"] = job.retries
    return OpenAIEmbeddings(model=MODEL, api_key=job.key, base_url=job.url, timeout=job.timeout, **options)


def embed(job: Job) -> Embed:
    client = opened(job)

    async def run(texts: Sequence[str]) -> Rows:
        parts = batches(texts, job.max_texts, job.max_tokens)
        return await gathered(parts, lambda batch: client.aembed_documents(list(batch)), job.concurrency)

    return run


def alone(job: Job) -> Embed:
    """Without the gathering: what its users get. Its default of 1,000 sections can pass the 300,000 tokens."""
    client = opened(job)

    async def run(texts: Sequence[str]) -> Rows:
        return await client.aembed_documents(list(texts), chunk_size=TEXTS_ALONE)

    return run
