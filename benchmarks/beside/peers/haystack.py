"""Haystack: its `run_async` sends one batch after another, as JSON floats, so the batches are gathered by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder
from haystack.utils import Secret

from benchmarks.beside.peers.job import MODEL, Embed, Job, Rows, batches, gathered


def embed(job: Job) -> Embed:
    options: dict[str, Any] = {} if job.retries is None else {"max_retries": job.retries}
    embedder = OpenAIDocumentEmbedder(
        api_key=Secret.from_token(job.key),
        model=MODEL,
        api_base_url=job.url,
        batch_size=job.max_texts,
        progress_bar=False,
        timeout=job.timeout,
        raise_on_failure=True,
        **options,
    )

    async def request(batch: Sequence[str]) -> Rows:
        made = await embedder.run_async([Document(content=text) for text in batch])
        return [document.embedding for document in made["documents"]]

    async def run(texts: Sequence[str]) -> Rows:
        return await gathered(batches(texts, job.max_texts, job.max_tokens), request, job.concurrency)

    return run
