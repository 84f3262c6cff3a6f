"""A coordinator on virtual time: what stands in it outlives its workers, it may be away, and its clock may be set."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TypeVar

from aembed import Embedder, StoreError
from aembed.stores._coordinators import Change

T = TypeVar("T")


@dataclass
class Database:
    """`seconds` is what each exchange takes, half of it on either way."""

    states: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0.002
    clock: float = 1_000_000.0
    """What its clock shows at the loop's time 0."""
    is_away: bool = False
    asked: int = 0


@dataclass(eq=False)
class VirtualCoordinator:
    """One worker's connection to it. Nothing of a worker that `is_dead` arrives there any more."""

    database: Database
    is_dead: bool = False

    async def prepare(self) -> bytes:
        self._check()
        return b"salt"

    def _check(self) -> None:
        if self.database.is_away or self.is_dead:
            raise StoreError("the database cannot be reached")

    async def exchange(self, name: str, change: Change[T], *, durable: bool) -> T:
        database = self.database
        database.asked += 1
        await asyncio.sleep(database.seconds / 2)
        self._check()
        state, result = change(database.states.get(name), database.clock + asyncio.get_running_loop().time())
        database.states[name] = state
        await asyncio.sleep(database.seconds / 2)
        return result

    async def aclose(self) -> None:
        pass


def coordinate(embedder: Embedder, database: Database) -> VirtualCoordinator:
    """An Embedder that was made with `coordinator=` asks that database instead."""
    coordination = embedder._engine._coordination
    assert coordination is not None
    coordination._coordinator = connection = VirtualCoordinator(database)
    return connection
