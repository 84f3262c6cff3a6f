"""`aembed move`: the rows of a store, or of a column, to another name or address of their model."""

from __future__ import annotations

import typer

from aembed.cli import _flags as flags
from aembed.cli._options import ModelFlags, RowFlags
from aembed.cli._run import OK, run
from aembed.cli._show import printable_place
from aembed.cli._stores import check_filled, use_column, use_embedder, use_store
from aembed.cli._streams import printable_line, tell
from aembed.cli._typed_command import TypedCommand
from aembed.results import count_in_words


@flags.spread
def move(
    context: typer.Context,
    *,
    store: flags.StoreURL = flags.DEFAULT_STORE,
    column: RowFlags,
    model: ModelFlags,
) -> None:
    """Take another name, or another address, for the model of a store's rows. Nothing is bought again.

    A few texts of the store are embedded anew, and have to have the vectors that they have there. With --table the same
    of a column of a table of your own.
    """
    names, again = column.named(), TypedCommand(context)
    run(_move_column(store, names, model, again) if names else _move(store, model, again))


async def _move(url: str, settings: ModelFlags, again: TypedCommand) -> int:
    async with use_store(url) as store:
        info = await store.info()
        check_filled(url, info)
        async with use_embedder(settings, info.space, again) as embedder:
            similarity = await embedder.move(store)
        held = (await store.info()).space
    rows = f"{count_in_words(info.rows, 'row')} of {printable_place(url)}"
    tell(f"{rows} {'is' if info.rows == 1 else 'are'} of {held} now (least cosine similarity {similarity:.5f})")
    return OK


async def _move_column(url: str, names: RowFlags, settings: ModelFlags, again: TypedCommand) -> int:
    async with use_column(url, names) as column:
        async with use_embedder(settings, await column.space(), again) as embedder:
            similarity = await embedder.move(column)
        held = await column.space()
    name = printable_line(names.name)
    tell(f"{name} of {printable_place(url)} is of {held} now (least cosine similarity {similarity:.5f})")
    return OK
