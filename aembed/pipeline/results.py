"""This module gives the results of a stream to its reader, as they complete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager

import anyio.lowlevel

from aembed.errors import ConfigError
from aembed.pipeline.channel import Channel
from aembed.pipeline.job import Job
from aembed.pipeline.logs import log_ending
from aembed.pipeline.telling import JobTeller
from aembed.results import Failure, Report
from aembed.types import Embedded

# Chosen: a copy of so many vectors takes half a millisecond, and the reader does something with each.
AT_ONCE = 256
"""The loop may do something else after so many results."""


class Results:
    """The results of a stream, to be iterated over once: Embedded and Failure in the order of their completion.

    The iteration raises what stopped the job.
    """

    def __init__(self, channel: Channel, running: asyncio.Task[Report]) -> None:
        self._channel = channel
        self._running = running

    async def __aiter__(self) -> AsyncIterator[Embedded | Failure]:
        async for results in self._channel:
            for number, result in enumerate(results, 1):
                yield result
                if number % AT_ONCE == 0:
                    await anyio.lowlevel.checkpoint()
        await self._running

    @property
    def report(self) -> Report:
        """The report of how the job ended. Raises ConfigError before the last result was read."""
        if not self._running.done():
            raise ConfigError("the report is there once every result has been read")
        return self._running.result()


async def run_and_close(
    job: Job, channel: Channel, verb: AbstractContextManager[None], teller: JobTeller | None
) -> Report:
    try:
        with verb, log_ending("stream", job.report, teller):
            return await job.run()
    finally:
        channel.end()
