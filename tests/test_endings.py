"""However a job, its caller or its process ends: what is kept, and what is left."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from asyncio.subprocess import PIPE
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from aembed import (
    AembedError,
    Embedder,
    FakeProvider,
    Limits,
    MemoryStore,
    Record,
    Report,
    SourceError,
    SQLiteStore,
    StoreError,
)
from aembed.types import Refusal, Rows
from tests.hostile.jobs import at, until
from tests.jobs import records, rows_of, words
from tests.providers.test_http import SELF_SIGNED, own_certificate
from tests.service.faults import Cut, Hang, Status
from tests.service.in_process import DIMENSIONS, KEY, MODEL
from tests.service.server import Latency, Server
from tests.simulation.history import History
from tests.simulation.schedule import Ending, Run, Schedule
from tests.stage.clock import run_virtual

ROOT = Path(__file__).parent.parent
EMBEDDER = f"""
import asyncio, logging, os, sys, time
from aembed import Embedder
logging.getLogger("asyncio").addFilter(lambda record: " took " not in record.getMessage())  # a machine that is slow
embedder = Embedder("openai:{MODEL}", api_key="{KEY}", base_url=sys.argv[1], dimensions={DIMENSIONS}, timeout=1.0)
"""


async def run(program: str, server: Server) -> str:
    """What it prints. It must say nothing else, warnings are errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-X",
        "dev",
        "-W",
        "error",
        "-c",
        EMBEDDER + program,
        server.url,
        cwd=ROOT,
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode()


# processes and event loops


async def test_x6_an_embedder_made_before_a_fork_works_in_both_processes() -> None:
    program = """
child = os.fork()
async def once(text):
    async with embedder:
        return len(await embedder.embed_query(text))
width = asyncio.run(once("child" if child == 0 else "parent"))
if child == 0:
    os._exit(0 if width == 48 else 1)
print(width, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    async with Server() as server:
        assert (await run(program, server)).split() == ["48", "0"]
        assert server.ledger.accepted == 2


async def test_x7_one_embedder_in_one_event_loop_after_another() -> None:
    program = """
async def once(text):
    vector = await embedder.embed_query(text)
    await embedder.aclose()
    return len(vector)
print(*[asyncio.run(once(text)) for text in "abcde"])
"""
    async with Server() as server:
        assert (await run(program, server)).split() == ["48"] * 5
        assert server.ledger.accepted == 5


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_b12_event_loops_one_after_another_leave_nothing_though_nobody_closes(
    tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
async def once(start):
    documents = await embedder.embed_documents([f"{start} {n}" for n in range(50)])
    vectors = await asyncio.gather(*(embedder.embed_query(f"{start} {n}?") for n in range(8)))
    return len(documents.vectors) + len(vectors)
print(*[asyncio.run(once(start)) for start in range(3)])
"""
    monkeypatch.setenv("SSL_CERT_FILE", str(SELF_SIGNED))
    async with Server(tls=own_certificate() if tls else None) as server:
        assert (await run(program, server)).split() == ["58"] * 3


CLOSED = """
async def main():
    async with embedder:
        task = asyncio.create_task(embedder.embed_documents(map(str, range(50))))
        await asyncio.sleep(%s)
        task.cancel()
        await asyncio.wait([task])
asyncio.run(main())
print("ended")
"""


@pytest.mark.parametrize("seconds", [0, 0.001, 0.05, 0.2])
async def test_x10_nothing_is_left_to_warn_of_when_the_event_loop_ends(seconds: float) -> None:
    async with Server(latency=Latency(1.0)) as server:
        assert await run(CLOSED % seconds, server) == "ended\n"
        assert server.ledger.in_flight == 0


async def test_x8_a_blocked_event_loop_is_no_timeout_of_the_provider() -> None:
    program = """
async def main():
    asyncio.get_running_loop().slow_callback_duration = 10
    async with embedder:
        task = asyncio.create_task(embedder.embed_documents(["a", "b"]))
        await asyncio.sleep(0.3)
        time.sleep(2)
        report = (await task).report
        print(report.stored, report.requests, report.retries)
asyncio.run(main())
"""
    async with Server(latency=Latency(1.0, fixed=0.6, per_token=0)) as server:
        assert (await run(program, server)).split() == ["2", "1", "0"]
        assert server.ledger.billed_tokens == 1


# callers


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # by the dead
@pytest.mark.parametrize("ending", [("crash", 0), ("cancel", 0), ("cancel", 1)], ids=str)
def test_c2_at_every_step_of_a_job_it_is_killed_or_cancelled(ending: Any) -> None:
    """And run again: the invariants of the simulation hold."""
    given = [Record(f"id{n}", f"text {n % 6}") for n in range(8)] + [Record("bad", "poison")]
    faults = {1: Status(503), 3: Cut(), 5: Hang()}
    kind, again = ending

    def ended(step: int) -> History:
        runs = [Run(given, faults=faults, ending=Ending(kind, step, again)), Run(given)]
        history = History(Schedule(1, 2, 3, 300_000, 0.5, frozenset({"poison"}), False, runs))
        history.check()
        return history

    steps = ended(10**9).steps[0]
    kinds = [ended(step).kinds[0] for step in range(1, steps)]
    assert steps > 50
    assert kinds.count("crash" if kind == "crash" else "CancelledError") > 0.8 * steps


# the caller's own code


def small(**options: Any) -> FakeProvider:
    return FakeProvider(limits=Limits(10, 300_000, 8_191), keep_texts=True, **options)


async def test_c8_callbacks_that_raise_or_block_cost_the_job_nothing(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[float] = []

    def broken(_: Any) -> None:
        calls.append(time.perf_counter())
        time.sleep(0.02)
        raise RuntimeError("their bug")

    began = time.perf_counter()
    async with Embedder(small()) as embedder:
        with caplog.at_level(logging.ERROR, "aembed"):
            report = await embedder.embed_into(
                MemoryStore(), records([*words(3_000), ""]), on_progress=broken, on_failure=broken
            )
    assert (report.stored, report.failed) == (3_000, 1)
    assert len(calls) <= 3 + (time.perf_counter() - began) / 0.2
    assert caplog.text.count("raised; the job goes on") == len(calls)


class TheirStore(MemoryStore):
    """Fails at its third write: with that error, or by hanging where there is none."""

    def __init__(self, fault: Exception | None) -> None:
        super().__init__()
        self.writes, self.fault = 0, fault

    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        self.writes += 1
        if self.writes < 3:
            await super().write(rows, refusals)
        elif self.fault:
            raise self.fault
        else:
            await asyncio.Event().wait()


@pytest.mark.parametrize("fault", [RuntimeError("their bug"), StoreError("no"), None], ids=str)
def test_s21_a_store_that_raises_or_hangs_stops_the_job_and_what_was_paid_for_comes_out(fault: Any) -> None:
    provider, store = small(latency=1.0), TheirStore(fault)

    async def job() -> None:
        async with Embedder(provider, concurrency=3) as embedder:
            with pytest.raises(StoreError) as raised:
                await embedder.embed_into(store, records(words(300)))
            assert embedder.in_flight == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        stored = {row.text for row in (await rows_of(store)).values()}
        unsaved = {text for rows in raised.value.unsaved for text in rows.texts}
        assert stored | unsaved == {text for request in provider.ledger.log for text in request.texts}
        assert (len(stored), stored & unsaved) == (20, set())
        assert raised.value.report
        assert raised.value.report.stored == 20

    run_virtual(job)


# whatever ends it, nothing is left


class Left(Exception):
    """What a caller's own code raises."""


def broken_after(n: int, given: Sequence[Record]) -> Iterator[Record]:
    yield from given[:n]
    raise Left("their bug")


class Breaking(SQLiteStore):
    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        if (await self.info()).rows >= 40:
            raise Left("their bug")
        await super().write(rows, refusals)


async def cancelled(job: Coroutine[Any, Any, Report], times: int) -> None:
    task = asyncio.create_task(job)
    await asyncio.sleep(0.5)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    await task


async def left_by_scope(job: Coroutine[Any, Any, Report]) -> None:
    with anyio.move_on_after(0.5) as scope:
        await job
    assert scope.cancelled_caught
    raise asyncio.CancelledError


async def failed_beside(job: Coroutine[Any, Any, Report]) -> None:
    """A sibling in the caller's own task group fails."""
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: job)
        await anyio.sleep(0.5)
        raise Left("a sibling")


GIVEN = records(words(120))
ENDINGS: dict[str, tuple[Any, type[BaseException]]] = {
    "the source raises": (lambda embed, path: embed(SQLiteStore(path), broken_after(60, GIVEN)), SourceError),
    "the store raises": (lambda embed, path: embed(Breaking(path), GIVEN), StoreError),
    "cancelled": (lambda embed, path: cancelled(embed(SQLiteStore(path), GIVEN), 1), asyncio.CancelledError),
    "cancelled twice": (lambda embed, path: cancelled(embed(SQLiteStore(path), GIVEN), 2), asyncio.CancelledError),
    "a scope": (lambda embed, path: left_by_scope(embed(SQLiteStore(path), GIVEN)), asyncio.CancelledError),
    "a sibling": (lambda embed, path: failed_beside(embed(SQLiteStore(path), GIVEN)), ExceptionGroup),
}


@pytest.mark.parametrize("name", ENDINGS)
async def test_i13_c2_c4_s21_one_plain_error_comes_out_and_nothing_is_left(name: str, tmp_path: Path) -> None:
    """And run again, the job ends without paying twice."""
    start, expected = ENDINGS[name]
    tasks, threads, descriptors = asyncio.all_tasks(), set(threading.enumerate()), open_descriptors()
    async with Server(latency=Latency(1.0, fixed=0.2, per_token=0)) as server:
        beside = asyncio.all_tasks() - tasks
        stores: list[SQLiteStore] = []

        async def embed(store: SQLiteStore, given: Any) -> Report:
            stores.append(store)
            return await embedder.embed_into(store, given)

        async with at(server, concurrency=4, max_batch_size=5) as embedder:
            with pytest.raises(expected) as raised:
                await start(embed, tmp_path / "rows.db")
        assert embedder.in_flight == 0
        assert {task for task in asyncio.all_tasks() - tasks - beside if "aembed" in repr(task.get_coro())} == set()
        stored = {row.text for row in [row async for row in stores[0].rows()]}
        if isinstance(raised.value, AembedError):
            assert raised.value.report is not None
            assert raised.value.report.stored == len(stored)
        assert server.ledger.texts_again == 0
        unsaved = {text for rows in getattr(raised.value, "unsaved", ()) for text in rows.texts}
        assert len(stored | unsaved) == len(server.ledger.times_billed) >= 20
        assert not stored & unsaved
        async with at(server, concurrency=4, max_batch_size=5) as embedder:
            report = await embedder.embed_into(tmp_path / "rows.db", GIVEN)
        assert (report.stored, report.unchanged) == (len(GIVEN) - len(stored), len(stored))
        assert server.ledger.texts_again == len(unsaved)
        await stores[0].aclose()
    await until(lambda: set(threading.enumerate()) <= threads | workers())
    await until(lambda: open_descriptors() <= descriptors + 2)


def workers() -> set[threading.Thread]:
    """anyio keeps some for the next call."""
    return {thread for thread in threading.enumerate() if "worker" in thread.name.lower()}


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
