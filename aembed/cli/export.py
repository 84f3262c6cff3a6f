"""`aembed export`: the rows of a store, or of a table of your own, and their vectors in a file."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Annotated, Any

import typer

from aembed.cli import _flags as flags
from aembed.cli._export_files import Exported, write_jsonl, write_npz, write_parquet, written_beside
from aembed.cli._failures_file import is_same_file
from aembed.cli._options import ColumnFlags
from aembed.cli._progress import show_reading
from aembed.cli._run import OK, STOPPED, run
from aembed.cli._show import printable_place, size_in_words, tell_json
from aembed.cli._stores import check_filled, use_column, use_store
from aembed.cli._streams import printable_line, say, tell
from aembed.cli._where import parse_filters
from aembed.errors import ConfigError
from aembed.protocols import ReadsRows
from aembed.results import count_in_words
from aembed.stores import files_of
from aembed.stores._arrow import import_pyarrow

FORMATS = (".parquet", ".npz", ".jsonl")


@flags.spread
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A file that ends in .parquet, .npz or .jsonl.")],
    *,
    where: flags.Where = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT where it is there.")] = False,
    store: flags.StoreURL = flags.DEFAULT_STORE,
    column: ColumnFlags,
    as_json: flags.AsJSON = False,
    quiet: flags.Quiet = False,
) -> None:
    """Write rows and vectors to a file, in no certain order; of a table of your own, those that are filled."""
    filters = parse_filters(where or [])
    run(_export(out, store, column.named(), filters, overwrite, as_json, quiet))


async def _export(
    out: Path,
    url: str,
    names: ColumnFlags | None,
    filters: Sequence[dict[str, Any]],
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    _check_out(out, url, overwrite)
    async with AsyncExitStack() as stack:
        opened: Any
        if names:
            opened = await stack.enter_async_context(use_column(url, names))
        else:
            opened = await stack.enter_async_context(use_store(url))
            check_filled(url, await opened.info())
        exported = Exported()
        await stack.enter_async_context(show_reading(lambda: exported.rows, quiet=quiet))
        try:
            with written_beside(out) as beside:
                await _write(out, beside, opened, filters, exported)
                if not exported.rows:
                    place = f"{names.name} in {printable_place(url)}" if names else printable_place(url)
                    raise ConfigError(f"{place} holds no vectors{' of such rows' if filters[0] else ''}")
        except OSError as error:
            # pyarrow's own words are longer.
            reason = os.strerror(error.errno) if error.errno else str(error).partition("\n")[0]
            say(f"error: {printable_line(out)} cannot be written: {printable_line(reason)}; nothing was exported")
            return STOPPED
    size_bytes = os.stat(out).st_size
    if as_json:
        tell_json({"file": str(out), "rows": exported.rows, "dimensions": exported.dimensions, "bytes": size_bytes})
    else:
        rows, width = count_in_words(exported.rows, "row"), f"{exported.dimensions:,} dimensions"
        tell(f"{printable_line(out)}: {rows}, {width}, {size_in_words(size_bytes)}")
    return OK


def _check_out(out: Path, url: str, overwrite: bool) -> None:
    """Raises ConfigError unless the file can be written and nothing else is lost by it."""
    name = printable_line(out)
    if out.suffix not in FORMATS:
        raise ConfigError(f"{name}: an export ends in {', '.join(FORMATS)}; name the file so")
    if out.suffix == ".parquet":
        import_pyarrow("an export to .parquet")
    try:
        held = os.stat(out)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no name of a file"
        raise ConfigError(f"{name} cannot be written: {reason}; name another file") from None
    if not stat.S_ISREG(held.st_mode):
        raise ConfigError(f"{name} is no file that could be replaced; name another")
    if any(is_same_file(out, other) for other in files_of(url)):
        raise ConfigError(f"{name} is the store itself; name another file")
    if not overwrite:
        raise ConfigError(f"{name} is there already; name another file, or replace it with --overwrite")


async def _write(
    out: Path, beside: Path, opened: ReadsRows, filters: Sequence[dict[str, Any]], exported: Exported
) -> None:
    if out.suffix == ".parquet":
        async with aclosing(_of_each(opened.to_arrow, filters, lambda batch: batch["id"].to_pylist())) as batches:
            picked = (batch if all(mask) else batch.filter(mask) async for batch, mask in batches)
            await write_parquet(beside, picked, exported)
    else:
        write = write_npz if out.suffix == ".npz" else write_jsonl
        async with aclosing(_of_each(opened.rows, filters, lambda row: [row.id])) as rows:
            await write(beside, (row async for row, mask in rows if all(mask)), exported)


async def _of_each(
    read: Callable[[Any], Any],
    filters: Sequence[dict[str, Any]],
    ids_of: Callable[[Any], list[str]],
) -> AsyncGenerator[tuple[Any, list[bool]], None]:
    """What passes any of the filters, which are the ways of reading one, and which of its ids come for the first time.
    A filter that a column's type forbids is left out.
    """
    refused: list[ConfigError] = []
    seen = set[str]()
    for where in filters:
        try:
            async with aclosing(read(where or None)) as found:
                async for each in found:
                    ids = ids_of(each) if len(filters) > 1 else []
                    yield each, [id not in seen for id in ids]
                    seen.update(ids)
        except ConfigError as error:
            refused.append(error)
    if len(refused) == len(filters):
        raise refused[0]
