"""What is asked of batches without a job: how they are at the provider, and that they are cancelled."""

from __future__ import annotations

import logging
from contextlib import suppress

from aembed.batch_protocols import BatchProvider, BatchState
from aembed.core.batch_jobs import Stage
from aembed.errors import NotFoundError, ProviderError
from aembed.pipeline.batch_jobs.books import Books

logger = logging.getLogger("aembed")


async def look_at(provider: BatchProvider, books: Books) -> list[BatchState]:
    """What the provider says of each batch that is out; one that it does not know, or not yet, is left out."""
    states = list[BatchState]()
    for record in await books.records():
        if record.batch and record.is_out:
            with suppress(NotFoundError):
                states.append(await provider.get_batch(record.batch))
    return states


async def cancel(provider: BatchProvider, books: Books) -> int:
    """Cancels what is out; returns how many batches. What has run is billed, and collected by the next run."""
    cancelled = 0
    for record in await books.records():
        if record.stage is Stage.CREATED and record.batch and not record.is_settled:
            try:
                await provider.cancel_batch(record.batch)
            except ProviderError as error:
                logger.warning("batch %s could not be cancelled: %s", record.batch, error)
                continue
            cancelled += 1
    return cancelled
