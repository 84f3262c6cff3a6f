"""What the lines of one batch's results say of their texts.

Vectors go to where this run finds them for its rows; what is in no row by the end of it is kept in the store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

import anyio.lowlevel
import numpy as np

from aembed.batch_protocols import BatchLine, BatchProvider, BatchState, OutText, SettledLine
from aembed.core.batch_jobs import MOST_TRIES, BatchRecord
from aembed.core.pieces import combine_pieces
from aembed.core.progress import Tally
from aembed.core.vectors import check
from aembed.errors import BadRequestError, InvalidReplyError, ProviderError
from aembed.pipeline.batch_jobs.books import Books
from aembed.pipeline.batch_jobs.collected import Collected, ReadBatch
from aembed.pipeline.batch_jobs.files import line_id
from aembed.pipeline.store_calls import await_store
from aembed.protocols import Store
from aembed.types import Matrix, Reply

CheckModel: TypeAlias = Callable[[str], Awaitable[None]]

# Chosen: a transaction costs as much as some hundred rows. Larger, whoever is killed reads more lines once more; what
# they hold is bought already, and stays at the provider until it was committed.
ROWS_AT_ONCE = 500
"""So many texts are settled in one transaction, and those of the line that fills it up."""


@dataclass(eq=False)
class Settling:
    """The lines of one record, as they come. `lines` are those that nothing is settled of yet; what is read is taken
    out of them.

    `tokens` is what those that were read have cost. `is_untried`: no batch of this model has brought a vector yet.
    """

    provider: BatchProvider
    books: Books
    tally: Tally
    dimensions: int | None
    check_model: CheckModel | None
    batch: ReadBatch
    lines: dict[int, Sequence[OutText]]
    collected: Collected
    is_untried: bool = False
    tokens: int = 0
    _settled: list[SettledLine] = field(default_factory=list)
    _rows: int = 0

    async def read(self, state: BatchState) -> None:
        """Raises ProviderError where not all can be read; what was read is settled all the same."""
        names = {line_id(self.batch.record.name, line): line for line in self.lines}
        inputs = {name: sum(len(text.weights) for text in self.lines[line]) for name, line in names.items()}
        try:
            async with aclosing(self.provider.batch_results(state, inputs)) as answers:
                async for answer in answers:
                    line = names.pop(answer.custom_id or "", None)
                    if line is not None:  # Else it is doubled, settled by another run, or not ours.
                        await self._take(line, answer)
        except ProviderError:
            await self._settle()
            raise
        await self._settle()

    async def _take(self, line: int, answer: BatchLine) -> None:
        if answer.unrun == "cancelled":
            return  # It is no fault of its texts, which go into the next batch once this one is done with.
        texts = self.lines.pop(line)
        if answer.reply:
            told = answer.reply.usage.tokens
            self.tokens += estimate(self.batch.record, 1) if told is None else told
        self._settled.append(await self._settled_line(line, texts, answer))
        self._rows += len(texts)
        if self._rows >= ROWS_AT_ONCE:
            await self._settle()
        # Law 11: lines that are there already are read without a pause.
        await anyio.lowlevel.checkpoint()

    async def _settle(self) -> None:
        settled, self._settled, self._rows = self._settled, [], 0
        bought = [line for line in settled if line.matrix is not None]
        # Those of a twin are few, and counted once.
        if self.batch.record.is_twin and bought:
            names, place = {name for line in bought for name in line.fingerprints}, self.books.place
            # A column keeps no fingerprints beside its rows: there all that was sent anew counts.
            again = set(await await_store(place.vectors(names))) if isinstance(place, Store) else set(names)
            states = await self.books.texts([*names])
            again |= {name for name, state in states.items() if state.is_out or state.vector is not None}
            self.tally.bought_twice += len(again)
        elif bought and await self.collected.bring(self.batch, bought):
            settled = [line for line in settled if line.matrix is None]
        if settled:
            await self.books.settle(self.batch.record, settled)
            for found in (True, False):
                read = [name for line in settled if found is (line.matrix is not None) for name in line.fingerprints]
                self.collected.note_read(read, found=found)
        if bought and self.is_untried:
            self.is_untried = False
            await self.books.note_proven()

    async def _settled_line(self, line: int, texts: Sequence[OutText], answer: BatchLine) -> SettledLine:
        names = [text.fingerprint for text in texts]
        if answer.reply and (matrix := self._checked(answer.reply, texts)) is not None:
            if self.check_model:
                await self.check_model(answer.reply.model)
            return SettledLine(line, names, matrix)
        # A line that holds a bad text is refused whole: it is sent live, where it is bisected. One that fails again and
        # again may hold one, too.
        live = isinstance(answer.error, BadRequestError)
        if not live and not answer.unrun:
            states = await self.books.texts(names)
            live = any(state.tries + 1 >= MOST_TRIES for state in states.values())
        return SettledLine(line, names, live=live)

    def _checked(self, reply: Reply, texts: Sequence[OutText]) -> Matrix | None:
        """One row for each text; None for a reply that cannot be trusted."""
        # Law 3: a vector is stored only beside the text that it was made from.
        matrix, inputs = reply.matrix, sum(len(text.weights) for text in texts)
        if matrix.ndim != 2 or len(matrix) != inputs or matrix.dtype != np.float32 or not matrix.size:
            return None
        try:
            check(matrix, dimensions=self.dimensions, normalised=False)
        except InvalidReplyError:
            return None
        return combine_pieces(texts, matrix)


def estimate(record: BatchRecord, lines: int) -> int:
    """How many tokens so many of its lines cost, where no reply says it, or only one that an earlier run has read."""
    return round(record.tokens * lines / record.lines)
