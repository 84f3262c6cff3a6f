"""The flags of batches, the same for `index` and `backfill`: submit, wait, cancel."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer

from aembed.batch_protocols import KeepsBatches
from aembed.cli._job import Ending, Output
from aembed.cli._run import OK
from aembed.cli._show import dollars_in_words, duration_in_words
from aembed.cli._streams import tell
from aembed.core.batch_jobs import BatchRecord
from aembed.embedder import Embedder
from aembed.errors import ConfigError, RateLimitError, UnavailableError
from aembed.pipeline.batch_jobs.books import read_records
from aembed.protocols import Backlog, Store
from aembed.results import Plan, count_in_words

# Chosen: below it the price of a live run is cents, and it ends in seconds; a batch may take a day.
LEAST_ROWS = 2_000
"""Fewer rows than these go into a batch with --yes only."""
# Chosen: recorded batches of two texts ended after 6 and 75 s, those of 100,000 after hours.
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0
"""Seconds between two looks of --wait, at first and at the most."""


@dataclass(frozen=True, kw_only=True)
class BatchFlags:
    """How texts go into batches."""

    batch: Annotated[
        bool, typer.Option("--batch", help="Through the provider's batch API: cheaper, within a day; run it again.")
    ] = False
    wait: Annotated[bool, typer.Option("--wait", help="With --batch: wait until all of it was collected.")] = False
    cancel: Annotated[bool, typer.Option("--cancel", help="With --batch: cancel what is out, and end.")] = False
    fallback_live: Annotated[
        bool, typer.Option("--fallback-live", help="With --batch: texts that two batches gave nothing are sent live.")
    ] = False

    def check(self) -> None:
        """Raises ConfigError for flags that go with --batch alone."""
        for name in ("wait", "cancel", "fallback_live"):
            if getattr(self, name) and not self.batch:
                raise ConfigError(f"--{name.replace('_', '-')} goes with  --batch")

    async def check_size(self, plan: Plan, embedder: Embedder, place: Store | Backlog, *, yes: bool) -> None:
        """Raises ConfigError for so few rows that a batch is not worth its wait, unless some are out already."""
        if self.batch and not yes and 0 < plan.new + plan.changed < LEAST_ROWS and not await embedder.batches(place):
            raise ConfigError(
                f"{count_in_words(plan.new + plan.changed, 'row')} would wait up to a day for a batch; leave out "
                "--batch, or add --yes"
            )

    def terms_lines(self, plan: Plan, embedder: Embedder) -> list[str]:
        """What a dry run says of a batch beside the live price."""
        terms = embedder.batch_terms if self.batch else None
        if terms is None:
            return []
        price = "unknown" if plan.cost_usd is None else dollars_in_words(plan.cost_usd * terms.price_factor)
        return [
            f"as a batch: {price}, in minutes to {duration_in_words(terms.window_seconds)}",
            "the texts would be uploaded to the provider as files, which are deleted there once their rows are stored",
        ]

    async def cancel_all(self, embedder: Embedder, place: Store | Backlog) -> int:
        """Returns the exit code."""
        cancelled = await embedder.cancel_batches(place)
        tell(
            f"{count_in_words(cancelled, 'batch', 'batches')} cancelled; what has run is billed, and --batch writes it"
        )
        return OK

    async def follow(
        self, once: Callable[[], Awaitable[Ending]], embedder: Embedder, place: Store | Backlog, output: Output
    ) -> Ending:
        """Runs the job; with --wait again and again, until nothing is out."""
        ending = await once()
        while self.wait and not ending.error and ending.progress.submitted:
            await self._wait(embedder, place, output)
            ending = await once()
        if ending.progress.submitted:
            records = await read_records(place) if isinstance(place, KeepsBatches) else []
            times = [record.expires_at for record in records if record.is_out and record.expires_at]
            if times:
                output.note(f"the last of them are due by {time_in_words(max(times))}")
        return ending

    async def _wait(self, embedder: Embedder, place: Store | Backlog, output: Output) -> None:
        """Returns once a batch is over, or where a create is in doubt, after a pause."""
        pause = FIRST_PAUSE
        while True:
            seconds = pause * random.uniform(0.8, 1.2)
            output.note(f"texts are out in batches; the next look is in {seconds:.0f} s")
            await asyncio.sleep(seconds)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                states = await embedder.batches(place)
            except (UnavailableError, RateLimitError) as error:
                output.note(f"the provider does not say: {error}")
                continue
            done, total = sum(each.completed for each in states), sum(each.total for each in states)
            output.note(f"{len(states)} out, {done:,} of {total:,} lines or texts done")
            if not states or any(each.is_over for each in states):
                return


def record_in_words(record: BatchRecord) -> str:
    """One line for `aembed status`."""
    names = ", ".join(filter(None, (record.batch, record.file)))
    stage = "a twin, to be cancelled" if record.is_twin else record.stage.value
    due = f", due by {time_in_words(record.expires_at)}" if record.is_out and record.expires_at else ""
    return f"{stage}, {count_in_words(record.texts, 'text')}{f'  ({names})' if names else ''}{due}"


def time_in_words(seconds: float) -> str:
    """`seconds` since 1970."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
