"""This module looks for texts that another job is about to send, until they are written or may be sent from here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import anyio
import numpy as np

from aembed.core.changes import Item, Key
from aembed.core.packing import totals
from aembed.dispatch import Notice
from aembed.pipeline.batches import Batches
from aembed.pipeline.leasing import LOOK_SECONDS
from aembed.pipeline.outcomes import Outcomes
from aembed.pipeline.sinks import Sink

# Chosen: a request takes 0.1 to 6 s, so its texts are looked for soon, and then more seldom. More looks are more
# queries to the store; fewer let a finished job wait for a second.
LEAST_PAUSE, MOST_PAUSE = 0.05, 1.0
"""Seconds between two looks into the store: after something was found, and at the most."""
# A job that was alone looks for others once in LOOK_SECONDS; the pause is for the write with which it tells what it
# has.
TELLING_SECONDS = LOOK_SECONDS + LEAST_PAUSE
"""After so many seconds a job that was alone has told what it holds."""
# Chosen: two full requests of OpenAI (2,048 texts each).
MOST_WAITING = 4_096
"""So many texts may be waited for, or as many as a job may hold (`Batches.is_beyond_a_job`) where that is more: while
there are more, nothing further is read. Rows of a table that is read in passes come again instead: beyond what the
others hold there may be rows that nobody has."""
# Chosen: their vectors are 25 MB at 1,536 dimensions, and a store tells of so many in some tenths of a second.
MOST_LOOKED_UP = 4_096
"""Texts of one look; the others have their turn at the next ones."""


@dataclass(eq=False, repr=False)
class LeasedElsewhere:
    """The texts of this job that other jobs on the same store have leased."""

    _sink: Sink
    _outcomes: Outcomes
    _batches: Batches
    _items: dict[Key, Item] = field(default_factory=dict)
    _has_asked: bool = False
    _stopped: bool = False
    _changed: Notice = field(default_factory=Notice)

    async def sift(self, items: Mapping[Key, Item]) -> Collection[Item]:
        """The items that are to be sent from here; the others are waited for. It waits while those are too many."""
        if not items:
            return ()
        if not self._sink.leases:
            return await self._not_submitted([*items.values()])
        entries = [item.entry for item in items.values()]
        leased = await self._sink.lease(entries)
        if not leased and not self._sink.whole and not self._has_asked:
            # Whoever was alone until now has still to tell what he holds: the rest is free.
            await anyio.sleep(TELLING_SECONDS)
            leased = await self._sink.lease(entries)
        self._has_asked = True
        others = [item for key, item in items.items() if key not in leased]
        room = len(others) if self._sink.whole else max(0, MOST_WAITING - len(self._items))
        self._items.update((item.entry.key, item) for item in others[:room])
        for item in others[room:]:
            left: Item | None = item
            while left is not None:
                left = self._outcomes.leave_pending(left)
        self._changed.tell()
        # Law 8: memory is bounded by the work in flight. With fewer a job would never come to what the others have not
        # read yet, and would stand still as long as they go on.
        while len(self._items) > MOST_WAITING and self._batches.is_beyond_a_job(*totals(self._items.values())):
            self._batches.hurried = True
            await self._wait_for_others()
        self._batches.hurried = False
        return await self._not_submitted([item for key, item in items.items() if key in leased])

    async def _not_submitted(self, items: list[Item]) -> list[Item]:
        """Those that are not out in a batch. It is asked once they are leased: whoever had them before may have sent
        them in one."""
        out = await self._sink.submitted([item.entry for item in items])
        if out:
            await self._outcomes.put_aside([item for item in items if item.entry.key in out], is_out=True)
        return [item for item in items if item.entry.key not in out] if out else items

    async def still_leased(self, batch: Sequence[Item]) -> list[Item]:
        """What this job still holds of a batch, after it stood still for too long. The rest is waited for; where rows
        are held, and not texts, it stays pending."""
        asked, held = list(batch), list[Item]()
        while asked:
            leased = await self._sink.lease([item.entry for item in asked])
            held += [item for item in asked if item.entry.key in leased]
            lost = [item for item in asked if item.entry.key not in leased]
            if self._sink.leases:
                self._items.update((item.entry.key, item) for item in lost)
                break
            asked = [other for item in lost if (other := self._outcomes.leave_pending(item)) is not None]
        self._changed.tell()
        return held

    async def finish(self) -> None:
        """Returns once nothing is waited for any more. What was read by now has to be sent without the rest."""
        self._batches.hurried = True
        self._changed.tell()
        while self._items:
            await self._wait_for_others()

    async def _wait_for_others(self) -> None:
        """Returns once something may have changed."""
        if self._sink.gathers:
            # What is gathered for a batch is held, too: two such jobs would wait for each other, and send nothing.
            await anyio.sleep(TELLING_SECONDS)
            await self._sink.send_gathered()
        else:
            await self._changed.wait()

    async def are_left(self) -> bool:
        """Whether anything is waited for; if so, it returns once some of it has been looked for."""
        if not self._items:
            return False
        await self._changed.wait()
        return True

    def stop(self) -> None:
        """All was sent."""
        self._stopped = True
        self._changed.tell()

    async def watch(self) -> None:
        """Looks for the texts again and again, until `stop`."""
        pause = LEAST_PAUSE
        while not self._stopped:
            if not self._items:
                await self._changed.wait()
                continue
            await anyio.sleep(pause)
            before = len(self._items)
            await self._look_up_answers()
            pause = LEAST_PAUSE if len(self._items) < before else min(2 * pause, MOST_PAUSE)

    async def _look_up_answers(self) -> None:
        """Looks once: what was written or refused elsewhere is taken over, and what nobody holds any more is sent. What
        is out in a batch by now is not waited for."""
        items = list(islice(self._items.values(), MOST_LOOKED_UP))
        told = await self._sink.settled([item.entry for item in items])
        left = [item for item in items if item.entry.record.id in told.gone]
        # Rows that were edited are read again by the next pass; equal texts of other rows are still waited for.
        for item in left:
            self._drop([item])
            if (other := self._outcomes.leave_pending(item)) is not None:
                self._items[item.entry.key] = other
        found = [item for item in items if item.entry.key in told.paid]
        refused = [item for item in items if item.entry.record.id in told.known.refused.keys() - told.gone]
        refused = [item for item in refused if item.entry.key not in told.paid]
        if found:
            matrix = np.stack([told.paid[item.entry.key] for item in found])
            await self._outcomes.write_found(found, matrix, told.known)
        for item in refused:
            await self._outcomes.note_refused_elsewhere(item, told.known.refused[item.entry.record.id])
        settled = {item.entry.key for item in (*left, *found, *refused)}
        unsent = await self._not_submitted([item for item in items if item.entry.key not in settled])
        leased = await self._sink.lease([item.entry for item in unsent])
        free = [item for item in unsent if item.entry.key in leased]
        waited_for = {item.entry.key for item in unsent} - leased
        self._drop([item for item in items if item.entry.key not in waited_for])
        free = await self._not_submitted(free)
        for item in items:
            if self._items.get(key := item.entry.key) is item:
                self._items[key] = self._items.pop(key)
        await self._outcomes.tell()
        # This comes before the offer, which waits while the window is full, and whoever sends may wait for a change.
        self._changed.tell()
        if free:
            await self._batches.offer(free)

    def _drop(self, items: Collection[Item]) -> None:
        """Unless an equal text, which was read meanwhile, is waited for by now."""
        for item in items:
            if self._items.get(item.entry.key) is item:
                del self._items[item.entry.key]
