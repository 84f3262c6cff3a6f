"""This module looks for texts that another job is about to send, until they are written or may be sent from here."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import anyio
import numpy as np

from aembed.core.changes import Item, Key
from aembed.pipeline.batches import Batches
from aembed.pipeline.outcomes import Outcomes
from aembed.pipeline.sinks import Sink

# Chosen: a request takes 0.1 to 6 s, so its texts are looked for soon, and then more seldom. More looks are more
# queries to the store; fewer let a finished job wait for a second.
LEAST_PAUSE, MOST_PAUSE = 0.05, 1.0
"""Seconds between two looks into the store: after something was found, and at the most."""
# Law 8: memory is bounded by the work in flight. Chosen: two full requests of OpenAI (2,048 texts each).
MOST_WAITING = 4_096
"""While more texts than this are waited for, nothing further is read."""


class Elsewhere:
    """The texts of this job that other jobs on the same store have leased."""

    def __init__(self, sink: Sink, outcomes: Outcomes, batches: Batches) -> None:
        self._sink = sink
        self._outcomes = outcomes
        self._batches = batches
        self._items: dict[Key, Item] = {}
        self._ended = False
        self._changed = anyio.Event()

    async def sift(self, items: Mapping[Key, Item]) -> Collection[Item]:
        """The items that are to be sent from here; the others are waited for. It waits while those are too many."""
        if not self._sink.leases or not items:
            return items.values()
        leased = await self._sink.lease([item.entry for item in items.values()])
        self._items.update((key, item) for key, item in items.items() if key not in leased)
        self._notify()
        self._batches.hurried = len(self._items) > MOST_WAITING
        while len(self._items) > MOST_WAITING:
            await self._changed.wait()
        self._batches.hurried = False
        return [item for key, item in items.items() if key in leased]

    async def ended(self) -> None:
        """Says that nothing more comes, and returns once nothing is waited for any more."""
        self._ended = self._batches.hurried = True
        self._notify()
        while self._items:
            await self._changed.wait()

    async def watch(self) -> None:
        """Looks for the texts again and again until all of them are settled, and nothing more comes."""
        pause = LEAST_PAUSE
        while not self._ended or self._items:
            if not self._items:
                await self._changed.wait()
                continue
            await anyio.sleep(pause)
            before = len(self._items)
            await self._look()
            pause = LEAST_PAUSE if len(self._items) < before else min(2 * pause, MOST_PAUSE)

    async def _look(self) -> None:
        """Looks once: what was written or refused elsewhere is taken over, and what nobody holds any more is sent."""
        items = list(self._items.values())
        entries = [item.entry for item in items]
        paid, known = await self._sink.paid(entries), await self._sink.known(entries)
        found = [item for item in items if item.entry.key in paid]
        refused = [item for item in items if item.entry.key not in paid and item.entry.record.id in known.refused]
        if found:
            await self._outcomes.found_items(found, np.stack([paid[item.entry.key] for item in found]), known)
        for item in refused:
            await self._outcomes.refused_elsewhere(item, known.refused[item.entry.record.id])
        settled = {item.entry.key for item in (*found, *refused)}
        leased = await self._sink.lease([entry for entry in entries if entry.key not in settled])
        free = [item for item in items if item.entry.key in leased]
        for key in [key for key in self._items if key in settled or key in leased]:
            del self._items[key]
        await self._outcomes.tell()
        if free:
            await self._batches.offer(free)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
