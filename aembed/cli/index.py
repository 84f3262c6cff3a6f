"""`aembed index`: files, folders or another store into a store."""

from __future__ import annotations

import os
import shlex
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from aembed.cli import _flags as flags
from aembed.cli import _progress
from aembed.cli._batch import BatchFlags
from aembed.cli._failures_file import check_failures_file, is_same_file
from aembed.cli._inputs import Inputs, Pass, as_stored, is_store
from aembed.cli._job import Ending, Output, Watch, ask_to_agree, follow_job, show_ending, show_plan
from aembed.cli._memory import FileMemory
from aembed.cli._options import Settings
from aembed.cli._run import USAGE, interrupt_at_once, reason_in_words, run
from aembed.cli._show import printable_place
from aembed.cli._skipped import skipped_in_words
from aembed.cli._stale import find_gone, remove_gone
from aembed.cli._stores import refuse_other_space, use_embedder, use_store
from aembed.cli._streams import printable_line, say
from aembed.cli._typed_command import TypedCommand
from aembed.embedder import Embedder
from aembed.errors import ConfigError, SpaceMismatchError, StoreError
from aembed.protocols import RemembersFiles, Store
from aembed.results import Failure, Plan, Report
from aembed.sources import open_paths
from aembed.stores import files_of
from aembed.types import StoreInfo


@dataclass(frozen=True, kw_only=True)
class IndexOrder:
    """What is to be done, but for the model."""

    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, show_default=False, help="Read the first N texts only; nothing is removed."),
    ] = None
    dry_run: flags.DryRun = False
    yes: flags.Yes = False
    keep_stale: Annotated[
        bool, typer.Option("--keep-stale", help="Keep the rows of sections and files that are gone.")
    ] = False
    retry_failed: flags.RetryFailed = False
    reread: Annotated[
        bool, typer.Option("--reread", help="Read all files, also those that have not changed since the last run.")
    ] = False
    id_field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default=False, help="Tables: the field of the id. Default: id, else file and line."
        ),
    ] = None
    text_field: Annotated[str, typer.Option(metavar="NAME", help="Tables: the field of the text.")] = "text"
    metadata_fields: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME,...", show_default=False, help="Tables: fields to keep. Default: all others."),
    ] = None
    delimiter: Annotated[
        str | None,
        typer.Option(metavar="CHAR", show_default=False, help="CSV: what separates fields. Default: as in the header."),
    ] = None
    paths: tuple[str, ...] = ()
    store: str = flags.DEFAULT_STORE
    batch: BatchFlags = field(default_factory=BatchFlags)
    output: Output = field(default_factory=Output)


@flags.spread
def index(
    context: typer.Context,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Files, folders, '-' for JSON Lines, or another store's URL.")
    ],
    *,
    store: flags.StoreURL = flags.DEFAULT_STORE,
    settings: Settings,
    order: IndexOrder,
    batch: BatchFlags,
    output: Output,
) -> None:
    """Embed the texts that the store does not have yet, and remove those that are gone.

    Run it again and unchanged texts cost nothing; stop it at any time and nothing that was paid for is lost.
    """
    order = replace(order, paths=tuple(paths), store=store, batch=batch, output=output)
    run(_run_index(order, settings, TypedCommand(context)))


async def _run_index(order: IndexOrder, settings: Settings, again: TypedCommand) -> int:
    try:
        return await _embed_inputs(order, settings, again)
    except SpaceMismatchError as error:
        raise again.with_whole_commands(error) from error.__cause__


async def _embed_inputs(order: IndexOrder, settings: Settings, again: TypedCommand) -> int:
    order.batch.check()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(use_store(order.store))
        info = await store.info()
        other = await _find_other_store(order, stack)
        # Where nothing else says which model: rows of another store keep theirs, and with it their vectors.
        held = info.space or (other.space if other and settings.model is None else None)
        embedder = await stack.enter_async_context(use_embedder(settings, held, again))
        await refuse_other_space(store, info.space, embedder.space)
        if order.batch.cancel:
            return await order.batch.cancel_all(embedder, store)
        inputs = other or _find_inputs(order, info)
        _check_files(order, inputs)
        order.output.note(
            f"{', '.join(map(printable_place, order.paths))} -> {printable_place(order.store)}, {embedder.space}"
        )
        work = _Work(order, store, info, embedder, inputs, await _recall_files(order, store, info, inputs))
        plan, reading = await work.plan()
        skipped = reading.skipped_counts
        output = replace(order.output, skipped=skipped)
        if order.dry_run:
            limits = (settings.requests_per_minute, settings.tokens_per_minute)
            seconds = plan.seconds_at(requests_per_minute=limits[0], tokens_per_minute=limits[1])
            code = show_plan(plan, seconds, output, order.batch.terms_lines(plan, embedder))
        elif ask_to_agree(plan, yes=order.yes):
            await order.batch.check_size(plan, embedder, store, yes=order.yes)
            ending = await order.batch.follow(partial(work.run_second_pass, plan, reading), embedder, store, output)
            if isinstance(ending.error, SpaceMismatchError):
                ending = replace(ending, error=again.with_whole_commands(ending.error))
            code = show_ending(ending, output, batch=order.batch.batch)
        else:
            return USAGE
        if skipped:
            output.note(skipped_in_words(skipped))
        return code


def _find_inputs(order: IndexOrder, info: StoreInfo) -> Inputs:
    """Raises ConfigError for a PATH that is missing, or that holds nothing to read and never did."""
    # Raises ConfigError for a PATH that is not there though the store has rows of it: they are not removed unasked.
    for path in order.paths:
        root = Path(os.path.abspath(path)).as_posix()
        if path != "-" and not os.path.exists(path) and root in info.sources:
            command = shlex.join(["aembed", "remove", "--store", printable_place(order.store), "--source", root])
            raise ConfigError(
                f"{root} does not exist; what was indexed from it is kept: correct the path, "
                f"or remove them:  {printable_line(command)}"
            )
    fields = order.metadata_fields
    with interrupt_at_once():
        source = open_paths(
            order.paths,
            id_field=order.id_field,
            text_field=order.text_field,
            metadata_fields=None if fields is None else [name for each in fields for name in each.split(",") if name],
            delimiter=order.delimiter,
            held=() if order.keep_stale else info.sources.keys(),
        )
    return Inputs(source, order.limit)


async def _recall_files(order: IndexOrder, store: Store, info: StoreInfo, inputs: Inputs) -> FileMemory | None:
    """What the store remembers of the files. Not where a part of them is read, of which nothing can be said."""
    if order.limit or not isinstance(store, RemembersFiles):
        return None
    try:
        return await FileMemory.load(store, inputs.roots, info.sources, reread=order.reread)
    except StoreError as error:
        say(f"all files are read: {reason_in_words(error)}")
        return None


async def _find_other_store(order: IndexOrder, stack: AsyncExitStack) -> Inputs | None:
    """The rows of another store, where one is named. Raises ConfigError for one that holds none."""
    if not any(map(is_store, order.paths)):
        return None
    if len(order.paths) > 1:
        raise ConfigError("another store is read alone; index the other PATHs in a command of their own")
    old = await stack.enter_async_context(use_store(order.paths[0]))
    read = await old.info()
    if not read.rows:
        raise ConfigError(
            f"{printable_place(order.paths[0])} holds no rows of aembed; for a table of your own:  aembed "
            "backfill --help"
        )
    return Inputs(old, order.limit, files_of(order.paths[0]), read.space)


def _check_files(order: IndexOrder, inputs: Inputs) -> None:
    """Raises ConfigError where a file that is read, or the store itself, would be written over."""
    kept = files_of(order.store)
    for path in inputs.files_like(kept[0]) if kept else ():
        if is_same_file(kept[0], path):
            raise ConfigError(
                f"{printable_place(order.store)} is read by this command; name another store with --store"
            )
    if named := order.output.failures_to:
        check_failures_file(named, (*kept, *inputs.files_like(named)), is_read=inputs.may_read)


@dataclass(frozen=True, slots=True)
class _Work:
    order: IndexOrder
    store: Store
    info: StoreInfo
    embedder: Embedder
    inputs: Inputs
    memory: FileMemory | None

    async def plan(self) -> tuple[Plan, Pass]:
        """The first pass: sends and writes nothing. Returns what was read, too.

        Raises ConfigError where two rows of one file have one id. Where two files have it they are read once more, told
        apart by their names.
        """
        again = True
        while again:
            reading = self._read()
            async with _progress.show_reading(lambda: reading.count, quiet=self.order.output.quiet):  # noqa: B023
                plan = await self.embedder.plan(self.store, reading, retry_failed=self.order.retry_failed)
                again = await reading.check_ids()
        if self.order.dry_run:
            whole, is_done = reading.whole_roots, finds_nothing(plan)
            held = {
                root: rows
                for root, rows in self._rows_by_path.items()
                if root in whole and not (is_done and reading.has_all_rows(root, self.info.sources))
            }
            gone = await find_gone(self.store, held, reading)
            plan = replace(plan, stale=tuple(id for each in gone for id in each.ids))
        return plan, reading

    def _read(self) -> Pass:
        keep_ids = bool(self._rows_by_path) and not isinstance(self.store, RemembersFiles)
        return Pass(self.inputs, self.memory, keep_ids=keep_ids)

    async def run_second_pass(self, plan: Plan, planned: Pass) -> Ending:
        """The job. Where the plan has found nothing to do, nothing is read again."""
        is_done = finds_nothing(plan)
        reading = planned if is_done else self._read()
        if self.memory and not is_done:
            await self.memory.begin()

        async def start(watch: Watch) -> Report:
            def on_failure(failure: Failure) -> None:
                reading.note_failure(failure)
                watch.on_failure(failure)

            return await self.embedder.embed_into(
                self.store,
                as_stored(plan.inputs) if is_done else reading,
                on_progress=watch.on_progress,
                on_failure=on_failure,
                retry_failed=self.order.retry_failed,
                batch=self.order.batch.batch,
                fallback_live=self.order.batch.fallback_live,
            )

        ending = await follow_job(start, self.embedder, plan, self.order.output)
        if ending.error or not isinstance(ending.progress, Report):
            return ending
        return replace(ending, progress=await self._settle(reading, ending.progress))

    async def _settle(self, reading: Pass, report: Report) -> Report:
        """Removes rows that are gone, and remembers what was read."""
        rows = dict((await self.store.info()).sources)
        if self._rows_by_path:
            more = {root: held for root, held in self._rows_by_path.items() if not reading.has_all_rows(root, rows)}
            gone = await find_gone(self.store, more, reading)
            removed = await remove_gone(self.store, gone, whole=reading.whole_roots, yes=self.order.yes)
            if removed:
                report = replace(report, removed=removed)
                await self.store.finish(report)
                rows = dict((await self.store.info()).sources)
        if not (report.pending or report.submitted):
            try:
                await reading.keep(rows)
            except StoreError as error:  # all is stored, and the next run reads it again
                say(f"which files were read cannot be remembered: {reason_in_words(error)}")
        return report

    @property
    def _rows_by_path(self) -> dict[str, int]:
        """How many rows each of the PATHs had before, where rows that are gone are to be removed."""
        roots = () if self.order.keep_stale or self.order.limit else self.inputs.roots
        return {root: self.info.sources[root] for root in roots if root in self.info.sources}


def finds_nothing(plan: Plan) -> bool:
    """Whether all that was read is in the store as it is."""
    return not (plan.new or plan.changed or plan.failed)
