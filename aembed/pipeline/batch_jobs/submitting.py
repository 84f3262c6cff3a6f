"""What is new is written into files, a line for each batch of texts, and the files become batches at the provider.

Nothing is uploaded before the store has the key of the batch and the fingerprints of its texts, and nothing is created
before it has the file's id: whatever is lost on the way, a later run knows what to look for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import anyio

from aembed.batch_protocols import BatchProvider, BatchState, BatchTerms, OutText, QueueFullError, TextState
from aembed.core.batch_jobs import MOST_TRIES, MOST_TRIES_IN_BATCHES, BatchRecord, Found, ListEnd, Stage, created
from aembed.core.batch_queue import limit_in
from aembed.core.changes import Item
from aembed.core.packing import Cap
from aembed.counters import Measure
from aembed.dispatch import Deliver, Dispatcher, PutAside, Refused, Submission
from aembed.errors import AembedError, ProviderError, RateLimitError, UnavailableError
from aembed.limits import Limits
from aembed.pipeline.batch_jobs.books import Books, Superseded
from aembed.pipeline.batch_jobs.files import BatchFile, line_id
from aembed.pipeline.batch_jobs.sink import BatchSink
from aembed.pipeline.spend_limit import SpendLimit
from aembed.pipeline.telling import BatchTeller
from aembed.preparation import NO_PREPARATION

logger = logging.getLogger("aembed")

# Chosen: as many tries as a live request has, a few seconds apart; a later run goes on where this one gives up.
MOST_UPLOADS = 3
PAUSE_SECONDS = 2.0
# Chosen: 200 MB take 160 s at 10 Mbit/s. Larger, a server that hangs would hold the run; it has to end within the grace
# (core/batch_jobs.py), after which another process takes the batch for abandoned.
UPLOAD_SECONDS, CREATE_SECONDS = 400.0, 120.0
"""All tries of it together may take so long."""


class BatchSubmitter:
    """What a batch job has in the place of a dispatcher: texts go into files, and some live.

    `fallback_live`: texts that MOST_TRIES batches gave nothing go live. `price_share` is what a token is noted as in
    budgets.
    """

    concurrency = 1
    slots = 1

    def __init__(
        self,
        dispatcher: Dispatcher,
        provider: BatchProvider,
        terms: BatchTerms,
        limits: Limits,
        books: Books,
        sink: BatchSink,
        measure: Measure,
        spend_limit: SpendLimit,
        *,
        price_share: float,
        fallback_live: bool,
        teller: BatchTeller | None = None,
    ) -> None:
        self._dispatcher, self._provider, self._terms, self._books = dispatcher, provider, terms, books
        self._sink, self._measure, self._spend_limit = sink, measure, spend_limit
        self._price_share, self._fallback_live = price_share, fallback_live
        self._teller = teller
        self.limits = limits.narrowed(terms.max_texts_per_line, terms.max_tokens_per_line)
        """Those of a request, or of a line where they are smaller."""
        self.cap = Cap.from_limits(self.limits)
        self.wait_report, self.start_task = dispatcher.wait_report, dispatcher.start_task
        self._folder: TemporaryDirectory[str] | None = None
        self._file: BatchFile | None = None
        self._tokens_out = 0.0
        self._most_tokens: float | None = None
        self._is_full = self._tries_one = self.has_sent = False
        self._preparation = NO_PREPARATION
        self.reading: asyncio.Task[None] | None = None
        """What has to end before anything goes out: it tells what has failed, and what of budgets is free again."""
        sink.flush = self.flush
        self.taken_back = 0
        """How many records were counted as submitted and are not."""

    async def begin(self) -> None:
        """Before anything goes out: what is out, and what the provider's queue takes."""
        # One that is over is out only until its rows are written.
        records = [record for record in await self._books.records() if record.is_out and not record.is_settled]
        self._tokens_out = sum(record.tokens for record in records)
        self._most_tokens = await self._books.queue_tokens()
        self._tries_one = not self._terms.tried and not await self._books.are_proven()

    def close(self) -> None:
        """What was gathered and is not out is forgotten."""
        self._file = None
        if self._folder:
            self._folder.cleanup()

    async def send(self, batch: Sequence[Item], submission: Submission, deliver: Deliver) -> None:
        """Gathers one line; texts that batches have failed go live, within the budget, or fail."""
        if self.reading:
            await asyncio.shield(self.reading)
        states = await self._books.texts([item.entry.fingerprint for item in batch])
        live, lined, failed = list[Item](), list[Item](), list[Item]()
        for item in batch:
            state = states.get(item.entry.fingerprint, TextState())
            if state.live or (self._fallback_live and state.tries >= MOST_TRIES):
                live.append(item)
            else:
                (failed if state.tries >= MOST_TRIES_IN_BATCHES else lined).append(item)
        if live:
            if self._spend_limit.is_limited:
                submission.spend_limit, submission.costs = self._spend_limit, self._measure
            await self._dispatcher.send(live, submission, deliver)
        if failed:
            what = f"{MOST_TRIES_IN_BATCHES} batches gave it nothing; fallback_live (--fallback-live) sends it live"
            await deliver(Refused(failed, UnavailableError(what)))
        if lined:
            await deliver(PutAside(lined, is_out=await self._gather(lined, submission)))

    async def _gather(self, items: list[Item], submission: Submission) -> bool:
        """Whether there is room for the items in the provider's queue."""
        tokens = sum(item.tokens for item in items)
        if not self._has_room(tokens):
            return False
        texts = [text for item in items for text in item.texts]
        if self._file and (
            self._file.total.texts + len(texts) > self._terms.max_texts_per_file
            or len(self._file.lines) >= self._terms.max_lines_per_file
        ):
            await self.flush()
        line = self._line(items, texts, submission)
        if self._file and self._file.total.size_bytes + len(line) > self._terms.max_bytes_per_file:
            await self.flush()
            line = self._line(items, texts, submission)
        if not self._has_room(tokens):
            return False
        self._open_file().add(items, line, sum(map(self._measure.most_cost, items)) * self._price_share)
        self._sink.gathered.update(item.entry.fingerprint for item in items)
        self._preparation = submission.preparation
        return True

    def _line(self, items: Sequence[Item], texts: Sequence[str], submission: Submission) -> bytes:
        file = self._open_file()
        name = line_id(file.path.stem, len(file.lines))
        return self._provider.batch_line(name, texts, preparation=submission.preparation)

    def _open_file(self) -> BatchFile:
        if self._file is None:
            if self._folder is None:
                self._folder = TemporaryDirectory(prefix="aembed-")
            self._file = BatchFile(Path(self._folder.name, f"aembed-{uuid4().hex}.jsonl"))
        return self._file

    def _has_room(self, tokens: float) -> bool:
        gathered = self._file.total.tokens if self._file else 0.0
        # Where batches of embeddings are unproven, one line is tried before the rest goes out.
        is_over = self._tries_one or (
            self._most_tokens is not None and self._tokens_out + gathered + tokens > self._most_tokens
        )
        # One line goes out all the same where nothing is: else nothing ever would.
        return not self._is_full and not (is_over and self._tokens_out + gathered > 0)

    async def flush(self) -> None:
        """Sends the file that is gathered: its texts are out, or pending again."""
        file, self._file = self._file, None
        if file is None:
            return
        exceeded: AembedError | None = None
        if file.total.cost > self._spend_limit.tokens_left:
            exceeded = self._spend_limit.exceeded_error(ceil(file.total.cost))
            self._take_back(file.cut(self._spend_limit.tokens_left))
        if file.lines:
            try:
                await self._send_file(file)
            finally:
                file.path.unlink(missing_ok=True)
        if exceeded:
            raise exceeded

    async def _send_file(self, file: BatchFile) -> None:
        reserved = ceil(file.total.cost)
        try:
            accounts = await self._spend_limit.reserve_for_days(reserved) if self._spend_limit.is_limited else {}
        except AembedError:
            self._take_back(file.lines)
            raise
        record = BatchRecord(
            key=file.path.stem,
            version=0,
            stage=Stage.INTENDED,
            space=self._books.space,
            changed_at=self._books.clock(),
            texts=sum(map(len, file.lines)),
            lines=len(file.lines),
            tokens=file.total.tokens,
            reserved_tokens=reserved,
            accounts=dict(accounts),
            queued_tokens=self._tokens_out + file.total.tokens,
        )
        await self._books.begin(record, file.lines)
        self.has_sent = True
        self._sink.gathered.difference_update(text.fingerprint for line in file.lines for text in line)
        try:
            await self._upload(record, file)
        except Superseded:
            logger.warning("batch %s took too long to be uploaded, and another process has given it up", record.key)
            self._take_back(file.lines)
            return
        if not self._is_full:
            self._tokens_out += record.tokens

    async def _upload(self, record: BatchRecord, file: BatchFile) -> None:
        try:
            id = await self._upload_file(file.path, record.key)
        except ProviderError:
            await self._give_up(record, file)
            raise
        try:
            # The create follows at once: whoever finds this record later than the grace can be sure that it is over.
            record = await self._books.change(record, stage=Stage.UPLOADED, file=id)
        except Superseded:
            await self._provider.delete_batch_file(id)
            raise
        try:
            state = await self._create(record, id)
        except RateLimitError as error:
            # It is no failure: the texts wait until there is room.
            if isinstance(error, QueueFullError):
                await self._books.note_full(record.queued_tokens, limit_in([str(error)]))
            self._is_full = True
            await self._give_up(record, file)
            return
        except ProviderError:
            await self._give_up(record, file)
            raise
        if state:
            if self._teller:
                self._teller.submitted(state.id, record.texts, record.tokens)
            with suppress(Superseded):  # Another process has found it in the list already.
                await self._books.change(record, **created(state))
        else:
            logger.warning("whether batch %s was created is not known; a later run finds out", record.key)

    async def _upload_file(self, path: Path, key: str) -> str:
        """Returns its id. Raises ProviderError."""
        try:
            with anyio.fail_after(UPLOAD_SECONDS):
                for _ in range(MOST_UPLOADS - 1):
                    with suppress(UnavailableError, RateLimitError):
                        return await self._provider.upload_batch_file(path, key)
                    await anyio.sleep(PAUSE_SECONDS)
                return await self._provider.upload_batch_file(path, key)
        except TimeoutError:
            raise UnavailableError(f"a file was not uploaded within {UPLOAD_SECONDS:.0f} s") from None

    async def _create(self, record: BatchRecord, file_id: str) -> BatchState | None:
        """The batch; None where the answer was lost, and no batch with our key is in the list yet."""
        with suppress(TimeoutError), anyio.fail_after(CREATE_SECONDS):
            for _ in range(MOST_UPLOADS):
                try:
                    return await self._provider.create_batch(file_id, record.key, preparation=self._preparation)
                except UnavailableError as error:
                    if not error.unsent:
                        break
                # It never left, so that it cannot have made a batch.
                await anyio.sleep(PAUSE_SECONDS)
        return await self._look_up(record)

    async def _look_up(self, record: BatchRecord) -> BatchState | None:
        """Never twice: a create whose answer was lost is not tried again, but looked for."""
        states = list[BatchState]()
        # An hour, since two clocks are compared.
        end = ListEnd(record.changed_at - 3600.0)
        with suppress(ProviderError, TimeoutError), anyio.fail_after(CREATE_SECONDS):
            async for state in self._provider.list_batches():
                states.append(state)
                if state.key == record.key or end.is_reached(state):
                    break
        return Found(states).batch_of(record)

    async def _give_up(self, record: BatchRecord, file: BatchFile) -> None:
        """No batch was made of it: its texts are pending again, and its file is deleted."""
        if record.file:
            with suppress(ProviderError):
                await self._provider.delete_batch_file(record.file)
        # In this order: a later run would give back what was reserved once more.
        await self._books.end(record)
        await self._spend_limit.settle_after_days(record.accounts, record.reserved_tokens, 0)
        self._take_back(file.lines)

    def _take_back(self, lines: Sequence[Sequence[OutText]]) -> None:
        self.taken_back += self._sink.take_back([text.fingerprint for line in lines for text in line])
