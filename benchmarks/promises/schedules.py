"""Random schedules of edits, deletes, kills and pooler cuts while three workers fill a user's PostgreSQL table.

    python -m benchmarks.schedules [--count 100] [--first 1] [--at-once 4]
    python -m benchmarks.schedules --seed 17        # that schedule again, event by event

A cut resets the connections, loses what the server answers from some byte on, or kills the pooler and starts it again.
A worker that is frozen comes back when its lease has run out and others work on its rows. The tables have triggers,
rules, constraints, generated columns, domains and partitions, some lose rows of what is written, or all of them; and
their database has settings of its own. The service is sound, or takes few texts at a time, or answers in its own way,
or dies of some texts; its account is dry from some request on, until the last run.
PostgreSQL, PgBouncer in transaction mode, the simulated service and each worker are processes of their own; a kill is
SIGKILL. The judges are the service's ledger and the table, read by a connection of our own. Exits 1 if they disagree.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Any

import asyncpg
import numpy as np

from benchmarks.promises.schedules_drawn import Event, Schedule, schedule_of
from benchmarks.promises.schedules_stage import DIMENSIONS, LEASE_SECONDS, MOST_CLAIMED, PAGE, Stage, Worker, stage
from tests.service.own_process import judged
from tests.service.vectors import digest, vector_of
from tests.stage.postgres import Server

CLEAN = """
    DROP SCHEMA IF EXISTS aembed CASCADE;
    DROP TABLE IF EXISTS sections, sections_log, sections_ok CASCADE;
    DROP DOMAIN IF EXISTS sections_vector;
    DROP FUNCTION IF EXISTS hooked_sections;
    CREATE SCHEMA IF NOT EXISTS evil;
"""
LEAVE = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
CONTROL = "a"
"""What is sent to find out whether anything is accepted, while no text is known to be good."""
LIVE_LEASES = """SELECT count(*) FROM aembed.leases l JOIN aembed.workers w ON w.token = l.token
    WHERE w.expires_at > clock_timestamp()"""


@dataclass(slots=True)
class Play:
    """One schedule while it is played. The user's own program edits over `user`, a direct connection.

    `ever` are the texts that the table has ever held, `touched` when each row was written last by the user, and
    `may_again` how often a text may be billed again: once for each death at which it was billed and not stored. What a
    worker had claimed when it was frozen is taken over by others; it may pay for that too before its write is refused:
    `claimed_twice` texts in all.
    """

    schedule: Schedule
    stage: Stage
    user: Any
    random: Random
    workers: list[Worker] = field(default_factory=list)
    ever: set[str] = field(default_factory=set)
    touched: dict[int, float] = field(default_factory=dict)
    may_again: Counter[str] = field(default_factory=Counter)
    deaths: int = 0
    claimed_twice: int = 0
    thawing: list[asyncio.Task[None]] = field(default_factory=list)
    edition: int = 0
    again: int = 0
    unexplained: int = 0
    problems: list[str] = field(default_factory=list)

    async def run(self, say: Callable[[object], None]) -> None:
        await self._make()
        for _ in range(3):
            self._join()
        await self._all_begun()
        began = time.monotonic()
        for event in self.schedule.events:
            await asyncio.sleep(max(0.0, began + event.at - time.monotonic()))
            await self._happen(event)
            say(f"  {time.monotonic() - began:5.2f} s  {event.kind}: {await self._count('embedding IS NULL')} empty")
        await asyncio.gather(*self.thawing)
        await self._all_ended()
        # Of a worker that was killed for being late nobody knows what it had in flight.
        if self.problems:
            return
        if self.schedule.table.keeps_nothing:
            await self._check_nothing_was_paid()
            return
        self._check(await self._rows())
        await self._check_runs_after()

    async def _make(self) -> None:
        """The table, and sessions that begin with what the database has set."""
        await self.user.execute(CLEAN)
        for statement in self.schedule.table.made():
            await self.user.execute(statement)
        for setting, value in self.schedule.table.settings.items():
            await self._alter(f"SET {setting} = {value}")
        await self.user.execute(LEAVE)
        await self._insert(range(1, self.schedule.rows + 1))

    async def clean(self) -> None:
        await self._alter("RESET ALL")

    async def _alter(self, change: str) -> None:
        name = await self.user.fetchval("SELECT quote_ident(current_database())")
        await self.user.execute(f"ALTER DATABASE {name} {change}")

    def _join(self) -> None:
        self.workers.append(Worker(self.stage.place, self.stage.service.url, self.schedule))

    async def _all_begun(self) -> None:
        await asyncio.gather(*(worker.begun() for worker in self.workers))

    async def _all_ended(self) -> None:
        ends = await asyncio.gather(*(worker.ended() for worker in self.workers))
        self.problems += [end for end in ends if end]

    async def _happen(self, event: Event) -> None:
        match event.kind:
            case "edit":
                await self._edit(await self._some(event.rows))
            case "delete":
                await self._delete(await self._some(event.rows))
            case "replace":
                ids = await self._some(event.rows)
                await self._delete(ids)
                await self._insert(ids)
            case "insert":
                await self._insert(range(10_000 * (self.edition + 1), 10_000 * (self.edition + 1) + event.rows))
            case "kill":
                await self._kill()
            case "freeze":
                await self._freeze()
            case "join":
                self._join()
                await self._all_begun()
            case "cut":
                await self.stage.proxy.drop_connections()
            case "lose replies":
                self.stage.proxy.cut_after = self.random.randint(0, 2_000)
                await asyncio.sleep(self.random.uniform(0.0, 0.3))
                self.stage.proxy.cut_after = None
            case "restart pooler":
                await asyncio.to_thread(self.stage.pooler.kill)
                await asyncio.sleep(self.random.uniform(0.0, 0.3))
                await asyncio.to_thread(self.stage.pooler.start)

    # What the user's own program does

    async def _some(self, rows: int) -> list[int]:
        ids = [id for (id,) in await self.user.fetch("SELECT id FROM sections WHERE content IS NOT NULL ORDER BY id")]
        return sorted(self.random.sample(ids, min(rows, len(ids))))

    async def _insert(self, ids: Sequence[int]) -> None:
        texts = self._texts(ids)
        await self.user.executemany("INSERT INTO sections (id, content) VALUES ($1, $2)", list(texts.items()))

    async def _edit(self, ids: Sequence[int]) -> None:
        """Without a fingerprint it is the program that empties the column."""
        emptied = "" if self.schedule.marked else ", embedding = NULL"
        texts = self._texts(ids)
        statement = f"UPDATE sections SET content = $2{emptied} WHERE id = $1"  # noqa: S608
        await self.user.executemany(statement, list(texts.items()))

    async def _delete(self, ids: Sequence[int]) -> None:
        await self.user.execute("DELETE FROM sections WHERE id = ANY ($1::int[])", ids)

    def _texts(self, ids: Sequence[int]) -> dict[int, str]:
        """No text comes twice, so that each has its own line in the ledger."""
        self.edition += 1
        texts = {id: f"seed {self.schedule.seed}, edition {self.edition} of section {id}" for id in ids}
        texts |= {id: f"{text} deadly" for id, text in texts.items() if self.schedule.is_deadly(id)}
        self.ever.update(map(_line, texts.values()))
        self.touched.update(dict.fromkeys(ids, time.monotonic()))
        return texts

    # Kills

    def _victim(self) -> Worker | None:
        running = [worker for worker in self.workers if worker.is_running]
        return self.random.choice(running) if running else None

    async def _kill(self) -> None:
        if victim := self._victim():
            await victim.kill()
            self.workers.remove(victim)
            await self._note_death()

    async def _freeze(self) -> None:
        """For longer than its lease: to the others it is dead, and then it comes back."""
        if victim := self._victim():
            victim.signal(signal.SIGSTOP)
            await self._note_death()
            self.claimed_twice += MOST_CLAIMED + PAGE
            self.thawing.append(asyncio.create_task(self._thaw(victim, LEASE_SECONDS + self.random.uniform(0.2, 1.0))))

    async def _thaw(self, worker: Worker, seconds: float) -> None:
        await asyncio.sleep(seconds)
        worker.signal(signal.SIGCONT)

    async def _note_death(self) -> None:
        self.deaths += 1
        await asyncio.sleep(0.02)
        billed = set(await self.stage.service.texts())
        self.may_again.update(billed - {_line(row["content"]) for row in await self._rows() if _is_right(row)})

    # What must hold

    async def _rows(self) -> list[Any]:
        found: list[Any] = await self.user.fetch(
            "SELECT id, content, seen, vector_send(embedding) AS sent FROM sections WHERE content IS NOT NULL"
        )
        return found

    async def _count(self, condition: str) -> int:
        count: int = await self.user.fetchval(f"SELECT count(*) FROM sections WHERE {condition}")  # noqa: S608
        return count

    def _check(self, rows: Sequence[Any]) -> None:
        """Each vector is the text's, or is known to be of an older one; empty is what was touched late."""
        finished = [worker.started for worker in self.workers if not (worker.process.exitcode or worker.has_failed)]
        since = max(finished, default=0.0)
        pending = {row["id"] for row in rows if self._is_pending(row)}
        self._note(
            "rows hold a vector of another text", [r for r in rows if r["id"] not in pending and not _is_right(r)]
        )
        kept = {id for id in pending if not self.schedule.is_lost(id)}
        self._note("rows were left out", [id for id in kept if self.touched[id] < since])

    def _is_pending(self, row: Any) -> bool:
        return row["sent"] is None or (self.schedule.marked and row["seen"] != _hash(row["content"]))

    def _note(self, what: str, which: Collection[object]) -> None:
        if which:
            self.problems.append(f"{len(which)} {what}")

    async def _check_nothing_was_paid(self) -> None:
        ledger = await self.stage.service.ledger()
        if ledger["requests"]:
            self.problems.append(f"{ledger['requests']} requests were sent for a table that keeps nothing")
        told = [worker.told for worker in self.workers]
        self._note("workers did not say why", [each for each in told if each is None or not each.error])

    async def _check_runs_after(self) -> None:
        is_lost, before = self.schedule.is_lost, await self._rows()
        if self.schedule.is_dry:
            await self.stage.service.script(server=None)
        await self._one_more_run()
        rows = await self._rows()
        wrong = [row for row in rows if not _is_right(row) and not (is_lost(row["id"]) and row["sent"] is None)]
        self._note("rows are wrong, or not filled, after the last run", wrong)
        filled = sum(map(_is_right, rows)) - sum(map(_is_right, before))
        failed, told = sum(not _is_right(row) for row in rows), self.workers[-1].told
        if told is None or (told.stored, told.failed, told.pending) != (filled, failed, 0):
            self.problems.append(f"the last run told {told}; {filled} rows were filled, {failed} are not")
        before = await self.stage.service.ledger()
        self._check_bill(await self.stage.service.texts(), rows, sum(before["refused"].values()))
        await self._one_more_run()
        after = await self.stage.service.ledger()
        # A text of which a server dies may be tried again by each run, as it may live by then.
        if after["requests"] != before["requests"] and not self.schedule.has_deadly_texts:
            self.problems.append(f"the run after sent {after['requests'] - before['requests']} requests")
        if leases := await self.user.fetchval(LIVE_LEASES):
            self.problems.append(f"{leases} leases are left")

    async def _one_more_run(self) -> None:
        self.workers = []
        self._join()
        await self._all_ended()

    def _check_bill(self, bill: dict[str, int], rows: Sequence[Any], refused: int) -> None:
        """For each request that was `refused` a short text may be sent again, to find out whose fault it is."""
        again = Counter({text: times - 1 for text, times in bill.items() if times > 1 and text != _line(CONTROL)})
        self._note(
            "rows were never paid for",
            [row for row in rows if _line(row["content"]) not in bill and not self.schedule.is_deadly(row["id"])],
        )
        self._note("texts were billed that the table never held", set(bill) - self.ever - {_line(CONTROL)})
        unexplained = again - self.may_again
        if unexplained.total() > self.claimed_twice + refused:
            self.problems.append(f"{unexplained.total()} texts were billed again that no death explains")
        if again.total() > self.deaths * self.schedule.in_flight + self.claimed_twice + refused:
            self.problems.append(f"{again.total()} texts were billed again after {self.deaths} deaths")
        self.again, self.unexplained = again.total(), unexplained.total()


def _is_right(row: Any) -> bool:
    """A trigger may have made its length 1 once more."""
    vector = None if row["sent"] is None else np.frombuffer(row["sent"], ">f4", offset=4)
    return vector is not None and np.allclose(vector, vector_of(row["content"], DIMENSIONS), atol=1e-5)


def _line(text: str) -> str:
    """Where the ledger has it."""
    return digest(text.encode()).hex()


def _hash(text: str) -> bytes:
    return sha256(text.encode()).digest()


def _silent(said: object) -> None:
    pass


async def play(schedule: Schedule, stage: Stage, say: Callable[[object], None] = _silent) -> Play:
    """Plays it once; what is wrong stands in `.problems`."""
    await stage.service.script(clear_ledger=True, server=schedule.server)
    user = await asyncpg.connect(stage.database, statement_cache_size=0)
    playing = Play(schedule, stage, user, Random(f"{schedule.seed} picks"))
    try:
        await playing.run(say)
    finally:
        for worker in playing.workers:
            await worker.kill()
        await playing.clean()
        await user.close()
    return playing


async def play_all(
    server: str, seeds: Sequence[int], *, at_once: int, say: Callable[[object], None] = _silent
) -> list[str]:
    left, problems, played = list(reversed(seeds)), [], []

    async def some() -> None:
        async with stage(server) as here:
            while left:
                schedule = schedule_of(left.pop())
                found = await play(schedule, here, say)
                played.append(found)
                problems.extend(f"seed {schedule.seed}: {problem}" for problem in found.problems)
                if found.problems:
                    print(schedule, *found.problems, sep="\n", flush=True)

    await asyncio.gather(*(some() for _ in range(at_once)))
    kinds = Counter(event.kind for found in played for event in found.schedule.events)
    print(f"{len(played)} schedules:", ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items())))
    print(
        f"{sum(found.again for found in played)} texts were billed twice, all in flight at a death but "
        f"{sum(found.unexplained for found in played)} of workers that came back"
    )
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=4, help="schedules beside each other")
    parser.add_argument("--seed", type=int, help="play this one alone, and say what happens")
    options = parser.parse_args()
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.count)
    at_once, say = options.at_once, _silent
    if options.seed is not None:
        print(schedule_of(options.seed))
        at_once, say = 1, print
    server = Server()
    try:
        return judged(asyncio.run(play_all(server.url, seeds, at_once=at_once, say=say)))
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
