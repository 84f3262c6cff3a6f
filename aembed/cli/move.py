"""`aembed move`: the rows of a store to another name or address of their model."""

from __future__ import annotations

import typer

from aembed.cli import _flags as flags
from aembed.cli._again import Again
from aembed.cli._options import ModelFlags, check_server
from aembed.cli._run import OK, run
from aembed.cli._show import place
from aembed.cli._stores import check_filled, opened
from aembed.cli._streams import tell
from aembed.results import counted


@flags.spread
def move(
    context: typer.Context,
    *,
    store: flags.StoreURL = flags.DEFAULT_STORE,
    model: ModelFlags,
) -> None:
    """Take another name, or another address, for the model of a store's rows. Nothing is bought again.

    A few texts of the store are embedded anew, and have to have the vectors that they have there.
    """
    run(_move(store, model, Again(context)))


async def _move(url: str, settings: ModelFlags, again: Again) -> int:
    async with opened(url) as store:
        info = await store.info()
        check_filled(url, info)
        # An address that is named here is the new one.
        embedder = settings.embedder(info.space)
        if settings.base_url is None:
            check_server(embedder, info.space, again)
        async with embedder:
            similarity = await embedder.move(store)
        held = (await store.info()).space
    rows = f"{counted(info.rows, 'row')} of {place(url)}"
    tell(f"{rows} {'is' if info.rows == 1 else 'are'} of {held} now (least cosine similarity {similarity:.5f})")
    return OK
