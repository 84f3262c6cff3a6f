"""What a schedule is played on: workers in processes of their own, a database, its pooler, a proxy and the service."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe

from aembed import AembedError, Embedder, PostgresColumn, StoreError
from aembed.stores._postgresql import _filling, _leases
from benchmarks.promises.schedules_drawn import Schedule
from tests.service.own_process import KEY, MODEL, Service, serving
from tests.stage.postgres import Pooler, create_database, drop_database
from tests.stage.proxy import Proxy

DIMENSIONS = 48
LONGEST_RUN = 180.0
LATENCY = ("--latency", "2", "--sigma", "0.5")
"""About 160 ms a request, spread: the least job takes a second."""
LEASE_SECONDS = 3.0
"""Longer than any cut, so that only the dead lose what they hold."""
PAGE, MOST_CLAIMED = 20, 60
"""A worker asks for a further page while it holds less than the most."""
PROCESSES = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
PROCESSES.set_forkserver_preload(
    ["aembed.providers.openai", "aembed.stores.postgresql_column", "tests.service.own_process"]
)


def work(place: str, url: str, schedule: Schedule, begun: Pipe) -> None:
    asyncio.run(fill(place, url, schedule, begun))


async def fill(place: str, url: str, schedule: Schedule, begun: Pipe) -> None:
    """With pages so small that three workers share a small table."""
    _filling.ROWS_PER_PAGE, _leases.MOST_CLAIMED = PAGE, MOST_CLAIMED
    mark = "seen" if schedule.marked else None
    column = PostgresColumn(place, "public.sections", text="content", fingerprint=mark, lease_seconds=LEASE_SECONDS)
    await column.count()
    begun.send(True)
    options = {"concurrency": schedule.concurrency, "max_batch_size": schedule.batch, "dimensions": DIMENSIONS}
    try:
        async with Embedder(MODEL, api_key=KEY, base_url=url, **options) as embedder:
            report = await embedder.backfill(column)
        begun.send(ServerAnswers(report.stored, report.failed, report.pending))
    except AembedError as error:
        # Where each text of a run is one of which the service dies, the run says so instead of its report.
        may_fail = schedule.is_dry or schedule.has_deadly_texts
        if not (may_fail or (schedule.table.keeps_nothing and isinstance(error, StoreError))):
            raise
        report = error.report
        counts = (report.stored, report.failed, report.pending) if report else ()
        begun.send(ServerAnswers(*counts, error=str(error)))
    finally:
        await column.aclose()


@dataclass(frozen=True, slots=True)
class ServerAnswers:
    """How a worker says that it has ended."""

    stored: int = 0
    failed: int = 0
    pending: int = 0
    error: str = ""


class Worker:
    """A process that fills the table."""

    def __init__(self, place: str, url: str, schedule: Schedule) -> None:
        self.started = time.monotonic()
        self.told: ServerAnswers | None = None
        self._begun, begun = PROCESSES.Pipe(duplex=False)
        self.process = PROCESSES.Process(target=work, args=(place, url, schedule, begun), daemon=True)
        self.process.start()
        begun.close()

    @property
    def has_failed(self) -> bool:
        """Whether it has told, with its end, that it could not go on."""
        return self.told is not None and bool(self.told.error)

    @property
    def is_running(self) -> bool:
        return self.process.exitcode is None

    async def begun(self) -> None:
        """Until it has reached the database: a server that was never there is not waited for."""
        await asyncio.to_thread(self._begun.poll, LONGEST_RUN)

    async def kill(self) -> None:
        self.process.kill()
        await self.ended()

    def signal(self, number: int) -> None:
        if self.is_running and self.process.pid:
            os.kill(self.process.pid, number)

    async def ended(self, seconds: float = LONGEST_RUN) -> str | None:
        """What is wrong with its end; it is killed after so many seconds."""
        until = time.monotonic() + seconds
        while self.is_running:
            if time.monotonic() > until:
                self.process.kill()
                return f"a worker did not end within {seconds:g} s"
            await asyncio.sleep(0.01)
        with suppress(EOFError):
            while not self._begun.closed and self._begun.poll():
                told = self._begun.recv()
                self.told = told if isinstance(told, ServerAnswers) else self.told
        self._begun.close()
        return f"a worker ended with exit code {self.process.exitcode}" if self.process.exitcode else None


@dataclass(frozen=True, slots=True)
class Stage:
    """A database, a pooler before it, a proxy before that, and a service."""

    database: str
    pooler: Pooler
    proxy: Proxy
    service: Service

    @property
    def place(self) -> str:
        return self.pooler.before(self.database).replace(f":{self.pooler.port}/", f":{self.proxy.port}/")


@asynccontextmanager
async def stage(server: str) -> AsyncIterator[Stage]:
    """Raises LookupError where there is no PgBouncer."""
    name = f"aembed_schedules_{uuid.uuid4().hex}"
    async with AsyncExitStack() as stack:
        database = create_database(server, name)
        stack.callback(drop_database, server, name)
        pooler = Pooler(server)
        stack.callback(pooler.stop)
        proxy = await stack.enter_async_context(Proxy(pooler.port))
        service = await stack.enter_async_context(serving("--key", KEY, *LATENCY))
        yield Stage(database, pooler, proxy, service)
