"""Several workers at once on one coordinator and one cache, real SQLite files: workers are killed and begin again, each
file is away at times, or both are, their clocks are set, and replies are lost.

    WorkersHistory(drawn_workers(7), folder).check()

What must hold: the budget is never passed by the provider's ledger, every vector is that of its text, nothing is bought
twice but what was in flight when something happened, and a last worker finishes what the others left.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from aembed import Budget, Embedder, MemoryStore, Record
from aembed.errors import BudgetExceededError, OutageError, StoreError
from aembed.stores._sqlite._database import SQLiteDatabase
from aembed.stores.sqlite_cache import SQLiteCache
from aembed.stores.sqlite_coordinator import SQLiteCoordinator
from aembed.types import Vector
from tests.service.faults import Cut, Fault, Request, Status
from tests.service.in_process import DIMENSIONS, embedder_of
from tests.service.ledger import Ledger
from tests.service.limits import RateLimits
from tests.service.server import Latency
from tests.service.service import Exchange, Service
from tests.service.vectors import digest, vector_of
from tests.service.windows import WindowKind
from tests.simulation.files import Away, How, Process, SharedFile, threads_of
from tests.simulation.history import SteppedLoop
from tests.simulation.world import ProcessIsDeadError

LONGEST = 20_000.0
"""Virtual seconds after which a worker that has not ended never will."""
MOST_STEPS = 300_000
MOST_FAULTS = 2
"""Of one text, so that none fails by bad luck."""
MOST_REFUSED = 3
"""Requests of one history that come too early for a limit of fixed or of sliding minutes: nobody knows what was sent
before the first reply named the limit."""
ENDS = (BudgetExceededError, StoreError, OutageError)
"""A worker may end with these: the budget is spent, the files are away for too long, or the provider is."""


@dataclass(frozen=True, slots=True)
class Life:
    """One worker. It begins `start` seconds in, embeds these texts, where it `stores` into a store of its own, is
    killed after `killed` seconds, and then begins again after `again`."""

    start: float
    texts: Sequence[str]
    concurrency: int
    stores: bool = False
    killed: float | None = None
    again: float | None = None


@dataclass(frozen=True, slots=True)
class Shared:
    """What is drawn for one history."""

    seed: int
    lives: Sequence[Life]
    batch: int
    kind: WindowKind
    tokens_per_minute: int
    budget: int | None
    faults: float
    limits: SharedFile
    cache: SharedFile


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
        start, concurrency = random.choice([0.0, random.uniform(0, 5)]), random.randint(1, 4)
        lives.append(Life(start, some, concurrency, random.random() < 0.3, killed, again))
    limits, cache = drawn_files(random)
    return Shared(
        seed,
        lives,
        batch=random.choice([1, 2, 4, 8]),
        kind=random.choice(["fixed", "sliding", "bucket", "gcra"]),
        tokens_per_minute=random.choice([1_500, 6_000, 60_000]),
        budget=random.choice([None, 300, 1_000, 5_000]),
        faults=random.choice([0.0, 0.0, 0.1]),
        limits=limits,
        cache=cache,
    )


def drawn_files(random: Random) -> tuple[SharedFile, SharedFile]:
    """Of the coordinator and of the cache: on one machine, or on two."""
    whole = drawn_file(random)
    return (whole, whole) if random.random() < 0.5 else (drawn_file(random), drawn_file(random))


def drawn_file(random: Random) -> SharedFile:
    away, at = list[Away](), 0.0
    for _ in range(random.choice([0, 0, 0, 1, 1, 2])):
        start = at + random.uniform(0.0, 8.0)
        if random.random() < 0.5:
            # What is done as a server goes down is not told.
            away.append(Away(start, start := start + random.uniform(0.1, 0.6), "loses"))
        how: How = random.choice(["refuses", "hangs"])
        away.append(Away(start, at := start + random.uniform(0.5, random.choice([4.0, 40.0, 120.0])), how))
    steps = [
        (random.uniform(0, 8), random.choice([-3_600.0, -4.0, 4.0, 3_600.0]))
        for _ in range(random.choice([0, 0, 1, 2]))
    ]
    return SharedFile(away, steps)


class Provider(Service):
    """It knows of each text how often it was billed for a reply that got lost, and for a control: a text that was
    accepted goes alone once more, to tell whether the provider accepts anything."""

    def __init__(self, shared: Shared) -> None:
        self._random, self._share = Random(shared.seed), shared.faults
        limits = RateLimits.of(shared.kind, tokens_per_minute=shared.tokens_per_minute)
        super().__init__(limits=limits, script=self._fault)
        self.lost, self.controls = Counter[bytes](), Counter[bytes]()
        self.troubles = 0
        self._met = Counter[str]()
        self._delivered = set[bytes]()

    def _fault(self, request: Request) -> Fault | None:
        if self._random.random() >= self._share or any(self._met[text] >= MOST_FAULTS for text in request.texts):
            return None
        self._met.update(request.texts)
        return self._random.choice([Status(500), Status(504, billed=True), Cut()])

    def leave(self, exchange: Exchange, *, intact: bool) -> None:
        super().leave(exchange, intact=intact)
        self.troubles += not intact
        if not exchange.call or not exchange.billed:
            return
        if not intact:
            self.lost.update(exchange.call.digests)
        elif len(exchange.call.digests) == 1 and self._delivered.issuperset(exchange.call.digests):
            self.controls.update(exchange.call.digests)
        self._delivered.update(exchange.call.digests if intact else ())


class WorkersHistory:
    """`kinds` has how each worker ended."""

    def __init__(self, drawn: Shared, folder: Path) -> None:
        self.drawn = drawn
        self.books = Provider(drawn)
        self.kinds: list[str] = []
        self.steps: list[int] = []
        self._folder = folder
        self._databases: list[SQLiteDatabase] = []
        self._excused: Counter[bytes] = Counter()
        """Texts whose vectors had come, and were not kept yet as their worker was killed, or the cache was away."""

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
                    for worker in threads_of(database):
                        worker.file.close()

    async def _all(self) -> None:
        drawn = self.drawn
        await asyncio.gather(*[self._live(number, life) for number, life in enumerate(drawn.lives)])
        self._check_budget()
        await asyncio.sleep(max(drawn.cache.back_at, drawn.limits.back_at))
        everything = sorted({text for life in drawn.lives for text in life.texts})
        last = Life(0.0, everything, 4)
        self.books._share = 0.0
        assert await self._work(Process(), len(drawn.lives), last, limited=False) == "done"
        assert len(self.books.ledger.times_billed) >= len(everything), "a text was never bought"
        self._check_bill()
        self._check_refusals()

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
        provider = Mortal(self.books, process)
        try:
            async with embedder_of(provider, latency, **options) as embedder:
                self._place(embedder, process, number)
                found = await self._embed(embedder, life)
        except ENDS as error:
            return type(error).__name__
        finally:
            if process.is_dead or self.drawn.cache.away:
                self._excused.update(provider.delivered - self._kept())
        for text, vector in zip(life.texts, found, strict=True):
            assert vector is not None, f"{text!r} has no vector"
            assert np.array_equal(vector, vector_of(text, DIMENSIONS)), f"{text!r} has the vector of another text"
        return "done"

    async def _embed(self, embedder: Embedder, life: Life) -> Iterable[Vector | None]:
        if not life.stores:
            return await embedder.embed_documents(life.texts)
        store = MemoryStore()
        report = await embedder.embed_into(store, [Record(text, text) for text in life.texts])
        assert report.stored == len(life.texts)
        rows = {row.id: row.vector async for row in store.rows()}
        return [rows.get(text) for text in life.texts]

    def _place(self, embedder: Embedder, process: Process, number: int) -> None:
        """Its files are on virtual time."""
        engine = embedder._engine
        engine.random = Random(self.drawn.seed * 1_000 + number)
        engine.budgets.today = lambda: date(2026, 1, 1)
        coordination, cache = engine._coordination, engine.caching._cache
        assert coordination is not None
        assert isinstance(coordination._coordinator, SQLiteCoordinator)
        assert isinstance(cache, SQLiteCache)
        drawn = self.drawn
        for file, database in ((drawn.limits, coordination._coordinator._database), (drawn.cache, cache._database)):
            self._databases.append(database)
            file.open_for(process, database)

    def _check_budget(self) -> None:
        if self.drawn.budget is not None:
            billed = self.books.ledger.billed_tokens
            assert billed <= self.drawn.budget, (
                f"{billed:,} tokens on the bill, and the budget is {self.drawn.budget:,}"
            )

    def _check_bill(self) -> None:
        """Nothing is bought again but what was lost, or had come and was not kept. Whoever stands still while the clock
        of the cache goes on, or it is away, loses what it had leased: then another one may send it, too."""
        books, cache = self.books, self.drawn.cache
        lapses = len(cache.steps) + len(cache.away)
        for key, times in books.ledger.times_billed.items():
            most = 1 + books.lost[key] + books.controls[key] + self._excused[key] + lapses
            assert times <= most, f"a text was bought {times} times, with reason {most}"
        # An undisturbed cache alone tells controls from texts that two workers have bought.
        assert lapses or books.controls.total() <= books.troubles, "it asks more often than something failed"

    def _check_refusals(self) -> None:
        """A bucket that holds fewer tokens than one batch says so by refusing it."""
        if self.drawn.kind in ("fixed", "sliding"):
            refused = self.books.ledger.rate_limited
            assert refused <= MOST_REFUSED, f"{refused} requests were refused"

    def _kept(self) -> set[bytes]:
        """The texts whose vectors are in the cache."""
        path = self._folder / "cache.db"
        if not path.exists():
            return set()
        with closing(sqlite3.connect(path)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'aembed_cache'").fetchone():
                return set()
            held = {blob for (blob,) in connection.execute("SELECT embedding FROM aembed_cache")}
        texts = {text for life in self.drawn.lives for text in life.texts}
        return {digest(text.encode()) for text in texts if vector_of(text, DIMENSIONS).tobytes() in held}


class Mortal(Service):
    """The provider, as one process sees it."""

    def __init__(self, books: Service, process: Process) -> None:
        super().__init__()
        self._books, self._process = books, process
        self.delivered: set[bytes] = set()

    def receive(self, headers: Mapping[str, str], body: bytes, now: float) -> Exchange:
        if self._process.is_dead:
            raise ProcessIsDeadError
        return self._books.receive(headers, body, now)

    def leave(self, exchange: Exchange, *, intact: bool) -> None:
        intact = intact and not self._process.is_dead
        if intact and exchange.call and exchange.billed:
            self.delivered.update(exchange.call.digests)
        self._books.leave(exchange, intact=intact)


class LongLoop(SteppedLoop):
    """Several workers take more steps than one."""

    def _stepped(self, timeout: float | None = None) -> Any:
        assert self.steps < MOST_STEPS, "the workers do not end"
        self.steps += 1
        return self._select(timeout)


def of_workers(seed: int, folder: Path) -> WorkersHistory:
    return WorkersHistory(drawn_workers(seed), folder)
