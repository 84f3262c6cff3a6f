"""This module writes the rows whose vectors are at hand: many at once, while the next ones are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import numpy as np

from aembed.core.changes import Entry
from aembed.dispatch import Notice
from aembed.pipeline.outcomes import Outcomes
from aembed.pipeline.sinks import INLINE_BYTES
from aembed.types import Vector

# Measured: a transaction of 256 rows costs PostgreSQL a third more for each than one of 1,024. Larger, memory grows,
# and the rows of a job that is killed are found once more.
ROWS_AT_ONCE = 1_024
# Chosen: as long as a batch that is not full waits for a slow source.
LINGER = 0.02
"""Rows wait so many seconds for others to be written with."""


class PaidRows:
    """Rows on their way into the sink. While writes are under way the next is gathered, and no more than that."""

    def __init__(self, outcomes: Outcomes, run_in_thread: Callable[..., Awaitable[Any]]) -> None:
        self._outcomes, self._run_in_thread = outcomes, run_in_thread
        self._rows: list[tuple[Entry, Vector]] = []
        self._model = ""
        self._ended = False
        self._changed = Notice()

    async def add(self, entries: Sequence[Entry], vectors: Sequence[Vector], model: str = "") -> None:
        """Waits while there are more than enough; vectors of one write are of one model."""
        while self._rows and (len(self._rows) >= ROWS_AT_ONCE or model != self._model):
            await self._changed.wait()
        self._model = model
        self._rows += zip(entries, vectors, strict=True)
        self._changed.tell()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._changed.tell()

    async def write(self) -> None:
        """Writes what comes, to the end. It may be done by several at once."""
        while self._rows or not self._ended:
            if not self._rows:
                await self._changed.wait()
                continue
            with anyio.move_on_after(LINGER):
                while len(self._rows) < ROWS_AT_ONCE and not self._ended:
                    await self._changed.wait()
            if not self._rows:
                continue
            rows, model, self._rows = self._rows[:ROWS_AT_ONCE], self._model, self._rows[ROWS_AT_ONCE:]
            self._changed.tell()
            entries, vectors = zip(*rows, strict=True)
            # Law 11: new memory of 6 MB is cleared for 15 ms.
            is_large = len(vectors) * vectors[0].nbytes > INLINE_BYTES
            matrix = await self._run_in_thread(np.stack, vectors) if is_large else np.stack(vectors)
            await self._outcomes.write(entries, matrix, model)
            await self._outcomes.tell()
