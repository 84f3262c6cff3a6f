"""`aembed status`: what a store holds."""

from __future__ import annotations

import shlex
from dataclasses import asdict

from aembed.batch_protocols import KeepsBatches
from aembed.cli import _flags as flags
from aembed.cli._batch import record_in_words
from aembed.cli._options import ColumnFlags, RowFlags
from aembed.cli._run import OK, run
from aembed.cli._show import duration_in_words, printable_place, size_in_words, tell_json
from aembed.cli._stores import check_filled, use_column, use_store
from aembed.cli._streams import printable_line, tell
from aembed.cli._typed_command import printable_url
from aembed.core.batch_jobs import Stage
from aembed.pipeline.batch_jobs.books import read_records
from aembed.results import Progress, count_in_words
from aembed.stores import NotesChanges
from aembed.stores._indexes_there import SetsIndexesAside


@flags.spread
def status(
    *,
    store: flags.StoreURL = flags.DEFAULT_STORE,
    column: RowFlags,
    as_json: flags.AsJSON = False,
) -> None:
    """Print what a store holds: rows, model, size, failures, and how the last run ended.

    Of a table of your own: the rows that wait for their vector, the model, and the failures.
    """
    names = column.named()
    run(_print_column_status(store, names, as_json) if names else _print_status(store, as_json))


async def _print_status(url: str, as_json: bool) -> int:
    async with use_store(url) as store:
        info = await store.info()
        batches = await _batch_lines(store)
    if not info.last_run:
        check_filled(url, info)
    if as_json:
        tell_json({"store": printable_place(url), **asdict(info), "batches": batches})
        return OK
    tell(f"store     {printable_place(url)}")
    tell(f"rows      {info.rows:,}")
    tell(f"model     {printable_line(info.space or 'none yet')}")
    tell(f"size      {size_in_words(info.size_bytes)}")
    named = () if url == flags.DEFAULT_STORE else ("--store", printable_url(url))
    hint = f"  ({printable_line(shlex.join(['aembed', 'failures', *named]))} lists them)" if info.failures else ""
    tell(f"failures  {info.failures:,}{hint}")
    for number, (source, rows) in enumerate(sorted(info.sources.items())):
        tell(f"{'' if number else 'sources':<10}{printable_line(source)}  {count_in_words(rows, 'row')}")
    if info.last_run:
        known = {name: value for name, value in info.last_run.items() if name in Progress.__dataclass_fields__}
        tell(f"last run  {printable_line(Progress(**known))}")
    for line in batches:
        tell(f"batch     {printable_line(line)}")
    return OK


async def _batch_lines(place: object) -> list[str]:
    """The batches that are out at a provider, with what they are called there."""
    if not isinstance(place, KeepsBatches):
        return []
    return [record_in_words(record) for record in await read_records(place) if record.stage is not Stage.DONE]


async def _print_column_status(url: str, names: ColumnFlags, as_json: bool) -> int:
    async with use_column(url, names) as column:
        pending, space, failures = await column.count(), await column.space(), len(await column.refusals())
        batches = await _batch_lines(column)
        aside = (await column.indexes_there()).aside if isinstance(column, SetsIndexesAside) else ()
        noted = await column.noted() if isinstance(column, NotesChanges) else None
    if as_json:
        held = asdict(space) if space else None
        tell_json(
            {
                "store": printable_place(url),
                "table": names.table,
                "column": names.vector,
                "pending": pending,
                "space": held,
                "failures": failures,
                "dropped_indexes": aside,
                "batches": batches,
                "noted": {"changes": noted[0], "oldest_seconds": noted[1]} if noted else None,
            }
        )
        return OK
    tell(f"column    {printable_line(names.table)}.{printable_line(names.vector)} of {printable_place(url)}")
    tell(f"pending   {pending:,}")
    tell(f"model     {printable_line(space or 'not known yet')}")
    tell(f"failures  {failures:,}")
    if noted:
        since = f", the first {duration_in_words(noted[1])} ago" if noted[0] else ""
        tell(f"noted     {count_in_words(noted[0], 'change')}{since}")
    for line in batches:
        tell(f"batch     {printable_line(line)}")
    for name in aside:
        tell(f"index     {printable_line(name)} was dropped and is not built yet; aembed backfill builds it at its end")
    return OK
