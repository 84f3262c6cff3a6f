"""`aembed remove`: rows that are wanted no more, by their source or their id."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from aembed.cli import _flags as flags
from aembed.cli._run import OK, USAGE, ask, is_interactive, run
from aembed.cli._show import printable_place, tell_json
from aembed.cli._stores import use_store
from aembed.cli._streams import say, tell
from aembed.errors import ConfigError
from aembed.protocols import Store
from aembed.results import count_in_words

# Chosen: enough to see how sources are written, in a message that can be read.
MOST_LISTED = 10


def remove(
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", show_default=False, help="All rows of this file or folder, as status lists it."),
    ] = None,
    id: Annotated[list[str] | None, typer.Option("--id", metavar="ID", show_default=False, help="One row.")] = None,
    store: flags.StoreURL = flags.DEFAULT_STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Remove nothing; say what would be removed.")] = False,
    yes: flags.Yes = False,
    as_json: flags.AsJSON = False,
) -> None:
    """Remove rows from a store, with their texts and vectors. Rows of a table of your own are removed by SQL."""
    if not source and not id:
        raise ConfigError("name what is to be removed:  --source PATH  or  --id ID")
    run(_remove(store, tuple(source or ()), tuple(id or ()), dry_run, yes, as_json))


async def _remove(
    url: str, sources: tuple[str, ...], ids: tuple[str, ...], dry_run: bool, yes: bool, as_json: bool
) -> int:
    async with use_store(url) as store:
        if (await store.info()).space is None:
            raise ConfigError(f"{printable_place(url)} holds no rows yet; name another with --store")
        found = [*dict.fromkeys([*await _rows_of_sources(store, sources), *ids])]
        if dry_run:
            _tell(len(found), "would be removed", as_json)
            return OK
        if sources and not yes and is_interactive() and not ask(f"Remove {count_in_words(len(found), 'row')}?"):
            say("nothing was removed")
            return USAGE
        removed = await store.delete(found)
    if absent := len(found) - removed:
        say(f"{count_in_words(absent, 'id')} had no row")
    _tell(removed, "removed", as_json)
    return OK


async def _rows_of_sources(store: Store, sources: tuple[str, ...]) -> list[str]:
    """Raises ConfigError for a source that the store does not have."""
    held = (await store.info()).sources
    ids: list[str] = []
    for source in sources:
        name = source if source in held else _absolute_root(source)
        if name not in held:
            listed = ", ".join(sorted(held)[:MOST_LISTED]) or "none"
            raise ConfigError(f"the store has no rows of the source {source!r}; it has rows of: {listed}")
        ids += await store.stale(name, frozenset())
    return ids


def _absolute_root(path: str) -> str:
    return Path(os.path.abspath(path)).as_posix()


def _tell(rows: int, what: str, as_json: bool) -> None:
    if as_json:
        tell_json({what.replace(" ", "_"): rows})
    else:
        tell(f"{count_in_words(rows, 'row')} {what}")
