"""Days of jobs with batches, on virtual time: the provider is the simulated one with its own ledger, the store a real
SQLite file, and everything between them the program as it is.

    BatchesHistory(drawn_batches(7), folder).check()

Several workers run at once, live ones among them; they are killed at any step; answers are lost, creates come late or
twice, the list lags, the queue is small, batches expire and fail, lines go wrong, and texts are edited and edited back.
What must hold: rows are right at any time; in the end all of them are there, nothing is left at the provider, and by
its ledger nothing was bought twice but what had to be, and that was told.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from aembed import Report
from aembed.errors import BadRequestError, UnavailableError
from tests.service.batches.batch import Batch
from tests.service.batches.faults import LineFault, Plans
from tests.service.batches.openai import OpenAIWire
from tests.service.batches.provider import Batches, Limits
from tests.service.in_process import DIMENSIONS
from tests.service.ledger import Ledger
from tests.service.vectors import digest, vector_of
from tests.simulation.batches_drawn import DAY, HOUR, MINUTE, USUAL, Days, Life, drawn_batches
from tests.simulation.batches_places import InColumn, InStore, Place
from tests.simulation.batches_world import EPOCH, TERMS, Provider, embedder_of, small_world
from tests.simulation.files import Process, SharedFile
from tests.simulation.history import SteppedLoop

MOST_RUNS_TO_THE_END = 16
LONGEST = 30_000.0
SPOILT: frozenset[LineFault] = frozenset({"null id", "wrong width", "not JSON"})
"""What stands in such a line is billed, and cannot be used."""


@dataclass(eq=False)
class Running:
    """One process that is under way."""

    life: Life
    process: Process = field(default_factory=Process)
    task: asyncio.Task[Any] | None = None


class BatchesHistory:
    """`kinds` has how each process ended."""

    def __init__(self, drawn: Days, folder: Path) -> None:
        self.drawn = drawn
        self.kinds: list[str] = []
        self.steps: list[int] = []
        self.extra = 0
        self.told = Counter[str]()
        """`bought_twice` and `billed_tokens` of all reports."""
        self.service = Provider()
        plans = Plans(drawn.courses, usual=drawn.usual, **drawn.faults)
        limits = Limits(queue_tokens=drawn.queue_tokens)
        self._batches = Batches(
            self.service.rules,
            lambda: self.service.ledger,
            limits=limits,
            plans=plans,
            list_lag=drawn.list_lag,
            epoch=EPOCH,
        )
        self._wire = OpenAIWire(self._batches)
        self._place: Place = (InColumn if drawn.in_column else InStore)(folder / "rows.db", SharedFile((), ()))
        self._texts: dict[str, str] = {}
        self._held: dict[str, str] = {}
        self._wanted_again = Counter[bytes]()
        """Texts whose rows were overwritten: whoever takes the edit back buys them again. A column does not know which
        texts it has: it buys one for each row."""

    @property
    def ledger(self) -> Ledger:
        return self.service.ledger

    def check(self) -> None:
        with asyncio.Runner(loop_factory=SteppedLoop) as runner, small_world(Random(self.drawn.seed)):
            loop = runner.get_loop()
            assert isinstance(loop, SteppedLoop)
            try:
                runner.run(self._all(loop))
            finally:
                self.steps.append(loop.steps)

    async def _all(self, loop: SteppedLoop) -> None:
        self._edit(self.drawn.texts)
        for visit in self.drawn.visits:
            await asyncio.sleep(visit.pause)
            self._edit(visit.edits)
            await self._visit(loop, visit.lives)
        self._batches.plans = Plans(usual=USUAL)
        await self._finish(loop)

    def _edit(self, changes: Mapping[str, str]) -> None:
        if self.drawn.in_column:
            self._wanted_again.update(digest(text.encode()) for text in changes.values())
        self._texts |= changes
        self._place.edit(changes)

    async def _visit(self, loop: SteppedLoop, lives: Sequence[Life]) -> list[Any]:
        running = [Running(life) for life in lives]
        for each in running:
            each.task = loop.create_task(self._live(each))
            if each.life.killed is not None:
                at = loop.steps + each.life.killed
                while at in loop.at:
                    at += 1
                loop.at[at] = partial(self._kill, each)
        _, pending = await asyncio.wait([each.task for each in running if each.task], timeout=LONGEST)
        assert not pending, "a process never ends"
        loop.at.clear()
        found = [each.task.result() for each in running if each.task and not each.process.is_dead]
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self._check_rows()
        return found

    def _kill(self, running: Running) -> None:
        """From here on nothing of this process reaches the service or the file."""
        if running.task and not running.task.done():
            running.process.is_dead = True
            running.task.cancel()
            self.kinds.append("crash")

    async def _live(self, running: Running) -> Report | None:
        life, process = running.life, running.process
        await asyncio.sleep(life.start)
        with self._place.opened(process) as place:
            try:
                return self._note(await self._work(life, process, place))
            except BaseException as error:
                if process.is_dead:
                    return None
                self._check_error(error)
                return self._note(getattr(error, "report", None))

    def _check_error(self, error: BaseException) -> None:
        self.kinds.append(type(error).__name__)
        is_limit = getattr(error, "status_code", None) == 429
        if not isinstance(error, UnavailableError | BadRequestError) and not is_limit:
            raise error

    async def _work(self, life: Life, process: Process, place: Any) -> Report | None:
        async with embedder_of(self.service, self._wire, process, life.skew, self.drawn.seed) as embedder:
            if life.kind == "cancel":
                await embedder.cancel_batches(place)
                self.kinds.append("cancelled")
                return None
            options: dict[str, Any] = {"batch": life.kind != "live", "fallback_live": life.kind == "batch or live"}
            report = await self._place.run(embedder, place, self._texts, **options)
        self.kinds.append("done")
        return report

    def _note(self, report: Report | None) -> Report | None:
        if report:
            settled = report.stored + report.unchanged + report.failed + report.submitted + report.pending
            assert settled == report.inputs, f"{report} does not add up"
            assert min(report.submitted, report.pending, report.failed) >= 0, report
            self.told.update(bought_twice=report.bought_twice, billed_tokens=report.billed_tokens + report.lost_tokens)
        return report

    # the end: no fault any more, and runs until all is there

    async def _finish(self, loop: SteppedLoop) -> None:
        last: Any = None
        for number in range(MOST_RUNS_TO_THE_END):
            await asyncio.sleep(26 * HOUR if number % 3 == 2 else 15 * MINUTE)
            (last,) = await self._visit(loop, [Life("batch")])
            if self._held == self._texts:
                break
        assert self._held == self._texts, f"it does not come to an end: {last}"
        for _ in range(3):
            # By then the service has deleted what was uploaded and never used.
            await asyncio.sleep(8 * DAY)
            (last,) = await self._visit(loop, [Life("batch")])
        assert last.unchanged == last.inputs, last
        assert self._held == self._texts
        await self._check_nothing_is_left()
        self._check_bill()

    async def _check_nothing_is_left(self) -> None:
        now = asyncio.get_running_loop().time()
        running = [batch.id for batch in self._all_batches(now) if not batch.is_over]
        assert not running, f"{running} are running"
        left = [file.name for file in self._batches.files.there(now)]
        assert not left, f"{left} are left at the service"
        with self._place.opened(Process()) as place:
            kept = [each.key for each in await place.batches() if each.key.startswith("aembed-")]
        assert not kept, f"{kept} are kept"

    def _all_batches(self, now: float) -> list[Batch]:
        self._batches.settle(now)
        return [*self._batches._batches.values()]

    # what must hold

    def _check_rows(self) -> None:
        """A vector stands beside the text that it was made from."""
        rows = self._place.rows()
        for id, (text, vector) in rows.items():
            assert np.array_equal(vector, vector_of(text, DIMENSIONS)), f"{id} has the vector of another text"
        held = {id: text for id, (text, _) in rows.items()}
        overwritten = {text for id, text in self._held.items() if held.get(id) != text}
        self._wanted_again.update(digest(text.encode()) for text in overwritten)
        self._held = held

    def _check_bill(self) -> None:
        drawn, ledger = self.drawn, self.service.ledger
        excused = self._wanted_again + self.service.lost() + Counter(self._spoilt())
        extra = Counter(ledger.times_billed) - excused - Counter(dict.fromkeys(ledger.times_billed, 1))
        self.extra = extra.total()
        if not drawn.has_twins:
            assert not extra, f"{len(extra)} texts were bought twice, without a reason"
        if "crash" not in self.kinds:
            # Lines that were settled before their twin was found are told by the texts of an average line.
            most = self.told["bought_twice"] + TERMS.max_texts_per_line * self._twins()
            assert extra.total() <= most, f"{extra.total()} bought twice, told {self.told}"
            billed = self.told["billed_tokens"]
            assert billed == ledger.billed_tokens, f"{billed} tokens are told, {ledger.billed_tokens} are on the bill"

    def _twins(self) -> int:
        batches = self._all_batches(asyncio.get_running_loop().time())
        return len(batches) - len({tuple(batch.input_file_ids) for batch in batches})

    def _spoilt(self) -> Iterator[bytes]:
        for batch in self._all_batches(asyncio.get_running_loop().time()):
            for answered in batch.answered:
                if answered.fault in SPOILT or not batch.course.output:
                    yield from answered.call.digests


def of_batches(seed: int, folder: Path) -> BatchesHistory:
    return BatchesHistory(drawn_batches(seed), folder)
