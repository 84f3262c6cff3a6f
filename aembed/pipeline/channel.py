"""This module carries results to the reader of a stream.

Law 8: memory is bounded by the work in flight, so results do not pile up before a slow reader.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from aembed.dispatch import Notice
from aembed.results import Failure
from aembed.types import Embedded

Batch: TypeAlias = Iterable[Embedded | Failure]


@dataclass(eq=False, repr=False)
class Channel:
    """A channel in which whoever puts something waits until it is taken: a slow reader holds the job back."""

    _batches: deque[Batch] = field(default_factory=deque)
    _holds_back: bool = True
    _left: bool = False
    _ended: bool = False
    _changed: Notice = field(default_factory=Notice)

    async def put(self, batch: Batch) -> None:
        """Puts results, and waits until they are taken. Once the reader has left they are dropped."""
        if self._left:
            return
        self._batches.append(batch)
        self._changed.tell()
        while self._holds_back and any(batch is each for each in self._batches):
            await self._changed.wait()

    async def __aiter__(self) -> AsyncIterator[Batch]:
        while True:
            while self._batches:
                batch = self._batches.popleft()
                self._changed.tell()
                yield batch
            if self._ended:
                return
            await self._changed.wait()

    def let_go(self) -> None:
        """The job is to end: whoever puts waits no more, and what was put stays here for the reader."""
        self._holds_back = False
        self._changed.tell()

    def end(self) -> None:
        """Ends the channel: nothing more is put."""
        self._ended = True
        self._changed.tell()

    def leave(self) -> None:
        """Nobody reads any more."""
        self._left = True
        self._batches.clear()
        self.let_go()
