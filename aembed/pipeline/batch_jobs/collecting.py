"""What became of batches that are out: their vectors are kept where the rows are, and then their files are deleted.

It may be done at any time and by several processes at once: each line is settled in one transaction of the store, and
each change of a record is refused to whoever has not seen the one before.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from aembed.batch_protocols import BatchLine, BatchProvider, BatchState, OutText
from aembed.core.batch_jobs import (
    GRACE_SECONDS,
    MOST_TRIES,
    Abandon,
    Adopt,
    BatchRecord,
    Fence,
    Forget,
    Found,
    Poll,
    Stage,
    Step,
    Twin,
    Wait,
    found_of,
    is_overdue,
    is_queue_full,
    needs_list,
    next_step,
)
from aembed.core.pieces import combine_pieces
from aembed.core.progress import Tally
from aembed.errors import BadRequestError, NotFoundError, ProviderError, RateLimitError, UnavailableError
from aembed.pipeline.batch_jobs.books import Books, Superseded
from aembed.pipeline.batch_jobs.submitting import created, line_id
from aembed.pipeline.spend_limit import SpendLimit
from aembed.pipeline.store_calls import await_store
from aembed.protocols import Store
from aembed.types import Matrix, Reply

logger = logging.getLogger("aembed")

CheckModel: TypeAlias = Callable[[str], Awaitable[None]]


@dataclass(eq=False)
class Collector:
    """Collects the batches of one store or column. `check_model` raises where rows here came from another model.

    `out` are the batches that still run afterwards, with what the provider says of them. `failure` is why a batch
    failed as a whole, where that is to be told.
    """

    provider: BatchProvider
    books: Books
    tally: Tally
    spend_limit: SpendLimit
    price_factor: float
    price_share: float
    dimensions: int | None
    check_model: CheckModel | None = None
    is_untried: bool = False
    grace_seconds: float = GRACE_SECONDS
    out: list[tuple[BatchRecord, BatchState | None]] = field(default_factory=list)
    failure: BadRequestError | None = None
    _records: Sequence[BatchRecord] = ()

    async def collect(self) -> None:
        """Looks at each batch once. A provider that is away now is asked by the next run."""
        self._records = records = await self.books.records()
        try:
            found = await self._read_list(records)
        except (UnavailableError, RateLimitError) as error:
            logger.warning("the list of batches could not be read: %s", error)
            # Without it nothing may be said of those that it would name.
            found, records = Found(), [each for each in records if each.stage is Stage.CREATED]
        for record in records:
            try:
                await self._take(record, next_step(record, found.batch_of(record), self._now, self.grace_seconds))
            except Superseded:
                logger.info("batch %s is looked after by another process", record.key)
            except (UnavailableError, RateLimitError) as error:
                logger.warning("batch %s is looked at by the next run: %s", record.key, error)

    @property
    def _now(self) -> float:
        return self.books.clock()

    async def _read_list(self, records: Sequence[BatchRecord]) -> Found:
        since = needs_list(records)
        if since is None:
            return Found()
        states = list[BatchState]()
        async for state in self.provider.list_batches():
            if state.created_at < since:
                break
            states.append(state)
        return found_of(states)

    async def _take(self, record: BatchRecord, step: Step) -> None:
        match step:
            case Adopt(state):
                await self._poll(await self.books.change(record, **created(state)))
            case Poll():
                await self._poll(record)
            case Fence():
                await self._fence(record)
            case Abandon():
                await self._abandon(record)
            case Twin(state):
                await self._take_twin(record, state)
            case Forget():
                await self._finish(record, None, tokens=0, tries=0)
            case Wait() if record.is_out:
                self.out.append((record, None))

    async def _fence(self, record: BatchRecord) -> None:
        """The file is the fence: once it is deleted no create can come through, and the list tells of earlier ones."""
        if record.file:
            await self.provider.delete_batch_file(record.file)
        state = (await self._read_list([record])).batch_of(record)
        if state:
            await self._poll(await self.books.change(record, **created(state)))
        else:
            await self._abandon(record)

    async def _abandon(self, record: BatchRecord) -> None:
        if record.file is None:
            # Nothing was created before the file's id was kept.
            await self.books.change(record, stage=Stage.ABANDONED)
            await self._settle_bill(record, 0)
            await self.books.end(record)
            return
        await self.books.change(record, stage=Stage.ABANDONED)

    async def _take_twin(self, record: BatchRecord, state: BatchState) -> None:
        """Its texts may have been sent once more since. What still runs is cancelled, and what is done is kept."""
        if state.status == "failed":
            # As it was meant: the file was deleted before it was read.
            await self._settle_bill(record, 0)
            await self.books.end(record)
            return
        record = await self.books.change(record, **created(state), is_twin=True)
        if not state.is_over:
            await self.provider.cancel_batch(state.id)
        await self._poll(record)

    async def _poll(self, record: BatchRecord) -> None:
        assert record.batch is not None
        try:
            state = await self.provider.get_batch(record.batch)
        except NotFoundError:
            if self._now - record.changed_at < self.grace_seconds:
                self.out.append((record, None))
                return
            logger.warning("batch %s is not there any more; its texts are sent again", record.batch)
            await self._finish(record, None, tokens=0, tries=0)
            return
        if not state.is_over:
            if is_overdue(record, self._now):
                await self.books.change(record, stage=Stage.ABANDONED)
            else:
                self.out.append((record, state))
        elif state.status == "failed":
            await self._note_failed(record, state)
        else:
            await self._collect(record, state)

    async def _note_failed(self, record: BatchRecord, state: BatchState) -> None:
        """Nothing of it ran, and nothing is billed."""
        if is_queue_full(state):
            await self.books.learn_queue(sum(each.tokens for each in self._records if each.is_out))
        elif not record.is_twin:
            told = "; ".join(f"{fault.code}: {fault.message}" for fault in state.faults) or "it did not say why"
            self.failure = BadRequestError(f"the provider refused batch {state.id} as a whole: {told}")
        await self._finish(record, state, tokens=0, tries=0)

    async def _collect(self, record: BatchRecord, state: BatchState) -> None:
        lines = dict(await self.books.lines(record))
        tokens = 0
        if lines:
            try:
                tokens = await self._read_results(record, state, lines)
            except NotFoundError:
                logger.warning("the results of batch %s are gone; what was not read is sent again", state.id)
            except UnavailableError as error:
                if not is_overdue(record, self._now):
                    logger.warning("the results of batch %s were cut off: %s", state.id, error)
                    self.out.append((record, state))
                    return
        billed = state.tokens if state.tokens is not None else tokens
        await self._finish(record, state, tokens=billed, tries=0 if state.status == "cancelled" else 1)

    async def _read_results(self, record: BatchRecord, state: BatchState, lines: dict[int, Sequence[OutText]]) -> int:
        """Settles each line as it comes, and takes it out of `lines`; returns how many tokens their replies name."""
        names = {line_id(record.key, line): line for line in lines}
        inputs = {name: sum(len(text.weights) for text in lines[line]) for name, line in names.items()}
        tokens = 0
        async for answer in self.provider.batch_results(state, inputs):
            line = names.pop(answer.custom_id or "", None)
            if line is None:
                continue  # Doubled, settled by another run, or not ours.
            texts = lines.pop(line)
            if answer.reply:
                tokens += answer.reply.usage.tokens or 0
            await self._settle_line(record, line, texts, answer)
        return tokens

    async def _settle_line(self, record: BatchRecord, line: int, texts: Sequence[OutText], answer: BatchLine) -> None:
        reply, error = answer.reply, answer.error
        if reply and (matrix := self._checked(reply, texts)) is not None:
            if self.check_model:
                await self.check_model(reply.model)
            if record.is_twin:
                await self._count_twice(texts)
            await self.books.settle(record, line, texts, matrix)
            if self.is_untried:
                self.is_untried = False
                await self.books.note_proven()
        elif answer.unrun == "cancelled":
            return  # It is no fault of its texts, which go into the next batch once this one is done with.
        else:
            # A line that holds a bad text is refused whole: it is sent live, where it is bisected. One that fails
            # again and again may hold one, too.
            live = isinstance(error, BadRequestError)
            if not live and not answer.unrun:
                states = await self.books.texts([text.fingerprint for text in texts])
                live = any(state.tries + 1 >= MOST_TRIES for state in states.values())
            await self.books.settle(record, line, texts, None, live=live)

    def _checked(self, reply: Reply, texts: Sequence[OutText]) -> Matrix | None:
        """One row for each text; None for a reply that cannot be trusted."""
        # Law 3: a vector is stored only beside the text that it was made from.
        matrix, inputs = reply.matrix, sum(len(text.weights) for text in texts)
        if matrix.ndim != 2 or len(matrix) != inputs or matrix.dtype != np.float32 or not matrix.size:
            return None
        if self.dimensions not in (None, matrix.shape[1]):
            return None
        squares = np.einsum("ij,ij->i", matrix, matrix)
        if not (np.isfinite(squares).all() and (squares > 0).all()):
            return None
        return combine_pieces(texts, matrix)

    async def _count_twice(self, texts: Sequence[OutText]) -> None:
        names, place = {text.fingerprint for text in texts}, self.books.place
        # A column keeps no fingerprints beside its rows: there all that was sent anew counts.
        again = set(await await_store(place.vectors(names))) if isinstance(place, Store) else set(names)
        states = await self.books.texts([*names])
        again |= {name for name, state in states.items() if state.is_out or state.vector is not None}
        self.tally.bought_twice += len(again)

    async def _finish(self, record: BatchRecord, state: BatchState | None, *, tokens: int, tries: int) -> None:
        """All that there is of it is kept: its bill is settled once, its files go, and then the record."""
        record = await self._settle_bill(record, tokens)
        for file in (record.file, *((state.output_file, state.error_file) if state else ())):
            if file:
                await self.provider.delete_batch_file(file)
        await self.books.end(record, tries=tries)

    async def _settle_bill(self, record: BatchRecord, tokens: int) -> BatchRecord:
        if record.is_settled:
            return record
        record = await self.books.change(record, is_settled=True)
        price = self.tally.price_usd
        if tokens:
            cost_usd = None if price is None else tokens * price * self.price_factor / 1_000_000
            self.tally.add_bill(tokens, cost_usd)
        if record.reserved_tokens:
            billed = round(tokens * self.price_share)
            await self.spend_limit.settle_after_days(record.accounts, record.reserved_tokens, billed)
        return record


async def look_at(provider: BatchProvider, books: Books) -> list[BatchState]:
    """What the provider says of each batch that is out; one whose create is in doubt is left out."""
    created = [record.batch for record in await books.records() if record.batch and record.is_out]
    return [await provider.get_batch(batch) for batch in created]


async def cancel(provider: BatchProvider, books: Books) -> int:
    """Cancels what is out; returns how many batches. What has run is billed, and collected by the next run."""
    cancelled = 0
    for record in await books.records():
        if record.stage is Stage.CREATED and record.batch and not record.is_settled:
            try:
                await provider.cancel_batch(record.batch)
            except ProviderError as error:
                logger.warning("batch %s could not be cancelled: %s", record.batch, error)
                continue
            cancelled += 1
    return cancelled
