"""Baseten's performance client, in Rust: its `numpy()`, which wants JSON floats, and base64 that we decode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pybase64
from baseten_performance_client import PerformanceClient, RequestProcessingPreference

from benchmarks.beside.peers.job import MODEL, Embed, Job, Rows

MOST_TEXTS = 1_000
"""It takes at most 1,024 and counts characters only up to a million, less than 300,000 tokens."""


def _preference(job: Job) -> RequestProcessingPreference:
    given: dict[str, Any] = {} if job.retries is None else {"max_retries": min(job.retries, 6), "retry_budget_pct": 3.0}
    return RequestProcessingPreference(
        batch_size=min(job.max_texts, MOST_TEXTS),
        max_chars_per_request=1_048_576,
        max_concurrent_requests=job.concurrency,
        timeout_s=job.timeout,
        **given,
    )


def _client(job: Job) -> PerformanceClient:
    return PerformanceClient(job.url.removesuffix("/v1"), job.key)


def floats(job: Job) -> Embed:
    client, preference = _client(job), _preference(job)

    async def run(texts: Sequence[str]) -> Rows:
        reply = await client.async_embed(list(texts), MODEL, encoding_format="float", preference=preference)
        return reply.numpy()

    return run


def base64(job: Job) -> Embed:
    client, preference = _client(job), _preference(job)

    async def run(texts: Sequence[str]) -> Rows:
        reply = await client.async_embed(list(texts), MODEL, encoding_format="base64", preference=preference)
        return np.stack([np.frombuffer(pybase64.b64decode(item.embedding), "<f4") for item in reply.data])

    return run
