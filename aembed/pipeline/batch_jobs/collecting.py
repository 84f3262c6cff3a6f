"""What became of batches that are out: their vectors are kept where the rows are, and then their files are deleted.

It may be done at any time and by several processes at once: each line is settled in one transaction of the store, and
each change of a record is refused to whoever has not seen the one before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, field

from aembed.batch_protocols import BatchProvider, BatchState, OutText
from aembed.core.batch_jobs import (
    GRACE_SECONDS,
    Adopt,
    BatchRecord,
    Fence,
    Forget,
    Found,
    Poll,
    Stage,
    Step,
    Twin,
    created,
    is_overdue,
    needs_list,
    next_step,
    twin_record,
    twins_of,
)
from aembed.core.batch_queue import is_queue_full, limit_in
from aembed.core.billing import Bill
from aembed.core.progress import Tally
from aembed.errors import (
    BadRequestError,
    NotFoundError,
    ProviderError,
    RateLimitError,
    UnavailableError,
)
from aembed.pipeline.batch_jobs.books import Books, Superseded
from aembed.pipeline.batch_jobs.settling import CheckModel, Settling, estimate
from aembed.pipeline.spend_limit import SpendLimit
from aembed.pipeline.telling import BatchTeller

logger = logging.getLogger("aembed")


@dataclass(eq=False)
class Collector:
    """Collects the batches of one store or column. `check_model` raises where rows here came from another model.

    `failure` is why a batch failed as a whole, where that is to be told.
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
    bill: Bill = field(default_factory=Bill)
    """What all that the Embedder does has cost."""
    teller: BatchTeller | None = None
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
                record, twins = await self._find_twins(record, found)
            except Superseded:
                twins = []
            # Twins first: they are cancelled.
            for each in (*twins, record):
                await self._look_after(each, found)

    async def _look_after(self, record: BatchRecord, found: Found) -> None:
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
        return Found(states)

    async def _take(self, record: BatchRecord, step: Step) -> None:
        match step:
            case Adopt(state):
                await self._poll(await self.books.change(record, **created(state)))
            case Poll():
                await self._poll(record)
            case Fence():
                await self._fence(record)
            case Twin(state):
                await self._poll(await self.books.change(record, **created(state), is_twin=True))
            case Forget() if record.stage is Stage.DONE:
                # A twin is known as one for as long as others are looked for.
                if not record.twin_of or record.twin_of not in {
                    each.name for each in self._records if not each.twin_of
                }:
                    await self.books.end(record)
            case Forget():
                await self._finish(record, None, tokens=0, tries=0)

    async def _fence(self, record: BatchRecord) -> None:
        """The file is the fence: once it is deleted no create can come through, and the list tells of earlier ones."""
        if record.file:
            await self.provider.delete_batch_file(record.file)
        state = (await self._read_list([record])).batch_of(record)
        if state:
            await self._poll(await self.books.change(record, **created(state)))
        else:
            await self.books.change(record, stage=Stage.ABANDONED)

    async def _poll(self, record: BatchRecord) -> None:
        assert record.batch is not None
        try:
            state = await self.provider.get_batch(record.batch)
        except NotFoundError:
            if self._now - record.changed_at >= self.grace_seconds:
                logger.warning("batch %s is not there any more; its texts are sent again", record.batch)
                await self._finish(record, None, tokens=0, tries=0)
            return
        if record.is_twin and not state.is_over:
            # Its texts may have been sent once more since; what is done of it is kept.
            state = await self.provider.cancel_batch(state.id)
        if state.status == "failed":
            await self._note_failed(record, state)
        elif state.is_over:
            await self._collect(record, state)
        elif is_overdue(record, self._now) and not record.is_twin:
            await self.books.change(record, is_twin=True)

    async def _note_failed(self, record: BatchRecord, state: BatchState) -> None:
        """Nothing of it ran, and nothing is billed."""
        if is_queue_full(state):
            tokens = record.queued_tokens or sum(each.tokens for each in self._records if each.is_out)
            await self.books.note_full(tokens, limit_in(fault.message for fault in state.faults))
        elif not record.is_twin:
            # Some services name each line.
            told = "; ".join(f"{fault.code}: {fault.message}" for fault in state.faults[:3]) or "it did not say why"
            self.failure = BadRequestError(f"the provider refused batch {state.id} as a whole: {told}")
        await self._finish(record, state, tokens=0, tries=0)

    async def _collect(self, record: BatchRecord, state: BatchState) -> None:
        lines = dict(await self.books.lines(record))
        tokens = _estimate_read(record, state, lines)
        if lines:
            try:
                tokens += await self._read_results(record, state, lines)
            except (NotFoundError, UnavailableError) as error:
                if isinstance(error, UnavailableError) and not is_overdue(record, self._now):
                    logger.warning("the results of batch %s were cut off: %s", state.id, error)
                    return
                logger.warning("the results of batch %s are gone; what was not read is sent again", state.id)
                tokens = _estimate_read(record, state, lines)
        billed = state.tokens if state.tokens is not None else tokens
        if state.status != "cancelled":
            await self.books.note_fit(record.queued_tokens)
        await self._finish(
            record, state, tokens=billed, tries=0 if state.status == "cancelled" or record.twin_of else 1
        )

    async def _read_results(self, record: BatchRecord, state: BatchState, lines: dict[int, Sequence[OutText]]) -> int:
        """Settles them, and takes them out of `lines`; returns how many tokens they cost."""
        settling = Settling(
            self.provider,
            self.books,
            self.tally,
            self.dimensions,
            self.check_model,
            record,
            lines,
            is_untried=self.is_untried,
        )
        await settling.read(state)
        return settling.tokens

    async def _find_twins(self, record: BatchRecord, found: Found) -> tuple[BatchRecord, list[BatchRecord]]:
        """Batches that were made of a record beside its own get records, too. Returns the record as it is now, and
        those."""
        known = {each.batch for each in self._records if each.batch}
        if not (twins := twins_of(record, found, known)):
            return record, []
        if twins.kept.id != record.batch:
            record = await self.books.change(record, **created(twins.kept))
        lines = await self.books.lines(record) if record.stage is Stage.CREATED else {}
        records = [twin_record(record, state, record.lines - len(lines)) for state in twins.others]
        for twin in records:
            logger.warning("batch %s was created twice: %s is cancelled", record.name, twin.batch)
            await self.books.begin(twin, [lines.get(number, ()) for number in range(record.lines)])
        return record, records

    async def _finish(self, record: BatchRecord, state: BatchState | None, *, tokens: int, tries: int) -> None:
        """All that there is of it is kept: its bill is settled once, its files go, and then the record."""
        record = await self._settle_bill(record, state, tokens)
        for file in (record.file, *((state.output_file, state.error_file) if state else ())):
            if file:
                await self.provider.delete_batch_file(file)
        await self.books.end(record, tries=tries)
        if self.teller and record.batch:
            cost_usd = self._cost_of(tokens)
            seconds = self._now - state.created_at if state and state.created_at else 0.0
            status = state.status if state else "gone"
            self.teller.collected(record.batch, status, record.texts, tokens, cost_usd, max(0.0, seconds))

    def _cost_of(self, tokens: int) -> float | None:
        price = self.tally.price_usd
        return None if price is None else tokens * price * self.price_factor / 1_000_000

    async def _settle_bill(self, record: BatchRecord, state: BatchState | None, tokens: int) -> BatchRecord:
        if record.is_settled:
            return record
        record = await self.books.change(record, is_settled=True)
        if state and record.twice_lines:
            lines = min(record.twice_lines, state.completed)
            self.tally.bought_twice += round(record.texts * lines / record.lines)
        if tokens:
            for bill in (self.tally, self.bill):
                bill.add_bill(tokens, self._cost_of(tokens))
        if record.accounts:
            billed = round(tokens * self.price_share)
            await self.spend_limit.settle_after_days(record.accounts, record.reserved_tokens, billed)
        return record


def _estimate_read(record: BatchRecord, state: BatchState, lines: Sized) -> int:
    """What the lines have cost that are not in `lines` any more, as far as they ran: of a twin's some were settled by
    the other one, and some gave nothing."""
    ran = state.completed if state.total else record.lines
    return estimate(record, min(record.lines - len(lines), ran))


async def look_at(provider: BatchProvider, books: Books) -> list[BatchState]:
    """What the provider says of each batch that is out; one that it does not know, or not yet, is left out."""
    states = list[BatchState]()
    for record in await books.records():
        if record.batch and record.is_out:
            with suppress(NotFoundError):
                states.append(await provider.get_batch(record.batch))
    return states


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
