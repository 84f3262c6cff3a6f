"""What outlives a process: the provider with its books, and the disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from aembed import MemoryStore, RowsRefusedError, SQLiteStore
from aembed.results import Report
from aembed.stores._sqlite._database import SQLiteDatabase
from aembed.stores._sqlite._rows import create_tables
from aembed.stores._sqlite._thread import OpenFile
from aembed.types import Known, Refusal, Rows, Vector
from tests.service.faults import Body, Fault, First, Mutate, Request, Script, Status, Truncate
from tests.service.ledger import BYTES_PER_TOKEN
from tests.service.refusals import Deadly, Poison, usual_body
from tests.service.service import Exchange, Rules, Service
from tests.service.vectors import digest
from tests.simulation.schedule import Dry, Run, Schedule, StoreFault
from tests.simulation.servers import bill_of

REFUSAL_SECONDS = 0.02
MOST_FAULTS = 3
"""Of one text: a request that fails is tried again so often."""


class ProcessIsDeadError(BaseException):
    """What is left of a process that was killed wants something of the world."""


class Books(Service):
    """The provider. It notes of each billed text whether the reply that carried it arrived whole."""

    def __init__(self, schedule: Schedule) -> None:
        # What is left of a batch that its server failed is tried three times in all.
        is_dry = any(run.dry for run in schedule.runs)
        self.faults = RunFaults(MOST_FAULTS - bool(schedule.server or schedule.deadly or is_dry))
        self.account = Account()
        rules = Rules(bills=bill_of(schedule))
        bad: Script = Poison(schedule.poison, named=schedule.named)
        if schedule.deadly:
            bad = Deadly(schedule.poison.__contains__, schedule.deadly)
        scripts = [self.account, bad, *filter(None, [schedule.server]), self.faults]
        super().__init__(rules, script=First(scripts))
        self.lost: Counter[bytes] = Counter()
        self.delivered: set[bytes] = set()
        self.tokens: dict[bytes, float] = {}
        self.billed_before: Counter[bytes] = Counter()
        self.controls: Counter[bytes] = Counter()
        self.controls_before: Counter[bytes] = Counter()
        """A text that was accepted and goes alone once more: whether the provider accepts anything."""
        self.troubles = 0
        self.accidents = 0
        """Other troubles of this run than an account without money."""
        self.alive = True
        self.key_refused_at = inf
        self.sent_after_that = 0

    def begin(self, run: Run) -> None:
        self.faults.begin(run)
        self.account.begin(run.dry)
        self.alive = True
        self.accidents = 0
        self.delivered = set()
        self.billed_before = Counter(self.ledger.times_billed)
        self.controls_before = Counter(self.controls)
        self.key_refused_at = inf

    def receive(self, headers: Mapping[str, str], body: bytes, now: float) -> Exchange:
        if not self.alive:
            raise ProcessIsDeadError
        self.sent_after_that += now > self.key_refused_at
        return super().receive(headers, body, now)

    def leave(self, exchange: Exchange, *, intact: bool) -> None:
        super().leave(exchange, intact=intact)
        failed = not intact or exchange.fault is not None
        self.troubles += failed
        self.accidents += failed and not self.account.is_dry(exchange.fault)
        if exchange.call and exchange.billed:
            if len(exchange.call.digests) == 1 and self.delivered.issuperset(exchange.call.digests):
                self.controls.update(exchange.call.digests)
            (self.delivered if intact else self.lost).update(exchange.call.digests)
            sizes = zip(exchange.call.digests, exchange.call.sizes, strict=True)
            self.tokens.update((key, size_bytes / BYTES_PER_TOKEN) for key, size_bytes in sizes)
        if isinstance(exchange.fault, Status) and exchange.fault.code == 401:
            self.key_refused_at = min(self.key_refused_at, asyncio.get_running_loop().time())


class Account:
    """Dry, in some runs. `sent_after` counts the requests that came once the first of them had been answered."""

    def begin(self, dry: Dry | None) -> None:
        self._dry, self._number = dry, -1
        self._since = inf
        self.sent_after = 0

    def is_dry(self, fault: Fault | None) -> bool:
        return self._dry is not None and fault is self._dry.fault

    def __call__(self, request: Request) -> Fault | None:
        self._number += 1
        if self._dry is None or self._number < self._dry.number:
            return None
        self._since = min(self._since, request.at)
        if request.at - self._since >= self._dry.seconds:
            return None
        self.sent_after += request.at >= self._since + REFUSAL_SECONDS
        return self._dry.fault


class RunFaults:
    """The faults of one run by the number of the request.

    A text is spared once it has met `most` of them or one broken reply, so that none fails by bad luck.
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def begin(self, run: Run) -> None:
        self._run, self._number = run, -1
        self._met: Counter[str] = Counter()
        self._broken: Counter[str] = Counter()

    def __call__(self, request: Request) -> Fault | None:
        run, self._number = self._run, self._number + 1
        if run.revoked is not None and self._number >= run.revoked:
            return Status(401, usual_body(401))
        fault = run.faults.get(self._number)
        if run.relentless or fault is None or (isinstance(fault, Status) and fault.code == 429):
            return fault
        broken = isinstance(fault, Truncate | Mutate | Body)
        if any(self._met[t] >= self.most or (broken and self._broken[t]) for t in request.texts):
            return None
        self.note_met(request)
        self._broken.update(request.texts if broken else ())
        return fault

    def note_met(self, request: Request) -> None:
        """The texts of that request have met a fault, of whatever kind."""
        self._met.update(request.texts)


class Faulty:
    """Goes before a store, or a table of the user's own. `paid_for`: the digests of all texts that it ever took.

    `turned_away` counts the rows that its table refused, or dropped, by text: whoever wants it again pays again.
    """

    def __init__(self, *place: Any, **options: Any) -> None:
        super().__init__(*place, **options)
        self.alive = True
        self.paid_for: set[bytes] = set()
        self.turned_away: Counter[bytes] = Counter()
        self.acknowledged = self.writes = self.broken = self.hung = 0
        self._faults: Mapping[int, StoreFault] = {}
        self._calls = 0

    def begin(self, run: Run) -> None:
        self.alive = True
        self.acknowledged = self.broken = self.hung = 0
        self._faults, self._calls = run.store, 0

    def close(self) -> None:
        """The files that it has open."""

    def loses(self, id: str) -> bool:
        """Whether the table keeps no vector in that row."""
        return False

    async def spend(self, job: str, tokens: int) -> int:
        fault = await self._asked()
        spent = await super().spend(job, tokens)
        await self._returned(fault)
        return spent

    async def close_account(self, job: str) -> None:
        self._living()
        await super().close_account(job)

    async def _done(self, ids: Sequence[str], texts: Sequence[str], write: Awaitable[int]) -> int:
        """How many rows `write` has filled; raises RowsRefusedError as it does."""
        fault = await self._asked(write)
        lost: RowsRefusedError | None = None
        try:
            filled = await write
        except RowsRefusedError as error:
            lost, filled = error, error.written
            self.turned_away.update(digest(t.encode()) for id, t in zip(ids, texts, strict=True) if id in error.rows)
        self.writes += 1
        self.paid_for.update(digest(text.encode()) for text in texts)
        await self._returned(fault)
        self.acknowledged += filled
        if lost:
            raise lost
        return filled

    async def _asked(self, work: Any = None) -> StoreFault:
        """`work` is closed where nothing comes of it."""
        try:
            fault, self._calls = self._faults.get(self._calls, StoreFault()), self._calls + 1
            hangs = fault.before > 100
            refused = hangs or fault.refused == "before"
            self.hung += hangs
            self.broken += refused
            await anyio.sleep(fault.before)
            self._living()
            if refused:
                raise OSError(28, "No space left on device")
        except BaseException:
            if work is not None:
                work.close()
            raise
        return fault

    async def _returned(self, fault: StoreFault) -> None:
        """Between the work and its acknowledgement the process may die, or the connection break."""
        await anyio.sleep(fault.after)
        self._living()
        if fault.refused == "after":
            self.broken += 1
            raise ConnectionResetError

    def _living(self) -> None:
        if not self.alive:
            raise ProcessIsDeadError


class FaultyStore(Faulty):
    async def known(self, digests: Mapping[str, bytes], fingerprints: Mapping[str, bytes]) -> Known:
        fault = await self._asked()
        known = await super().known(digests, fingerprints)
        await self._returned(fault)
        return known

    async def vectors(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]:
        fault = await self._asked()
        vectors = await super().vectors(fingerprints)
        await self._returned(fault)
        return vectors

    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        await self._done(rows.ids, rows.texts, self._wrote(rows, refusals))

    async def _wrote(self, rows: Rows, refusals: Sequence[Refusal]) -> int:
        await super().write(rows, refusals)
        return len(rows)

    async def finish(self, report: Report) -> None:
        self._living()
        await super().finish(report)


class Disk(FaultyStore, MemoryStore):
    """Rows that outlive the processes."""

    def held(self) -> Mapping[str, tuple[str, Vector]]:
        """Text and vector of each id."""
        return {id: (row.text, row.vector) for id, row in self._rows.items()}


class OnFile:
    """Of a real file, on virtual time: its work is done at once, in no thread. Each process opens it anew.

    `settings` are those of a session: what PRAGMA says in each connection.
    """

    def open_with(self, database: SQLiteDatabase, settings: Mapping[str, object]) -> None:
        self._workers = (database._writer, database._reader, database._searcher)
        for worker in self._workers:
            worker._thread = Inline()  # type: ignore[assignment]
            worker.file = Session(settings, reads_only=worker._reads_only)

    def close(self) -> None:
        for worker in self._workers:
            worker.file.close()


class FileDisk(OnFile, FaultyStore, SQLiteStore):
    """With `lost`, a condition on its new rows in SQL and the same in Python, those are lost to a trigger."""

    def __init__(self, path: Path, lost: Lost | None = None, settings: Mapping[str, object] = {}) -> None:
        super().__init__(path)
        self.open_with(self._database, settings)
        self._path, self._lost = path, lost
        if lost:
            with closing(sqlite3.connect(path)) as connection, connection:
                create_tables(connection)
                connection.execute(lost.change)

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.close()

    def loses(self, id: str) -> bool:
        return self._lost is not None and self._lost.loses(id)

    async def join(self, seconds: float) -> None:
        """No leases: these processes live one after another, and their time is not the file's."""

    def held(self) -> Mapping[str, tuple[str, Vector]]:
        if not self._path.exists():
            return {}
        with closing(sqlite3.connect(self._path)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'aembed_rows'").fetchone():
                return {}
            found = connection.execute("SELECT id, text, embedding FROM aembed_rows").fetchall()
        return {id: (text, np.frombuffer(blob, "<f4")) for id, text, blob in found}


@dataclass(frozen=True, slots=True)
class Lost:
    """A change to a store's own table, by which it loses some rows."""

    change: str
    loses: Callable[[str], bool]


class Session(OpenFile):
    def __init__(self, settings: Mapping[str, object], *, reads_only: bool) -> None:
        super().__init__(reads_only=reads_only)
        self._settings = settings
        self._set: sqlite3.Connection | None = None

    def connection(self, path: Path, timeout: float) -> sqlite3.Connection | None:
        connection = super().connection(path, timeout)
        if connection is not None and connection is not self._set:
            self._set = connection
            # No power is cut here, and each wait for the disk would take longer than the history.
            for name, value in {"synchronous": "OFF", **self._settings}.items():
                connection.execute(f"PRAGMA {name} = {value}").fetchall()
        return connection


class Inline:
    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)
        return done

    def shutdown(self, wait: bool = True) -> None:
        pass
