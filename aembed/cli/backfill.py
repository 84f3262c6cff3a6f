"""`aembed backfill`: the empty embedding column of a table of your own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

import anyio
import typer

from aembed.cli import _options as flags
from aembed.cli import _progress
from aembed.cli._inputs import Pending
from aembed.cli._job import Output, Watch, agreed_to, followed, show_ending, show_plan
from aembed.cli._options import Settings, TooLong
from aembed.cli._run import USAGE, run
from aembed.cli._show import place
from aembed.cli._stores import embedder_for
from aembed.embedder import Embedder
from aembed.results import Plan, Report
from aembed.stores import Column, open_column
from aembed.stores.memory import MemoryStore


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be filled."""

    store: str
    table: str
    text: str
    vector: str
    key: tuple[str, ...]
    where: str | None
    limit: int | None
    yes: bool
    dry_run: bool
    output: Output


def backfill(
    table: Annotated[str, typer.Option(metavar="NAME", help="The table.")],
    text: Annotated[str, typer.Option(metavar="COLUMN", help="The column of the texts.")],
    vector: Annotated[str, typer.Option(metavar="COLUMN", help="The column to fill.")] = "embedding",
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", show_default=False, help="Unique columns. Default: the primary key."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", show_default=False, help="A condition: these rows only.")
    ] = None,
    store: flags.StoreURL = flags.DEFAULT_STORE,
    model: flags.Model = None,
    dry_run: flags.DryRun = False,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, show_default=False, help="Fill N rows only.")] = None,
    max_cost: flags.MaxCost = None,
    max_billed_tokens: flags.MaxBilledTokens = None,
    yes: flags.Yes = False,
    base_url: flags.BaseURL = None,
    dimensions: flags.Dimensions = None,
    too_long: flags.TooLongOption = TooLong.ERROR,
    concurrency: flags.Concurrency = 8,
    max_batch_size: flags.MaxBatchSize = None,
    max_tokens_per_batch: flags.MaxTokensPerBatch = None,
    requests_per_minute: flags.RequestsPerMinute = None,
    tokens_per_minute: flags.TokensPerMinute = None,
    timeout: flags.Timeout = 60.0,
    max_retries: flags.MaxRetries = 3,
    failures_to: flags.FailuresTo = None,
    as_json: flags.AsJSON = False,
    quiet: flags.Quiet = False,
) -> None:
    """Fill the empty embedding column of a table of your own: rows that have a text and no vector."""
    settings = Settings(
        model=model,
        base_url=base_url,
        dimensions=dimensions,
        concurrency=concurrency,
        max_batch_size=max_batch_size,
        max_tokens_per_batch=max_tokens_per_batch,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        too_long=too_long,
        timeout=timeout,
        max_retries=max_retries,
        max_cost=max_cost,
        max_billed_tokens=max_billed_tokens,
    )
    output = Output(as_json, quiet, failures_to)
    order = Order(store, table, text, vector, tuple(key or ()), where, limit, yes, dry_run, output)
    run(_backfill(order, settings))


async def _backfill(order: Order, settings: Settings) -> int:
    async with _opened(order) as column, embedder_for(settings, await column.space()) as embedder:
        into = f"{order.table}.{order.vector} of {place(order.store)}"
        order.output.note(f"{order.table}.{order.text} -> {into}, {embedder.space}")
        plan = await _plan(order, column, embedder)
        if order.dry_run:
            limits = (settings.requests_per_minute, settings.tokens_per_minute)
            seconds = plan.seconds_at(requests_per_minute=limits[0], tokens_per_minute=limits[1])
            return show_plan(plan, seconds, order.output)
        if not agreed_to(plan, yes=order.yes):
            return USAGE

        async def start(watch: Watch) -> Report:
            return await embedder.backfill(
                column, limit=order.limit, on_progress=watch.on_progress, on_failure=watch.on_failure
            )

        return show_ending(await followed(start, embedder, plan, order.output), order.output)


async def _plan(order: Order, column: Column, embedder: Embedder) -> Plan:
    """Every pending row is new: what an empty store would need. Raises ConfigError for names that are not there."""
    await column.count()
    pending = Pending(column, order.limit)
    async with _progress.reading(lambda: pending.count, quiet=order.output.quiet):
        return await embedder.plan(MemoryStore(), pending)


@asynccontextmanager
async def _opened(order: Order) -> AsyncIterator[Column]:
    column = open_column(
        order.store, order.table, text=order.text, vector=order.vector, key=order.key or None, where=order.where
    )
    try:
        yield column
    finally:
        with anyio.CancelScope(shield=True):
            await column.aclose()
