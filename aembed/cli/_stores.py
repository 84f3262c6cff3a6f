"""The store, or the column of a table, that a command works on."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from aembed.cli._options import ColumnFlags, ModelFlags, check_server
from aembed.cli._show import printable_place
from aembed.cli._typed_command import TypedCommand, printable_url
from aembed.core.spaces import merge_spaces
from aembed.embedder import Embedder
from aembed.errors import ConfigError
from aembed.protocols import Store
from aembed.stores import Column, open_store
from aembed.types import Space, StoreInfo


@asynccontextmanager
async def use_store(url: str) -> AsyncIterator[Store]:
    store = open_store(url)
    try:
        yield store
    finally:
        # A command that was cancelled still gives back what it holds: leases, connections, the lock of a file.
        with anyio.CancelScope(shield=True):
            await store.aclose()


@asynccontextmanager
async def use_column(url: str, names: ColumnFlags) -> AsyncIterator[Column]:
    column = names.open(url)
    try:
        yield column
    finally:
        with anyio.CancelScope(shield=True):
            await column.aclose()


@asynccontextmanager
async def use_embedder(settings: ModelFlags, held: Space | None, again: TypedCommand) -> AsyncIterator[Embedder]:
    """One that fits a store which holds this space."""
    async with settings.embedder(held) as embedder:
        if not settings.base_url:
            check_server(embedder, held, again)
        yield embedder


async def refuse_other_space(store: Store, held: Space | None, asked: Space) -> None:
    """Raises the store's own SpaceMismatchError, before anything is read. Writes nothing."""
    if held and merge_spaces(held, asked) is None:
        await store.prepare(asked)


def check_filled(url: str, info: StoreInfo) -> None:
    """Raises ConfigError for a store that is not there."""
    if info.space is None:
        raise ConfigError(
            f"{printable_place(url)} holds no rows yet; name another with --store, or fill it:  "
            f"aembed index PATH --store {shlex.quote(printable_url(url))}"
        )
