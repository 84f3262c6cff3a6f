"""Runs one schedule on virtual time and checks it against the provider's books and the disk.

    History(draw(7)).check()        # draw is that of tests.simulation.servers

An invariant that does not hold is an AssertionError. The same seed takes the same steps.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from random import Random
from typing import Any

import numpy as np

from aembed import (
    AuthenticationError,
    BadRequestError,
    Budget,
    BudgetExceededError,
    Embedder,
    InputError,
    InvalidReplyError,
    OutageError,
    PermissionDeniedError,
    Progress,
    QuotaExceededError,
    Record,
    Report,
    SourceError,
    StoreError,
    UnavailableError,
)
from tests.heard import Heard
from tests.service.in_process import DIMENSIONS, embedder_of
from tests.service.ledger import Ledger
from tests.service.server import Latency
from tests.service.vectors import digest, vector_of
from tests.simulation.schedule import Run, Schedule
from tests.simulation.servers import AWAY
from tests.simulation.world import Books, Disk, Faulty
from tests.stage.clock import VirtualLoop

MOST_BILLED = 16
"""Times that a text is on the bill of one run, whatever its server does."""
MOST_SENT_DRY = 10
"""Requests after the first one that an account without money refused. Each accident beside may cost two more (as base64
and as numbers), up to those that are in flight: nobody can know sooner which of the two it was."""
LONGEST_RUN = 30_000
"""Steps of the event loop: whoever takes more of them never ends."""
CONTROL = digest(b"a")
"""What is sent to find out whether anything is accepted, while no text is known to be good."""


class SteppedLoop(VirtualLoop):
    """Calls `at[n]` before its nth step: between any two awaits of the program."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.at: dict[int, Callable[[], object]] = {}
        self._select = self._virtual.select
        self._virtual.select = self._stepped  # type: ignore[method-assign]

    def _stepped(self, timeout: float | None = None) -> Any:
        self.steps += 1
        assert self.steps < LONGEST_RUN, "the run does not end"
        if (due := self.at.pop(self.steps, None)) is None:
            return self._select(timeout)
        due()
        return self._select(0)


@dataclass(frozen=True, slots=True)
class End:
    """How one run ended: by itself, with an error, cancelled, or killed (then with nothing at all)."""

    report: Report | None = None
    error: BaseException | None = None
    killed: bool = False
    told: Progress | None = None

    @property
    def kind(self) -> str:
        if self.killed:
            return "crash"
        return type(self.error).__name__ if self.error else "done"


class History:
    """`kinds` has how each run ended, and `steps` how many steps each took."""

    def __init__(
        self, schedule: Schedule, disk: Faulty | None = None, books: Books | None = None, addresses: int = 1
    ) -> None:
        self.schedule = schedule
        self.addresses = addresses
        self.books = books or Books(schedule)
        self.disk: Any = disk or Disk()
        self.kinds: list[str] = []
        self.steps: list[int] = []
        self.excused: Counter[bytes] = Counter()
        self._heard = Heard()
        self._lost_before = Counter[bytes]()
        self._spent = 0
        self._spent_on = Counter[int]()
        self._at_the_kill = 0

    @property
    def ledger(self) -> Ledger:
        return self.books.ledger

    def check(self) -> None:
        try:
            self._check_all()
        finally:
            self.disk.close()

    def _check_all(self) -> None:
        for number, run in enumerate(self.schedule.runs):
            self.run(number, run)
        last = self.schedule.runs[-1]
        one_reason = len(set(self._bad(last.records))) == len(last.records)
        assert self.kinds[-1] in ("done", "InputError" if one_reason else "done"), f"ended in {self.kinds[-1]} unharmed"
        requests, writes = self.books.ledger.requests, self.disk.writes
        end = self.run(len(self.schedule.runs), last)
        assert end.report or one_reason
        assert self._tries_again or self.books.ledger.requests == requests, "an unchanged run sent something"
        assert self.disk.writes == writes, "an unchanged run wrote something"
        assert not end.report or end.report.unchanged + end.report.failed == end.report.inputs

    def run(self, number: int, run: Run) -> End:
        """One process, and what must hold after it."""
        self.books.begin(run)
        self.disk.begin(run)
        self._lost_before = Counter(self.books.lost)
        billed = self.books.ledger.billed_tokens
        end = self._lived(number, run)
        self.kinds.append(end.kind)
        self._check_rows()
        self._check_cost(run, end)
        self._check_budget(run, end, self.books.ledger.billed_tokens - billed)
        self._check_end(run, end)
        return end

    @property
    def _tries_again(self) -> bool:
        """Whether each run tries a text again: one that its server dies of."""
        return self.schedule.deadly is not None

    @property
    def slots(self) -> int:
        """Requests that may be in flight, at all addresses together."""
        return self.schedule.concurrency * self.addresses

    # one process

    def _lived(self, number: int, run: Run) -> End:
        with asyncio.Runner(loop_factory=SteppedLoop) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, SteppedLoop)
            end = runner.run(self._life(loop, run, Random(self.schedule.seed * 1_000 + number)))
            self.steps.append(loop.steps)
        assert self.books.ledger.in_flight == 0
        return end

    async def _life(self, loop: SteppedLoop, run: Run, random: Random) -> End:
        told: list[Progress] = []
        job = loop.create_task(self._job(run, random, told))
        self._arm(loop, run, job)
        await asyncio.wait([job])
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if self.disk.alive:
            assert not others, f"tasks are left: {others}"
            self._heard.check()
            end = End(error=asyncio.CancelledError()) if job.cancelled() else job.result()
            return replace(end, told=told[-1] if told else None)
        await asyncio.gather(*others, return_exceptions=True)
        return End(killed=True, told=told[-1] if told else None)

    def _arm(self, loop: SteppedLoop, run: Run, job: asyncio.Task[End]) -> None:
        if (ending := run.ending) is None:
            return
        first = loop.steps + ending.step
        if ending.kind == "crash":
            loop.at[first] = partial(self._kill, job, asyncio.current_task())
            return
        loop.at[first] = job.cancel
        if ending.again:
            loop.at[first + ending.again] = job.cancel

    def _kill(self, job: asyncio.Task[End], survivor: asyncio.Task[Any] | None) -> None:
        """From here on nothing of this process reaches the provider or the disk."""
        if not job.done():
            self._at_the_kill = self.books.ledger.tokens_in_flight
            self.disk.alive = self.books.alive = False
            for task in asyncio.all_tasks(job.get_loop()) - {survivor}:
                task.cancel()

    async def _job(self, run: Run, random: Random, told: list[Progress]) -> End:
        schedule = self.schedule
        options: dict[str, Any] = {
            "concurrency": schedule.concurrency,
            "max_batch_size": schedule.batch,
            "max_tokens_per_batch": schedule.batch_tokens,
            "on_event": Heard(),
        }
        self._heard = options["on_event"]
        latency = Latency(1.0, sigma=schedule.sigma, seed=schedule.seed)
        try:
            async with self._embedder(latency, budget=budgets_of(run), **options) as embedder:
                embedder._engine.random = random
                embedder._engine.budgets.today = lambda: date.fromordinal(1 + run.day)
                if schedule.shares:
                    for provider in self._providers(embedder):
                        provider.limits = replace(provider.limits, encoding=None)
                return End(await self._verb(embedder, run, told))
        except BaseException as error:
            return End(error=error)

    def _embedder(self, latency: Latency, **options: Any) -> AbstractAsyncContextManager[Embedder]:
        return embedder_of(self.books, latency, **options)

    def _providers(self, embedder: Embedder) -> Sequence[Any]:
        return [embedder._engine.provider]

    async def _verb(self, embedder: Embedder, run: Run, told: list[Progress]) -> Report:
        return await embedder.embed_into(self.disk, source_of(run), on_progress=told.append)

    # what must hold after each

    def _check_rows(self) -> None:
        """A vector stands beside the text that it was made from, and nowhere else."""
        for id, (text, vector) in self.disk.held().items():
            assert np.array_equal(vector, vector_of(text, DIMENSIONS)), f"{id} has the vector of another text"

    def _check_cost(self, run: Run, end: End) -> None:
        """What was billed is on the disk, in the error, or was lost; only what was lost is billed again."""
        books = self.books
        missing = books.delivered - self.disk.paid_for - {CONTROL}
        if end.killed or (self._left(run) and end.kind == "CancelledError"):
            # It waits 30 s for a store that hangs, and not at all once it is cancelled again: then nobody is told.
            assert len(missing) <= self.slots * self.schedule.batch, f"{len(missing)} texts were in flight"
            if end.told:
                again = sum(books.tokens[key] for key in missing) + self._at_the_kill * end.killed
                assert again <= end.told.at_risk_tokens, f"{again} tokens in flight, {end.told.at_risk_tokens} told"
        else:
            assert missing <= set(_unsaved(end.error)), (
                f"{end.kind}: texts that were paid for are neither stored nor in the error"
            )
        self.excused.update(missing)
        self._check_bill(run)
        for key, times in books.ledger.times_billed.items():
            in_this_run = times - books.billed_before[key] - (books.controls[key] - books.controls_before[key])
            assert in_this_run <= MOST_BILLED or key == CONTROL, f"a text was billed {in_this_run} times in one run"
        assert books.controls.total() <= books.troubles, "it asks more often than something failed"
        assert books.ledger.max_in_flight <= self.slots
        assert not books.sent_after_that, "a request went out after the key was refused"
        is_away = run.dry is not None and run.dry.fault in AWAY
        most = self.addresses * (MOST_SENT_DRY + min(2 * books.accidents, self.schedule.concurrency))
        assert is_away or books.account.sent_after <= most, f"{books.account.sent_after} sent by a dry account"

    def _check_bill(self, run: Run) -> None:
        """Nothing is billed again without a reason, over all the runs."""
        books = self.books
        for key, times in books.ledger.times_billed.items():
            most = 1 + books.lost[key] + self.excused[key] + books.controls[key] + self.disk.turned_away[key]
            assert times <= most or key == CONTROL, f"a text was billed {times} times, with reason {most}"

    def _left(self, run: Run) -> bool:
        """Whether a store failed after the job was left."""
        return bool(self.disk.hung or (self.disk.broken and run.ending and run.ending.again))

    def _check_budget(self, run: Run, end: End, tokens: int) -> None:
        """By the provider's books, whatever was lost or killed, over all the runs until one has ended by itself."""
        if run.budget is not None:
            self._spent += tokens
            assert not tokens or self._spent <= run.budget, f"{self._spent} tokens with a budget of {run.budget}"
        if run.own_budget is not None:
            assert tokens <= run.own_budget, f"{tokens} tokens with a budget of {run.own_budget} for the process"
        if run.day_budget is not None:
            self._spent_on[run.day] += tokens
            spent = self._spent_on[run.day]
            assert spent <= run.day_budget, f"{spent} tokens with a budget of {run.day_budget} for the day"
        if end.report:
            self._spent = 0
        progress = end.report or getattr(end.error, "report", None)
        if progress and self.schedule.says_usage and not self.schedule.shares:
            # What is lost is told by the provider's own estimate.
            counted = progress.billed_tokens + progress.lost_tokens
            assert tokens <= counted, f"{tokens} tokens were billed, {counted} are in the report"

    def _check_end(self, run: Run, end: End) -> None:
        progress = end.report or getattr(end.error, "report", None) or end.told
        if progress:
            settled = progress.stored + progress.unchanged + progress.failed + progress.pending
            assert settled == progress.inputs
            assert min(progress.pending, progress.failed) >= 0
            assert progress.stored <= self.disk.acknowledged, "reported stored and not acknowledged"
        if end.error:
            assert isinstance(end.error, self._possible_errors(run)), f"ended in {end.error!r}"
        if end.report:
            self._check_report(run, end.report)

    def _possible_errors(self, run: Run) -> tuple[type[BaseException], ...]:
        possible: dict[type[BaseException], bool] = {
            asyncio.CancelledError: run.ending is not None and run.ending.kind == "cancel",
            StoreError: bool(self.disk.broken),
            BudgetExceededError: (run.budget, run.own_budget, run.day_budget) != (None, None, None),
            AuthenticationError: run.revoked is not None,
            SourceError: run.raises is not None,
            OutageError: run.relentless or run.dry is not None,
            BadRequestError: run.relentless or run.dry is not None,
            InvalidReplyError: run.relentless or run.dry is not None,
            QuotaExceededError: run.dry is not None,
            PermissionDeniedError: run.dry is not None,
            # All of them failed for one reason.
            InputError: len(set(self._bad(run.records))) == len(run.records),
        }
        return tuple(error for error, may_be in possible.items() if may_be)

    def _check_report(self, run: Run, report: Report) -> None:
        """Exactly the bad texts failed, and every other one is on the disk."""
        bad = set(self._bad(run.records))
        unlucky = {f.index for f in report.failures if f.index not in bad}
        held = self.disk.held()
        missed = bad - {failure.index for failure in report.failures}
        # The second of two equal records may get through where the first one was lost.
        missed -= {i for i in missed if held.get(run.records[i].id, ("",))[0] == run.records[i].text}
        assert not missed, f"bad texts did not fail: {[run.records[index] for index in missed]}"
        # Where the provider was away for a while, too, a text may use up its tries; the next run sends it again.
        excused = {f.index for f in report.failures if run.dry and isinstance(f.error, UnavailableError)}
        assert unlucky <= excused or self._relentless, f"good texts failed: {report.failures}"
        assert (report.inputs, report.pending) == (len(run.records), 0)
        assert report.failed == len(report.failures)
        assert report.stored == self.disk.acknowledged
        for index, record in enumerate(run.records):
            if index not in bad | unlucky:
                assert held[record.id][0] == record.text, f"{record.id} was lost"

    @property
    def _relentless(self) -> bool:
        return any(run.relentless for run in self.schedule.runs)

    def _bad(self, records: Sequence[Record]) -> Iterator[int]:
        first: dict[str, str] = {}
        for index, record in enumerate(records):
            blank = not record.text.strip()
            contradicts = not blank and first.setdefault(record.id, record.text) != record.text
            if blank or contradicts or record.text in self.schedule.poison or self.disk.loses(record.id):
                yield index


def _unsaved(error: BaseException | None) -> Iterator[bytes]:
    while error:
        for rows in getattr(error, "unsaved", ()):
            yield from (digest(text.encode()) for text in rows.texts)
        error = error.__cause__


def budgets_of(run: Run) -> list[Budget]:
    given: dict[Any, int | None] = {"job": run.budget, "embedder": run.own_budget, "day": run.day_budget}
    return [Budget(tokens, per=per) for per, tokens in given.items() if tokens is not None]


def source_of(run: Run) -> Any:
    if run.source == "list" and run.raises is None:
        return list(run.records)
    return _stream(run) if run.source == "stream" else _iterator(run)


def _iterator(run: Run) -> Iterator[Record]:
    for index, record in enumerate(run.records):
        if index == run.raises:
            raise ValueError("the source is broken")
        yield record


async def _stream(run: Run) -> AsyncIterator[Record]:
    for index, record in enumerate(_iterator(run)):
        if index % 7 == 3:
            await asyncio.sleep(0.05)
        yield record
