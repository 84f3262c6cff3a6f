"""Real processes that are killed, stopped and terminated: what is lost, and what is bought again.

The judges are the ledger of the simulated service, another process, and the rows read by another connection.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from aembed import Embedder, Record, SQLiteStore, StoreError
from benchmarks.promises import kills
from benchmarks.promises.kills import Judge, Place, PostgresPlace, SQLitePlace, Tally
from tests.sections import sections
from tests.service.own_process import KEY, MODEL, Service, serving
from tests.service.wire import Wire
from tests.stage.victims import POINTS, Begin, Orders, Victim, hatching, live, records

BATCH, CONCURRENCY = 10, 3
TEXTS = [f"text {number}" for number in range(12 * BATCH)]
ON_DISK = [1, 30, 60, 120, 200]
"""Of the changes that SQLite makes to its files: among the first, when the tables are made, in the writes."""


class Room:
    """One service and one place after another; each job is one victim."""

    def __init__(self, service: Service, begin: Begin, folder: Path) -> None:
        self.service, self._begin, self._folder = service, begin, folder
        self.tally = Tally(bound=BATCH * CONCURRENCY)

    async def enter(self, place: Place) -> None:
        """A new place, and a new page in the service's books."""
        async with Wire(self.service.url) as wire:
            await wire.request("POST", "/script", msgspec.json.encode({"clear_ledger": True}))
        self.place = place
        told = self._folder / f"told{self.tally.rounds}"
        self.tally.rounds += 1
        self.judge = Judge(self.service, place, told, TEXTS, self.tally)

    async def begin(self, **changes: Any) -> Victim:
        told = str(self.judge.told)
        return await self._begin(
            live, Orders(self.service.url, self.place.url, TEXTS, told, CONCURRENCY, BATCH, **changes)
        )

    async def killed(self, point: str, nth: int = 2) -> int:
        """By itself, there. Returns how many rows are stored."""
        victim = await self.begin(point=point, nth=nth)
        assert await victim.ended() == -signal.SIGKILL, point
        stored = await self.judge.after_kill()
        assert self.tally.problems == [], point
        return stored

    async def run_to_the_end(self) -> None:
        victim = await self.begin()
        assert await victim.ended() == 0
        await self.judge.after_end()
        assert self.tally.problems == []


@asynccontextmanager
async def room(folder: Path) -> AsyncIterator[Room]:
    async with serving("--key", KEY, "--latency", "0.3") as service, hatching() as begin:
        yield Room(service, begin, folder)


async def test_x2_killed_at_each_point_of_its_work(tmp_path: Path) -> None:
    async with room(tmp_path) as each:
        for point in POINTS:
            await each.enter(SQLitePlace(tmp_path / f"{point}.db"))
            stored = await each.killed(point, nth=15 if point == "insert" else 2)
            assert stored >= BATCH or point not in ("insert", "commit", "committed", "acknowledged")
            await each.run_to_the_end()
    assert each.tally.kills == len(POINTS)


async def test_x2_killed_at_each_kind_of_change_to_the_file(tmp_path: Path) -> None:
    async with room(tmp_path) as each:
        for nth in ON_DISK:
            folder = tmp_path / str(nth)
            folder.mkdir()
            await each.enter(SQLitePlace(folder / "rows.db"))
            await each.killed("disk", nth)
            await each.run_to_the_end()
    assert min(each.tally.stored) == 0 < max(each.tally.stored)


async def test_x2_killed_at_each_point_of_its_work_in_postgresql(tmp_path: Path, database: str) -> None:
    async with room(tmp_path) as each:
        for point in ("write", "insert", "commit", "committed", "acknowledged"):
            await each.enter(PostgresPlace(database, point))
            await each.killed(point)
            await each.run_to_the_end()
    assert each.tally.kills == 5


async def test_x3_killed_again_and_again_after_one_batch_it_still_gets_to_the_end(tmp_path: Path) -> None:
    async with room(tmp_path) as each:
        await each.enter(SQLitePlace(tmp_path / "rows.db"))
        before, lives = 0, 0
        while before < len(TEXTS) - BATCH:
            stored = await each.killed("acknowledged", 1)
            assert stored >= before + BATCH
            before, lives = stored, lives + 1
        await each.run_to_the_end()
    assert lives <= len(TEXTS) / BATCH


async def test_x3_killed_again_and_again_before_the_first_reply_it_costs_what_was_in_flight(tmp_path: Path) -> None:
    async with room(tmp_path) as each:
        await each.enter(SQLitePlace(tmp_path / "rows.db"))
        assert [await each.killed("head", 1) for _ in range(4)] == [0] * 4
        await each.run_to_the_end()
    assert each.tally.bought_again == sum(each.tally.lost) > 0


async def test_x1_killed_at_random_moments_nothing_is_lost_and_no_more_than_was_in_flight_is_bought_again(
    tmp_path: Path,
) -> None:
    tally = await kills.run(sections(1_000), tmp_path, kills=10, seconds=0.8, seed=3)
    assert tally.problems == []
    assert tally.kills == 10
    assert tally.bought_again == sum(tally.lost) <= 10 * tally.bound


async def test_x1_killed_at_random_moments_of_a_job_into_postgresql(tmp_path: Path, database: str) -> None:
    tally = await kills.run(sections(600), tmp_path, kills=3, seconds=1.2, seed=5, database=database)
    assert tally.problems == []
    assert tally.kills == 3


async def test_x4_terminated_at_random_moments_nothing_is_billed_twice(tmp_path: Path) -> None:
    tally = await kills.run(sections(800), tmp_path, kills=5, seconds=1.2, seed=7, number=signal.SIGTERM)
    assert tally.problems == []
    assert (tally.kills, tally.bought_again, tally.lost) == (5, 0, [0] * 5)


async def test_s16_x1_a_process_that_stops_in_a_write_holds_up_others_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    async with room(tmp_path) as each, embedder(each.service) as other:
        await each.enter(SQLitePlace(path))
        impatient = SQLiteStore(path, lock_timeout=0.2)
        begun: asyncio.Queue[Victim] = asyncio.Queue()
        with pytest.raises(StoreError, match="stayed locked by another process") as raised:
            await other.embed_into(impatient, once_one_has_stopped(each, begun))
        report = raised.value.report
        assert raised.value.unsaved or (report and report.requests == 0), "nothing that was paid for is out of reach"
        await impatient.aclose()

        waiting = asyncio.create_task(other.embed_into(path, records(TEXTS)))
        await asyncio.wait([waiting], timeout=0.5)
        assert not waiting.done()
        assert await begun.get_nowait().killed() == -signal.SIGKILL
        report = await waiting
        assert report.stored + report.unchanged == len(TEXTS)
        assert report.unchanged >= BATCH
        assert len(await each.judge.check()) == len(TEXTS)
    assert each.tally.problems == []


async def test_s16_a_process_that_stops_in_a_write_and_goes_on_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    async with room(tmp_path) as each, embedder(each.service) as other:
        await each.enter(SQLitePlace(path))
        begun: asyncio.Queue[Victim] = asyncio.Queue()
        waiting = asyncio.create_task(other.embed_into(path, once_one_has_stopped(each, begun)))
        stopped = await begun.get()
        await asyncio.wait([waiting], timeout=1.0)
        assert not waiting.done()
        stopped.send(signal.SIGCONT)
        assert await stopped.ended() == 0
        report = await waiting
        assert report.stored + report.unchanged == len(TEXTS)
        assert len(await each.judge.check()) == len(TEXTS)
    assert each.tally.problems == []


async def once_one_has_stopped(each: Room, begun: asyncio.Queue[Victim]) -> AsyncIterator[Record]:
    """The records of a second job, which begins when the first has stopped before its second commit."""
    victim = await each.begin(point="commit", nth=2, signal=signal.SIGSTOP)
    async with asyncio.timeout(30):
        while psutil.Process(victim.pid).status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110 - a process
            await asyncio.sleep(0.01)
    begun.put_nowait(victim)
    for record in records(TEXTS):
        yield record


def embedder(service: Service) -> Embedder:
    return Embedder(MODEL, api_key=KEY, base_url=service.url, concurrency=CONCURRENCY, max_batch_size=BATCH)
