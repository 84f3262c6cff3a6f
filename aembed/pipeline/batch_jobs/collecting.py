"""What became of batches that are out: their vectors are read for the rows of this run, what is in none of them is kept
in the store, and then their files are deleted.

It may be done at any time and by several processes at once: each line is settled in one transaction of the store, and
each change of a record is refused to whoever has not seen the one before.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence, Sized
from dataclasses import dataclass, field

from aembed.batch_protocols import BatchProvider, BatchState, OutText, SettledLine
from aembed.core.batch_jobs import (
    DELETING_SECONDS,
    GRACE_SECONDS,
    REMEMBERED_SECONDS,
    Adopt,
    BatchRecord,
    Fence,
    Forget,
    Found,
    ListEnd,
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
    AuthenticationError,
    BadRequestError,
    InvalidReplyError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    RateLimitError,
    UnavailableError,
)
from aembed.pipeline.batch_jobs.books import Books, Superseded
from aembed.pipeline.batch_jobs.collected import Collected, ReadBatch
from aembed.pipeline.batch_jobs.settling import CheckModel, Settling, estimate
from aembed.pipeline.spend_limit import SpendLimit
from aembed.pipeline.telling import BatchTeller

logger = logging.getLogger("aembed")

LATER = (UnavailableError, RateLimitError, InvalidReplyError, BadRequestError, NotFoundError)
"""What says nothing of the other batches: the next run asks again."""


@dataclass(eq=False)
class Collector:
    """Collects the batches of one store or column. `check_model` raises where rows here came from another model.

    `failure` is why a batch failed as a whole, where that is to be told.
    """

    provider: BatchProvider
    books: Books
    collected: Collected
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
    _over: list[tuple[BatchRecord, BatchState, dict[int, Sequence[OutText]]]] = field(default_factory=list)
    """What is to be read, with the lines that nothing is settled of yet."""

    async def look(self) -> None:
        """Looks at each batch once, and reads nothing. A provider that is away now is asked by the next run."""
        self._records = records = await self.books.records()
        try:
            found = await self._read_list(records)
        except LATER as error:
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
                step = next_step(each, found.batch_of(each), self.books.clock(), self.grace_seconds)
                await self._look_after(each, self._take(each, step))

    async def end(self) -> None:
        """The job has written what it has asked for: the rest of what was read is kept, and batches are done with."""
        for batch in [*self.collected.batches]:
            await self._look_after(batch.record, self._end(batch))

    async def _end(self, batch: ReadBatch) -> None:
        await self.collected.settle_rest(batch)
        self.collected.batches.remove(batch)
        if batch.state:
            await self._finish(batch.record, batch.state, tokens=batch.tokens, tries=0)

    async def _look_after(self, record: BatchRecord, work: Awaitable[None]) -> None:
        try:
            await work
        except Superseded:
            logger.info("batch %s is looked after by another process", record.key)
        except LATER as error:
            logger.warning("batch %s is looked at by the next run: %s", record.key, error)

    async def _read_list(self, records: Sequence[BatchRecord]) -> Found:
        since = needs_list(records)
        if since is None:
            return Found()
        states, end = list[BatchState](), ListEnd(since)
        async for state in self.provider.list_batches():
            if end.is_reached(state):
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
            try:
                await self.provider.delete_batch_file(record.file)
            except (BadRequestError, NotFoundError, PermissionDeniedError) as error:
                # There is no fence: a create has to be out of the question.
                if not is_overdue(record, self.books.clock()):
                    logger.warning("file %s cannot be deleted at the provider; its texts wait: %s", record.file, error)
                    return
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
            if self.books.clock() - record.changed_at >= self.grace_seconds:
                logger.warning("batch %s is not there any more; its texts are sent again", record.batch)
                await self._finish(record, None, tokens=0, tries=0)
            return
        except (BadRequestError, InvalidReplyError):
            if is_overdue(record, self.books.clock()) and not record.is_twin:
                await self.books.change(record, is_twin=True)
            raise
        if record.is_twin and not state.is_over:
            # Its texts may have been sent once more since; what is done of it is kept.
            state = await self.provider.cancel_batch(state.id)
        if state.status == "failed":
            await self._note_failed(record, state)
        elif state.is_over:
            lines = dict(await self.books.lines(record))
            self.collected.expect(text.fingerprint for texts in lines.values() for text in texts)
            self._over.append((record, state, lines))
        elif is_overdue(record, self.books.clock()) and not record.is_twin:
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

    async def read(self) -> None:
        """Reads the results of those that are over. The job takes what it asks for as it comes."""
        try:
            # A twin's last: what the others have brought by then was bought twice.
            for record, state, lines in sorted(self._over, key=lambda over: over[0].is_twin):
                await self._look_after(record, self._read(record, state, lines))
                self.collected.note_read(text.fingerprint for texts in lines.values() for text in texts)
        finally:
            self.collected.note_read()

    async def _read(self, record: BatchRecord, state: BatchState, lines: dict[int, Sequence[OutText]]) -> None:
        tokens = _estimate_read(record, state, lines)
        batch = ReadBatch(record)
        self.collected.batches.append(batch)
        if lines:
            settling = self._settling(batch, lines)
            try:
                await settling.read(state)
                tokens += settling.tokens
            except (NotFoundError, UnavailableError, InvalidReplyError) as error:
                # They are paid for, and tried for longer than they are late.
                long_ago = self.books.clock() - REMEMBERED_SECONDS
                if not isinstance(error, NotFoundError) and not is_overdue(record, long_ago):
                    logger.warning("the results of batch %s were cut off: %s", state.id, error)
                    return
                logger.warning("the results of batch %s are gone; what was not read is sent again", state.id)
                tokens = _estimate_read(record, state, lines)
        billed = state.tokens if state.tokens is not None else tokens
        if state.status != "cancelled":
            await self.books.note_fit(record.queued_tokens)
        batch.record = await self._settle_bill(record, state, billed)
        # What the results say nothing of goes into the next batch: its texts are out no more, before the job asks.
        is_tried = state.status != "cancelled" and not record.twin_of
        if lines:
            tried = {line: [text.fingerprint for text in texts if is_tried] for line, texts in lines.items()}
            await self.books.settle(record, [SettledLine(line, names) for line, names in tried.items()])
        batch.state, batch.tokens = state, billed
        if not batch.lines:
            await self._end(batch)

    def _settling(self, batch: ReadBatch, lines: dict[int, Sequence[OutText]]) -> Settling:
        """It takes what it reads out of `lines`."""
        return Settling(
            self.provider,
            self.books,
            self.tally,
            self.dimensions,
            self.check_model,
            batch,
            lines,
            self.collected,
            is_untried=self.is_untried,
        )

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
                await self._delete(file, record)
        await self.books.end(record, tries=tries)
        if self.teller and record.batch:
            cost_usd = self._cost_of(tokens)
            seconds = self.books.clock() - state.created_at if state and state.created_at else 0.0
            status = state.status if state else "gone"
            self.teller.collected(record.batch, status, record.texts, tokens, cost_usd, max(0.0, seconds))

    async def _delete(self, file: str, record: BatchRecord) -> None:
        """A file that may not be deleted is no reason to look at its batch for ever."""
        try:
            await self.provider.delete_batch_file(file)
        except AuthenticationError:
            raise
        except ProviderError as error:
            is_late = self.books.clock() - record.changed_at >= DELETING_SECONDS
            if isinstance(error, UnavailableError | RateLimitError) and not is_late:
                raise
            logger.warning("file %s of a batch could not be deleted at the provider: %s", file, error)

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
    # One that was cancelled before it was looked into has neither counts nor a file.
    ran = state.completed if state.total or not state.output_file else record.lines
    return estimate(record, min(record.lines - len(lines), ran))
