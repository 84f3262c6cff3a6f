"""`aembed failures`: the texts that were refused."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

import typer

from aembed.cli import _flags as flags
from aembed.cli._options import ColumnFlags, RowFlags
from aembed.cli._run import OK, run
from aembed.cli._show import failure_json, tell_json
from aembed.cli._stores import check_filled, use_column, use_store
from aembed.cli._streams import printable_line, say, tell
from aembed.cli._typed_command import TypedCommand
from aembed.types import Refusal

RETRY = "--retry-failed"


@flags.spread
def failures(
    context: typer.Context,
    *,
    store: flags.StoreURL = flags.DEFAULT_STORE,
    column: RowFlags,
    as_json: flags.AsJSON = False,
) -> None:
    """List the texts that were refused and are skipped until they change: id, error, message."""
    names = column.named()
    run(_print_failures(store, names, as_json, TypedCommand(context)))


async def _print_failures(url: str, names: ColumnFlags | None, as_json: bool, again: TypedCommand) -> int:
    refusals: Sequence[Refusal]
    sources: list[str] = []
    if names:
        async with use_column(url, names) as column:
            refusals = await column.refusals()
    else:
        async with use_store(url) as store:
            info = await store.info()
            refusals = await store.refusals()
        if not info.last_run and not refusals:
            check_filled(url, info)
        # The PATHs that are still there, of which the store was filled.
        sources = list(filter(os.path.exists, sorted(info.sources)))
    if as_json:
        tell_json({"failures": [failure_json(refusal) for refusal in refusals]})
        return OK
    for refusal in refusals:
        tell(f"{printable_line(refusal.id)}  {refusal.error}: {printable_line(refusal.message)}")
    given = again.words(without=("as_json",))
    if not refusals:
        say("no failures")
    elif names:
        say(f"{len(refusals):,} refused; to try them again:  {shlex.join(['aembed', 'backfill', *given, RETRY])}")
    elif sources:
        say(
            f"{len(refusals):,} refused; to try them again:  {shlex.join(['aembed', 'index', *sources, *given, RETRY])}"
        )
    else:
        say(f"{len(refusals):,} refused; what filled the store tries them again with {RETRY} (retry_failed=True)")
    return OK
