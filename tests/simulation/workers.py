"""Several workers at once on one coordinator and one cache, real SQLite files: they are killed and begin again, the
files are away, their clock is set, and replies are lost.

    WorkersHistory(drawn_workers(7), folder).check()

What must hold: the budget is never passed by the provider's ledger, every vector is that of its text, nothing is bought
twice but what was in flight when something happened, and a last worker finishes what the others left.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from aembed import Budget, Embedder
from aembed.errors import BudgetExceededError, OutageError, StoreError
from aembed.stores._sqlite._database import SQLiteDatabase
from aembed.stores.sqlite_cache import SQLiteCache
from aembed.stores.sqlite_coordinator import SQLiteCoordinator
from tests.service.faults import Cut, Fault, Request, Status
from tests.service.in_process import DIMENSIONS, embedder_of
from tests.service.ledger import Ledger
from tests.service.limits import RateLimits
from tests.service.server import Latency
from tests.service.service import Exchange, Service
from tests.service.vectors import vector_of
from tests.service.windows import WindowKind
from tests.simulation.history import SteppedLoop
from tests.simulation.world import ProcessIsDeadError, Session

LONGEST = 20_000.0
"""Virtual seconds after which a worker that has not ended never will."""
MOST_STEPS = 300_000
ENDS = (BudgetExceededError, StoreError, OutageError)
"""A worker may end with these: the budget is spent, the files are away for too long, or the provider is."""


@dataclass(frozen=True, slots=True)
class Life:
    """One worker. It begins `start` seconds in, embeds these texts, is killed after `killed` seconds, and then begins
    again after `again`."""

    start: float
    texts: Sequence[str]
    concurrency: int
    killed: float | None = None
    again: float | None = None


@dataclass(frozen=True, slots=True)
class Shared:
    """What is drawn for one history. `away` and `steps` are of the files: from, to; when, by how many seconds."""

    seed: int
    lives: Sequence[Life]
    batch: int
    kind: WindowKind
    tokens_per_minute: int
    budget: int | None
    faults: float
    away: Sequence[tuple[float, float]]
    steps: Sequence[tuple[float, float]]


def drawn_workers(seed: int) -> Shared:
    random = Random(f"the workers of {seed}")
    texts = [f"text {number} {'ab ' * random.randint(0, 60)}{'語' * random.randint(0, 9)}" for number in range(60)]
    lives = []
    for _ in range(random.randint(2, 5)):
        first = random.randrange(40)
        some = texts[first : first + random.randint(5, 40)]
        random.shuffle(some)
        killed = random.uniform(0.0, 8.0) if random.random() < 0.4 else None
        again = random.uniform(0.0, 15.0) if killed is not None and random.random() < 0.7 else None
        lives.append(Life(random.choice([0.0, random.uniform(0, 5)]), some, random.randint(1, 4), killed, again))
    return Shared(
        seed,
        lives,
        batch=random.choice([1, 2, 4, 8]),
        kind=random.choice(["fixed", "sliding", "bucket", "gcra"]),
        tokens_per_minute=random.choice([1_500, 6_000, 60_000]),
        budget=random.choice([None, 300, 1_000, 5_000]),
        faults=random.choice([0.0, 0.0, 0.1]),
        away=[(at, at + random.uniform(0.5, 40.0)) for at in [random.uniform(0, 8)] if random.random() < 0.4],
        steps=[
            (random.uniform(0, 8), random.choice([-3_600.0, -4.0, 4.0, 3_600.0]))
            for _ in range(random.choice([0, 0, 1, 2]))
        ],
    )


class Provider(Service):
    """It knows of each request whose it is, and of each text how often it was billed for a reply that got lost."""

    def __init__(self, shared: Shared) -> None:
        self._random, self._share = Random(shared.seed), shared.faults
        limits = RateLimits.of(shared.kind, tokens_per_minute=shared.tokens_per_minute)
        super().__init__(limits=limits, script=self._fault)
        self.lost = Counter[bytes]()

    def _fault(self, request: Request) -> Fault | None:
        if self._random.random() >= self._share:
            return None
        return self._random.choice([Status(500), Status(504, billed=True), Cut()])

    def leave(self, exchange: Exchange, *, intact: bool) -> None:
        super().leave(exchange, intact=intact)
        if exchange.call and exchange.billed and not intact:
            self.lost.update(exchange.call.digests)


@dataclass(eq=False)
class Process:
    """One life of a worker; nothing of it arrives anywhere once it `is_dead`."""

    is_dead: bool = False


@dataclass(eq=False)
class Files:
    """The clock of both files, and when they are away."""

    away: Sequence[tuple[float, float]]
    steps: Sequence[tuple[float, float]]
    calls: Callable[[], float] = field(default=lambda: asyncio.get_running_loop().time())

    @property
    def is_away(self) -> bool:
        return any(start <= self.calls() < end for start, end in self.away)

    def days(self) -> float:
        """What julianday('now') says."""
        now = self.calls()
        return 2_440_587.5 + (1e9 + now + sum(by for at, by in self.steps if at <= now)) / 86_400.0


@dataclass(eq=False)
class Thread:
    """In the place of a thread of SQLite's: the work is done at once, or refused."""

    files: Files
    process: Process

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            if self.process.is_dead or self.files.is_away:
                raise StoreError("the file is away")
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)
        return done

    def shutdown(self, wait: bool = True) -> None:
        pass


class Clocked(Session):
    """Connections whose clock is that of the files."""

    def __init__(self, files: Files, *, reads_only: bool) -> None:
        super().__init__({}, reads_only=reads_only)
        self._days = files.days

    def connection(self, path: Path, timeout: float) -> Any:
        before, connection = self._set, super().connection(path, timeout)
        if connection is not None and connection is not before:
            connection.create_function("julianday", 1, lambda _: self._days())
        return connection


class WorkersHistory:
    """`kinds` has how each worker ended."""

    def __init__(self, drawn: Shared, folder: Path) -> None:
        self.drawn = drawn
        self.books = Provider(drawn)
        self.kinds: list[str] = []
        self.steps: list[int] = []
        self._folder = folder
        self._databases: list[SQLiteDatabase] = []
        self._files = Files(drawn.away, drawn.steps)
        self._may_be_twice = 0
        """Texts that may have been in flight when something happened."""

    @property
    def ledger(self) -> Ledger:
        return self.books.ledger

    def check(self) -> None:
        with asyncio.Runner(loop_factory=LongLoop) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, SteppedLoop)
            try:
                runner.run(self._all())
            finally:
                self.steps.append(loop.steps)
                for database in self._databases:
                    for worker in (database._writer, database._reader, database._searcher):
                        worker.file.close()

    async def _all(self) -> None:
        drawn = self.drawn
        await asyncio.gather(*[self._live(number, life) for number, life in enumerate(drawn.lives)])
        self._check_budget()
        in_flight = sum(life.concurrency for life in drawn.lives) * drawn.batch
        # Whoever stands still while the clock of the files goes on, or they are away, loses what it had leased.
        self._may_be_twice += in_flight * (len(drawn.steps) + 2 * len(drawn.away))
        await asyncio.sleep(max([end for _, end in drawn.away], default=0.0))
        everything = sorted({text for life in drawn.lives for text in life.texts})
        times = Counter(self.books.ledger.times_billed)
        last = Life(0.0, everything, 4)
        self.books._share = 0.0
        assert await self._work(Process(), len(drawn.lives), last, limited=False) == "done"
        bought = Counter(self.books.ledger.times_billed)
        assert len(bought) >= len(everything), "a text was never bought"
        again = sum((bought - times).values()) - (len(bought) - len(times))
        self._check_bill(bought, again)

    async def _live(self, number: int, life: Life) -> None:
        await asyncio.sleep(life.start)
        process = Process()
        running = asyncio.create_task(self._work(process, number, life, limited=True))
        done, _ = await asyncio.wait([running], timeout=LONGEST if life.killed is None else life.killed)
        if done:
            self.kinds.append(running.result())
            return
        assert life.killed is not None, "a worker never ends"
        process.is_dead = True
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        self.kinds.append("crash")
        self._may_be_twice += life.concurrency * self.drawn.batch
        if life.again is not None:
            await asyncio.sleep(life.again)
            self.kinds.append(await self._work(Process(), number, life, limited=True))

    async def _work(self, process: Process, number: int, life: Life, *, limited: bool) -> str:
        budget = Budget(max_billed_tokens=self.drawn.budget, per="day") if self.drawn.budget and limited else None
        options: dict[str, Any] = {
            "concurrency": life.concurrency,
            "max_batch_size": self.drawn.batch,
            "budget": budget,
            "cache": str(self._folder / "cache.db"),
            "coordinator": str(self._folder / "limits.db"),
        }
        latency = Latency(1.0, sigma=0.3, seed=self.drawn.seed + number)
        try:
            async with embedder_of(Mortal(self.books, process), latency, **options) as embedder:
                self._place(embedder, process, number)
                found = await embedder.embed_documents(life.texts)
        except ENDS as error:
            if isinstance(error, StoreError):
                self._may_be_twice += life.concurrency * self.drawn.batch
            return type(error).__name__
        for text, vector in zip(life.texts, found, strict=True):
            assert vector is not None, found.failures
            assert np.array_equal(vector, vector_of(text, DIMENSIONS)), f"{text!r} has the vector of another text"
        return "done"

    def _place(self, embedder: Embedder, process: Process, number: int) -> None:
        """Its files are on virtual time."""
        engine = embedder._engine
        engine.random = Random(self.drawn.seed * 1_000 + number)
        engine.budgets.today = lambda: date(2026, 1, 1)
        coordination, cache = engine._coordination, engine.caching._cache
        assert coordination is not None
        assert isinstance(coordination._coordinator, SQLiteCoordinator)
        assert isinstance(cache, SQLiteCache)
        for database in (coordination._coordinator._database, cache._database):
            self._databases.append(database)
            for worker in (database._writer, database._reader, database._searcher, database.mapper):
                worker._thread = Thread(self._files, process)  # type: ignore[assignment]
                worker.file = Clocked(self._files, reads_only=worker._reads_only)

    def _check_budget(self) -> None:
        if self.drawn.budget is not None:
            billed = self.books.ledger.billed_tokens
            assert billed <= self.drawn.budget, (
                f"{billed:,} tokens on the bill, and the budget is {self.drawn.budget:,}"
            )

    def _check_bill(self, bought: Mapping[bytes, int], again: int) -> None:
        extra = sum(times - 1 for times in bought.values())
        lost = self.books.lost.total()
        most = self._may_be_twice + lost
        assert extra <= most, f"{extra} texts were bought again, and {most} were in flight or lost"
        assert again <= most


class Mortal(Service):
    """The provider, as one process sees it."""

    def __init__(self, books: Service, process: Process) -> None:
        super().__init__()
        self._books, self._process = books, process

    def receive(self, headers: Mapping[str, str], body: bytes, now: float) -> Exchange:
        if self._process.is_dead:
            raise ProcessIsDeadError
        return self._books.receive(headers, body, now)

    def leave(self, exchange: Exchange, *, intact: bool) -> None:
        self._books.leave(exchange, intact=intact and not self._process.is_dead)


class LongLoop(SteppedLoop):
    """Several workers take more steps than one."""

    def _stepped(self, timeout: float | None = None) -> Any:
        assert self.steps < MOST_STEPS, "the workers do not end"
        self.steps += 1
        return self._select(timeout)


def of_workers(seed: int, folder: Path) -> WorkersHistory:
    return WorkersHistory(drawn_workers(seed), folder)
