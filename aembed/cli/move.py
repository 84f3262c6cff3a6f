"""`aembed move`: the rows of a store, or of a column, to another name or address of their model."""

from __future__ import annotations

import typer

from aembed.cli import _options as flags
from aembed.cli._again import Again
from aembed.cli._options import ColumnNames, Settings, check_server, column_names
from aembed.cli._run import OK, run
from aembed.cli._show import place
from aembed.cli._stores import check_filled, opened, opened_column
from aembed.cli._streams import printable, tell
from aembed.protocols import Store
from aembed.results import counted
from aembed.stores import Column
from aembed.types import Space


def move(
    context: typer.Context,
    store: flags.StoreURL = flags.DEFAULT_STORE,
    table: flags.Table = None,
    text: flags.TextColumn = None,
    text_sql: flags.TextSQL = None,
    vector: flags.VectorColumn = "embedding",
    key: flags.KeyColumns = None,
    where: flags.Condition = None,
    fingerprint: flags.Fingerprint = None,
    model: flags.Model = None,
    base_url: flags.BaseURL = None,
    option: flags.ProviderOptions = None,
    dimensions: flags.Dimensions = None,
    timeout: flags.Timeout = 60.0,
) -> None:
    """Take another name, or another address, for the model of a store's rows. Nothing is bought again.

    A few texts of the store are embedded anew, and have to have the vectors that they have there. With --table the same
    of a column of a table of your own.
    """
    settings = Settings(model, base_url, dimensions, timeout=timeout, options=tuple(option or ()))
    names = column_names(table, text, text_sql, vector, key, where, fingerprint)
    again = Again(context)
    run(_move_column(store, names, settings, again) if names else _move(store, settings, again))


async def _move(url: str, settings: Settings, again: Again) -> int:
    async with opened(url) as store:
        info = await store.info()
        check_filled(url, info)
        similarity = await _moved(store, info.space, settings, again)
        held = (await store.info()).space
    rows = f"{counted(info.rows, 'row')} of {place(url)}"
    tell(f"{rows} {'is' if info.rows == 1 else 'are'} of {held} now (least cosine similarity {similarity:.5f})")
    return OK


async def _move_column(url: str, names: ColumnNames, settings: Settings, again: Again) -> int:
    async with opened_column(url, names) as column:
        similarity = await _moved(column, await column.space(), settings, again)
        held = await column.space()
    name = printable(f"{names.table}.{names.vector}")
    tell(f"{name} of {place(url)} is of {held} now (least cosine similarity {similarity:.5f})")
    return OK


async def _moved(store: Store | Column, held: Space | None, settings: Settings, again: Again) -> float:
    # An address that is named here is the new one.
    embedder = settings.embedder(held)
    if settings.base_url is None:
        check_server(embedder, held, again)
    async with embedder:
        return await embedder.move(store)
