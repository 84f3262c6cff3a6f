"""Which engine works for a store: that of the Embedder's own model, or of the one that the store goes on with."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TypeAlias

import anyio

from aembed.core.spaces import differ_in_preparation, merge_spaces
from aembed.engine import Engine
from aembed.errors import SpaceMismatchError
from aembed.pipeline.store_calls import await_store
from aembed.protocols import Backlog, FollowsStores, Store
from aembed.stores import Column, open_store
from aembed.types import Space

AnyStore: TypeAlias = Store | str | os.PathLike[str]
NEW_STORE = "build a new store beside it: await embedder.embed_into(new_store, old_store)"


@dataclass(eq=False, repr=False)
class Engines:
    """The engines of one Embedder: its own, and that of each other model which a store went on with (FollowsStores)."""

    _own: Engine
    _followed: dict[str, Engine] = field(default_factory=dict)
    """By the name of the model."""

    def all(self) -> list[Engine]:
        return [self._own, *self._followed.values()]

    def engine_of(self, held: Space | None) -> Engine:
        """The Embedder's own, but where a store holds rows of another model that its provider has."""
        own = self._own
        other = own.provider.for_store(held) if held and isinstance(own.provider, FollowsStores) else None
        if held is None or other is None:
            return own
        own.check_open()
        if held.model not in self._followed:
            self._followed[held.model] = Engine(other, own.options)
        return self._followed[held.model]

    @asynccontextmanager
    async def run_verb_on(self, store: Store | Backlog) -> AsyncIterator[Engine]:
        """While a verb of many texts runs: the engine of the model that made the rows of that store."""
        with self._own.run_verb():
            held = None
            if isinstance(self._own.provider, FollowsStores):
                if isinstance(store, Store):
                    held = (await await_store(store.info())).space
                elif isinstance(store, Column):
                    held = await await_store(store.space())
            engine = self.engine_of(held)
            with nullcontext() if engine is self._own else engine.run_verb():
                yield engine

    @asynccontextmanager
    async def use_searched(
        self, store: AnyStore | Backlog
    ) -> AsyncIterator[tuple[Engine, Store | Backlog, Space | None]]:
        """The engine of its model, the store, and the space of its vectors; None while it is empty."""
        if isinstance(store, Backlog):
            held = await store.space() if isinstance(store, Column) else None
            engine = self.engine_of(held)
            yield engine, store, check_space(held, engine.space, "fill another column")
            return
        async with use_store(store) as opened:
            info = await opened.info()
            engine = self.engine_of(info.space)
            yield engine, opened, info.space and check_space(info.space, engine.space)


@asynccontextmanager
async def use_store(store: AnyStore) -> AsyncIterator[Store]:
    """A store given by its URL is closed again; one that the caller opened stays open."""
    if isinstance(store, Store):
        yield store
        return
    opened = open_store(store)
    try:
        yield opened
    finally:
        with anyio.CancelScope(shield=True):
            await opened.aclose()


def check_space(held: Space | None, asked: Space, way_out: str = NEW_STORE) -> Space:
    """The space of a store, or a column, that is only read."""
    space = merge_spaces(held, asked)
    if space is None:
        assert held is not None
        prepared = differ_in_preparation(held, asked)
        own = "leave out the options that prepare texts" if prepared else "use their own model"
        raise SpaceMismatchError(f"it holds vectors of {held}, asked for was {asked}; {own}, or {way_out}")
    return space
