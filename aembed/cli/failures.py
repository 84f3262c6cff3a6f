"""`aembed failures`: the texts that were refused."""

from __future__ import annotations

from collections.abc import Sequence

from aembed.cli import _options as flags
from aembed.cli._options import ColumnNames
from aembed.cli._run import OK, run
from aembed.cli._show import failure_json, tell_json
from aembed.cli._stores import check_filled, opened, opened_column
from aembed.cli._streams import printable, say, tell
from aembed.types import Refusal


def failures(
    store: flags.StoreURL = flags.DEFAULT_STORE,
    table: flags.Table = None,
    text: flags.TextColumn = None,
    text_sql: flags.TextSQL = None,
    vector: flags.VectorColumn = "embedding",
    key: flags.KeyColumns = None,
    as_json: flags.AsJSON = False,
) -> None:
    """List the texts that were refused and are skipped until they change: id, error, message."""
    names = ColumnNames(table, text, text_sql, vector, tuple(key or ())) if table else None
    run(_failures(store, names, as_json))


async def _failures(url: str, names: ColumnNames | None, as_json: bool) -> int:
    refusals = await (_of_column(url, names) if names else _of_store(url))
    if as_json:
        tell_json({"failures": [failure_json(refusal) for refusal in refusals]})
        return OK
    for refusal in refusals:
        tell(f"{printable(refusal.id)}  {refusal.error}: {printable(refusal.message)}")
    command = "backfill" if names else "index"
    say(f"{len(refusals):,} refused; aembed {command} --retry-failed tries them again" if refusals else "no failures")
    return OK


async def _of_column(url: str, names: ColumnNames) -> Sequence[Refusal]:
    async with opened_column(url, names) as column:
        return await column.refusals()


async def _of_store(url: str) -> Sequence[Refusal]:
    async with opened(url) as store:
        info = await store.info()
        refusals = await store.refusals()
    if not info.last_run and not refusals:
        check_filled(url, info)
    return refusals
