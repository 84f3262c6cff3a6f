"""A job in a process of its own that is killed: by its parent at any moment, or by itself at a point of its work.

    async with hatching() as begin:
        victim = await begin(live, Orders(service.url, str(path), texts, point="commit", nth=2))
        code = await victim.ended()

The process is forked from one that has imported all of this, and so begins in milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import httpx

from aembed import Embedder, PostgresStore, Record, SQLiteStore, open_provider
from aembed.cli import main
from aembed.types import Refusal, Rows, Space
from tests.service.own_process import KEY, MODEL, ROOT
from tests.stage.power import recorded

POINTS = {
    "send": "before a request is sent",
    "sent": "while its reply is awaited",
    "head": "after the reply's head",
    "reply": "after the whole reply",
    "write": "before the store is given the rows",
    "insert": "in the middle of the write",
    "commit": "after all rows, before the commit",
    "committed": "after the commit, before it is acknowledged",
    "acknowledged": "after that",
}
SENT_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Orders:
    """At the nth time that the job comes to `point` its process gets `signal`.

    A point is one of POINTS, or "disk": SQLite is about to change a file. `told` is a file to which the ids are added
    that were acknowledged.
    """

    url: str
    store: str
    texts: Sequence[str] = field(repr=False)
    told: str = os.devnull
    concurrency: int = 8
    batch: int = 64
    point: str = ""
    nth: int = 1
    signal: int = signal.SIGKILL


class Victim:
    """One process. Its code is negative where a signal ended it."""

    def __init__(self, pid: int, end: asyncio.Task[bytes]) -> None:
        self.pid = pid
        self._end = end

    async def ended(self, seconds: float | None = 60.0) -> int | None:
        """Its code; None where it lives on after so many seconds."""
        await asyncio.wait([self._end], timeout=seconds)
        return int(self._end.result()) if self._end.done() else None

    def send(self, number: int) -> None:
        """A signal; none to one that has ended, as far as is known."""
        if not self._end.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def killed(self, number: int = signal.SIGKILL) -> int | None:
        self.send(number)
        return await self.ended()


Begin: TypeAlias = Callable[..., Coroutine[Any, Any, Victim]]


@asynccontextmanager
async def hatching() -> AsyncIterator[Begin]:
    """`begin(function, *arguments)` is a Victim that does that; one at a time, and none is left."""
    command = [sys.executable, "-c", "from tests.stage.victims import hatch; hatch()"]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE, limit=1 << 20)
    assert process.stdin is not None
    victims: list[Victim] = []

    async def begin(*what: Any) -> Victim:
        victims[:] = [await _begun(process, pickle.dumps(what))]
        return victims[0]

    try:
        yield begin
    finally:
        for victim in victims:
            await victim.killed()
        process.stdin.close()
        await process.wait()


async def _begun(process: Process, what: bytes) -> Victim:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"%d\n%b" % (len(what), what))
    await process.stdin.drain()
    pid = int(await process.stdout.readline())
    return Victim(pid, asyncio.create_task(process.stdout.readline()))


def hatch() -> None:
    """What the parent of all victims does, until its input ends."""
    while size := sys.stdin.buffer.readline():
        function, *arguments = pickle.loads(sys.stdin.buffer.read(int(size)))
        pid = os.fork()
        if pid == 0:
            _die(function, arguments)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _die(function: Callable[..., None], arguments: Sequence[Any]) -> None:
    code = 1
    try:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        function(*arguments)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command(arguments: Sequence[str], url: str, output: Path) -> None:
    """`aembed` with these arguments; what it prints goes to the file."""
    os.environ.update(OPENAI_BASE_URL=url, OPENAI_API_KEY=KEY)
    with output.open("a", encoding="utf-8") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    main(arguments)


def live(orders: Orders) -> None:
    """The job, from start to end."""
    points = Points(orders)
    with contextlib.ExitStack() as stack:
        if orders.point == "disk":
            disk = stack.enter_context(recorded(Path(orders.store).parent))
            disk.operations = Counted(points)
        asyncio.run(_job(orders, points))


async def _job(orders: Orders, points: Points) -> None:
    told = os.open(orders.told, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async with contextlib.AsyncExitStack() as stack:
        client = None
        if orders.point in ("send", "sent", "head", "reply"):
            client = await stack.enter_async_context(httpx.AsyncClient(transport=Transport(points)))
        options: dict[str, Any] = {"api_key": KEY, "base_url": orders.url, "http_client": client}
        embedder = Embedder(MODEL, concurrency=orders.concurrency, max_batch_size=orders.batch, **options)
        await stack.enter_async_context(embedder)
        store = await _store(orders, points, told, stack)
        stack.push_async_callback(store.aclose)
        await embedder.embed_into(store, records(orders.texts))


@dataclass(frozen=True, slots=True)
class BatchOrders:
    """One run of a job with batch=True. `ahead` is how many seconds its clock, and the service's, are advanced."""

    url: str
    store: str
    texts: Sequence[str] = field(repr=False)
    ahead: float
    dimensions: int = 48


def batch(orders: BatchOrders) -> None:
    """The run, from start to end."""
    asyncio.run(_batch_run(orders))


async def _batch_run(orders: BatchOrders) -> None:
    provider = open_provider(MODEL, api_key=KEY, base_url=orders.url, dimensions=orders.dimensions)
    async with Embedder(provider) as embedder:
        embedder._engine.clock = lambda: time.time() + orders.ahead
        await embedder.embed_into(orders.store, records(orders.texts), batch=True)


def records(texts: Sequence[str]) -> list[Record]:
    return [Record(str(number), text) for number, text in enumerate(texts)]


async def _store(orders: Orders, points: Points, told: int, stack: contextlib.AsyncExitStack) -> Any:
    if not orders.store.startswith("postgresql:"):
        return TellingSQLiteStore(orders.store, points, told)
    url, _, table = orders.store.partition("?table=")
    connections: dict[str, Any] = {}
    if orders.point in ("insert", "commit", "committed"):
        connections = {"connection_class": type("Bound", (DyingConnection,), {"points": points})}
    pool = await stack.enter_async_context(asyncpg.create_pool(url, min_size=0, max_size=4, **connections))
    return TellingPostgresStore(pool, table, points, told)


# the points


class Points:
    def __init__(self, orders: Orders) -> None:
        self.point = orders.point
        self._left = orders.nth
        self._signal = orders.signal

    def at(self, point: str) -> None:
        if point == self.point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), self._signal)


class Counted(list[Any]):
    """Of a recorded disk: its operations, which are not kept but counted."""

    def __init__(self, points: Points) -> None:
        super().__init__()
        self._points = points

    def append(self, operation: Any) -> None:
        self._points.at("disk")


class Transport(httpx.AsyncHTTPTransport):
    def __init__(self, points: Points) -> None:
        super().__init__()
        self._points = points

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        points = self._points
        points.at("send")
        asyncio.get_running_loop().call_later(SENT_SECONDS, points.at, "sent")
        response = await super().handle_async_request(request)
        points.at("head")
        if points.point == "reply":
            await response.aread()
            points.at("reply")
            response = httpx.Response(response.status_code, headers=response.headers, content=response.content)
        return response


class TellingSQLiteStore(SQLiteStore):
    def __init__(self, path: str, points: Points, told: int) -> None:
        super().__init__(path)
        self._points, self._told = points, told
        self._has_written = False

    async def prepare(self, space: Space) -> Space:
        prepared = await super().prepare(space)
        if self._points.point in ("insert", "commit"):
            await self._database.read(lambda connection: connection.set_trace_callback(self._statement), None)
        return prepared

    def _statement(self, sql: str) -> None:
        """Is about to run. The commits of transactions that wrote no row are none of our points."""
        if sql.startswith("INSERT OR FAIL INTO aembed_rows"):
            self._has_written = True
            self._points.at("insert")
        elif sql == "COMMIT" and self._has_written:
            self._has_written = False
            self._points.at("commit")

    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        self._points.at("write")
        await super().write(rows, refusals)
        self._points.at("committed")
        os.write(self._told, "".join(f"{id}\n" for id in rows.ids).encode())
        self._points.at("acknowledged")


class TellingPostgresStore(PostgresStore):
    def __init__(self, pool: Any, table: str, points: Points, told: int) -> None:
        super().__init__(pool, table=table)
        self._points, self._told = points, told

    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        self._points.at("write")
        await super().write(rows, refusals)
        os.write(self._told, "".join(f"{id}\n" for id in rows.ids).encode())
        self._points.at("acknowledged")


class DyingConnection(asyncpg.Connection):
    """Comes to its points only in transactions that have written rows."""

    points: Points
    _has_written = False

    async def copy_to_table(self, *arguments: Any, **options: Any) -> Any:
        self._has_written = True
        asyncio.get_running_loop().call_soon(self.points.at, "insert")
        return await super().copy_to_table(*arguments, **options)

    async def execute(self, query: str, *arguments: Any, **options: Any) -> Any:
        ends = query == "COMMIT" and self._has_written
        if ends:
            self.points.at("commit")
        result = await super().execute(query, *arguments, **options)
        if ends:
            self._has_written = False
            self.points.at("committed")
        return result
