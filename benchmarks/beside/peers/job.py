"""What a contestant is asked to do, and how those that leave it to their caller pack and gather."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

MODEL = "text-embedding-3-small"
DIMENSIONS = 1_536

Rows: TypeAlias = Sequence[Any]
"""One vector a text, in order; None where it was lost."""
Embed: TypeAlias = Callable[[Sequence[str]], Awaitable[Rows]]

ERRORS: Counter[str] = Counter()
"""What the batches of this process failed with."""


@dataclass(frozen=True, slots=True)
class Job:
    """`retries`: None is the contestant's own default. `max_texts` and `max_tokens` (bytes / 4) are of one request."""

    url: str
    key: str
    concurrency: int = 8
    max_texts: int = 2_048
    max_tokens: int = 290_000
    timeout: float = 60.0
    retries: int | None = None
    tokens_per_minute: float | None = None


def batches(texts: Sequence[str], max_texts: int, max_tokens: int) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        tokens = len(text.encode()) / 4
        if batch and (len(batch) == max_texts or size + tokens > max_tokens):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += tokens
    yield batch


async def gathered(
    parts: Iterable[Sequence[str]], request: Callable[[Sequence[str]], Awaitable[Rows]], concurrency: int
) -> Rows:
    """Some at a time. The texts of a batch that failed are lost, the others are kept."""
    slots = asyncio.Semaphore(concurrency)

    async def one(batch: Sequence[str]) -> Rows:
        async with slots:
            return await kept(batch, request(batch))

    return [row for rows in await asyncio.gather(*map(one, parts)) for row in rows]


async def a_call_a_text(client: Any, texts: Sequence[str]) -> Rows:
    """A hundred calls at a time, of a client as OpenAI's SDK has it. The texts of calls that fail are lost."""

    async def one(batch: Sequence[str]) -> Rows:
        reply = await client.embeddings.create(model=MODEL, input=list(batch))
        return [reply.data[0].embedding]

    return await gathered(([text] for text in texts), one, 100)


async def kept(batch: Sequence[str], request: Awaitable[Rows]) -> Rows:
    try:
        return await request
    except Exception as error:
        return lost(batch, error)


def lost(batch: Sequence[str], error: Exception) -> Rows:
    ERRORS[type(error).__name__] += 1
    return [None] * len(batch)
