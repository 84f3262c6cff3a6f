"""`aembed backfill`: the empty embedding column of a table of your own."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, TypeAlias

import numpy as np
import typer

from aembed.cli import _flags as flags
from aembed.cli import _progress
from aembed.cli._batch import BatchFlags
from aembed.cli._failures_file import check_failures_file
from aembed.cli._indexes_there import look_at_indexes
from aembed.cli._inputs import Pending
from aembed.cli._job import Output, Watch, ask_to_agree, follow_job, show_ending, show_plan
from aembed.cli._options import RowFlags, Settings
from aembed.cli._run import OK, SOME_FAILED, STOPPED, USAGE, reason_in_words, run
from aembed.cli._show import printable_place
from aembed.cli._stores import use_column, use_embedder
from aembed.cli._streams import say
from aembed.cli._typed_command import TypedCommand
from aembed.embedder import Embedder
from aembed.errors import AembedError, ConfigError, SpaceMismatchError
from aembed.results import Plan, Report
from aembed.stores import Column, Indexable, IndexesEmptyRows, IndexesWords, files_of
from aembed.stores._indexes_there import SetsIndexesAside
from aembed.stores.memory import MemoryStore
from aembed.types import Rows

OnBuild: TypeAlias = Callable[[str, int, int], object]
# As the store of PostgreSQL checks it: here it is said before anything is opened, and before the rows are paid for.
_SIZE = re.compile(r"\d+ ?[kMGT]?B")


@dataclass(frozen=True, kw_only=True)
class FilledFlags(RowFlags):
    """The flags of a column that is filled."""

    table: Annotated[str, typer.Option(metavar="NAME", help="The table.")]
    create_columns: Annotated[
        bool, typer.Option("--create-columns", help="Add the columns of --vector and --fingerprint where missing.")
    ] = False

    create_triggers: Annotated[
        str | None,
        typer.Option(
            "--create-triggers",
            metavar="watch|search",
            show_default=False,
            help="PostgreSQL: watch, add triggers that note changes, for --watch. SQLite: search, for fast searches.",
        ),
    ] = None
    updated_at: Annotated[
        str | None,
        typer.Option(
            "--updated-at",
            metavar="COLUMN",
            show_default=False,
            help="PostgreSQL: the column that tells when a row was edited, for --watch without triggers.",
        ),
    ] = None

    def _choices(self) -> dict[str, Any]:
        made = {"create_columns": self.create_columns, "create_triggers": self.create_triggers}
        return made | {"updated_at": self.updated_at} | super()._choices()


@dataclass(frozen=True, kw_only=True)
class WatchFlags:
    """Whether and how the table is watched once it is filled."""

    watch: Annotated[bool, typer.Option("--watch", help="Go on, and fill what comes, until a signal.")] = False
    poll: Annotated[
        float, typer.Option("--poll", metavar="SECONDS", help="With --watch: look for rows at least so often.")
    ] = 5.0
    recheck: Annotated[
        float, typer.Option("--recheck", metavar="SECONDS", help="With --watch: look at all rows so often.")
    ] = 3600.0

    def check(self, order: BackfillOrder) -> None:
        """Raises ConfigError for flags of a run that comes to its end."""
        ends = {"--limit": order.limit, "--index": order.index, "--batch": order.batch.batch}
        for flag, given in ends.items():
            if self.watch and given:
                raise ConfigError(f"--watch goes on until a signal, and {flag} is for a run that ends; leave one out")
        if order.create_index and not self.watch:
            raise ConfigError("--create-index goes with  --watch  (--index builds the index for searches)")

    @property
    def drained(self) -> tuple[signal.Signals, ...]:
        """The signals that are the way to end it."""
        return (signal.SIGTERM,) if self.watch else ()


@dataclass(frozen=True, kw_only=True)
class BackfillOrder:
    """What is to be filled."""

    limit: Annotated[int | None, typer.Option(metavar="N", min=1, show_default=False, help="Fill N rows only.")] = None
    index: Annotated[
        bool,
        typer.Option("--index", help="Build the indexes for searches (SQLite: for --hybrid) once the rows are filled."),
    ] = False
    rebuild_index: Annotated[
        bool,
        typer.Option(
            "--rebuild-index",
            help="With --index: drop indexes that are there first, where more than a sixth of the rows are new.",
        ),
    ] = False
    index_memory: flags.IndexMemory = None
    create_index: Annotated[
        bool,
        typer.Option("--create-index", help="PostgreSQL: build an index of the rows without a vector, for --watch."),
    ] = False
    dry_run: flags.DryRun = False
    yes: flags.Yes = False
    retry_failed: flags.RetryFailed = False
    store: str = flags.DEFAULT_STORE
    batch: BatchFlags = field(default_factory=BatchFlags)
    watch: WatchFlags = field(default_factory=WatchFlags)
    output: Output = field(default_factory=Output)


@flags.spread
def backfill(
    context: typer.Context,
    *,
    store: flags.StoreURL = flags.DEFAULT_STORE,
    column: FilledFlags,
    settings: Settings,
    order: BackfillOrder,
    batch: BatchFlags,
    watch: WatchFlags,
    output: Output,
) -> None:
    """Fill the empty embedding column of a table of your own: rows that have a text and no vector."""
    order = replace(order, store=store, batch=batch, watch=watch, output=output)
    run(_run_backfill(order, column, settings, TypedCommand(context)), drained=watch.drained)


async def _run_backfill(order: BackfillOrder, names: FilledFlags, settings: Settings, again: TypedCommand) -> int:
    try:
        return await _fill_column(order, names, settings, again)
    except SpaceMismatchError as error:
        raise again.with_advice_for_columns(error) from error.__cause__


async def _fill_column(order: BackfillOrder, names: FilledFlags, settings: Settings, again: TypedCommand) -> int:
    output = order.output
    order.batch.check()
    order.watch.check(order)
    if order.index_memory and not (order.index and _SIZE.fullmatch(order.index_memory)):
        raise ConfigError(
            f"--index-memory {order.index_memory} must be a size, as 512MB or 2GB, and goes with  --index"
        )
    if order.rebuild_index and not order.index:
        raise ConfigError("--rebuild-index goes with  --index")
    if output.failures_to:
        check_failures_file(output.failures_to, files_of(order.store))
    async with (
        use_column(order.store, names) as column,
        use_embedder(settings, await column.space(), again) as embedder,
    ):
        into = f"{names.name} of {printable_place(order.store)}"
        output.note(f"{names.table}.{names.text or '(SQL)'} -> {into}, {embedder.space}")
        if order.index_memory and not isinstance(column, Indexable):
            raise ConfigError("--index-memory is for PostgreSQL; leave it out")
        if order.batch.cancel:
            return await order.batch.cancel_all(embedder, column)
        made = await column.preflight(embedder.space, index=order.index)
        for line in made + await _announce_index_of_empty_rows(column, order):
            output.note(f"{'would be' if order.dry_run else 'will be'} made: {line}")
        plan = await _plan(order, column, embedder)
        indexes = await look_at_indexes(column, plan, rebuild=order.rebuild_index, output=output)
        if order.dry_run:
            limits = (settings.requests_per_minute, settings.tokens_per_minute)
            seconds = plan.seconds_at(requests_per_minute=limits[0], tokens_per_minute=limits[1])
            return show_plan(plan, seconds, output, order.batch.terms_lines(plan, embedder))
        if not ask_to_agree(plan, yes=order.yes):
            return USAGE
        await order.batch.check_size(plan, embedder, column, yes=order.yes)
        await indexes.set_aside(may_ask=order.index and not order.yes)

        async def start(watch: Watch, *, goes_on: bool = order.watch.watch) -> Report:
            return await embedder.backfill(
                column,
                limit=order.limit,
                on_progress=watch.on_progress,
                on_failure=watch.on_failure,
                retry_failed=order.retry_failed,
                batch=order.batch.batch,
                fallback_live=order.batch.fallback_live,
                watch=goes_on,
                poll=order.watch.poll,
                recheck=order.watch.recheck,
            )

        if order.watch.watch and order.create_index:
            # Over rows that are filled it takes a moment; each of them would leave it otherwise.
            first = await follow_job(partial(start, goes_on=False), embedder, plan, output)
            if first.error:
                return show_ending(first, output)
            await _index_empty_rows(column, output)
        once = partial(follow_job, start, embedder, plan, output, goes_on=order.watch.watch)
        ending = await order.batch.follow(once, embedder, column, output)
        code = show_ending(ending, output, batch=order.batch.batch)
        if code not in (OK, SOME_FAILED):
            await indexes.tell_missing()
        elif order.index or await indexes.are_missing():
            return await _index_column(column, order, output) or code
        return code


async def _announce_index_of_empty_rows(column: Column, order: BackfillOrder) -> list[str]:
    """Raises ConfigError where there is none."""
    if not order.create_index:
        return []
    if not isinstance(column, IndexesEmptyRows):
        raise ConfigError("--create-index is for PostgreSQL; leave it out")
    name = await column.index_of_empty_rows()
    return [f"index {name} of the rows without a vector"] if name else []


async def _index_empty_rows(column: Column, output: Output) -> None:
    if isinstance(column, IndexesEmptyRows):
        with _progress.show_building(quiet=output.quiet) as on_progress:
            await column.index_empty_rows(on_progress=on_progress)


async def _plan(order: BackfillOrder, column: Column, embedder: Embedder) -> Plan:
    """Every pending row is new, but for those that were refused: what an empty store would need."""
    empty, pending = MemoryStore(), Pending(column, order.limit, await column.space())
    await empty.write(Rows([], [], [], [], [], [], np.empty((0, 0), np.float32)), await column.refusals())
    async with _progress.show_reading(lambda: pending.count, quiet=order.output.quiet):
        return await embedder.plan(empty, pending, retry_failed=order.retry_failed)


async def _index_column(column: Column, order: BackfillOrder, output: Output) -> int:
    """Searches are fast from then on, and may be hybrid. An index that is there is left as it is. What fails here was
    paid for before."""
    output.note("building the index")
    memory = order.index_memory
    try:
        with _progress.show_building(quiet=output.quiet) as on_progress:
            if isinstance(column, SetsIndexesAside):
                await column.restore_indexes(memory=memory, on_progress=on_progress)
            if order.index and isinstance(column, Indexable):
                await column.create_index(memory=memory, on_progress=on_progress)
            if order.index and isinstance(column, IndexesWords):
                await _index_words(column, output, on_progress)
    except AembedError as error:
        say(f"the rows are filled, and the index is not built: {reason_in_words(error)}")
        say("run the same command again to build it; nothing is paid for twice")
        return STOPPED
    output.note("the index is built")
    return OK


async def _index_words(column: IndexesWords, output: Output, on_progress: OnBuild | None) -> None:
    """Beside the other index: where the words cannot be indexed, that one is there all the same."""
    try:
        await column.index_words(on_progress=on_progress)
    except ConfigError as error:
        if not isinstance(column, Indexable):
            raise
        output.note(f"no index of words for --hybrid: {reason_in_words(error)}")
