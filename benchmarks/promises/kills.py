"""Signals at random moments of a job, each followed by a restart. The judges are the server's ledger and the rows.

    python -m benchmarks.kills [--kills 20] [--first 1] [--count 19207] [--seconds 4] [--store sqlite]
    python -m benchmarks.kills --signal TERM --kills 50        # the command, which then ends what it has sent

The job runs in a process of its own, the simulated service in another. Where a run reaches its end between two signals
the next one begins with an empty store. After each kill every row that was reported stored must be there and right, and
no more was billed in vain than was in flight; after SIGTERM nothing was. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from signal import SIGKILL, SIGTERM
from typing import Any, Protocol

import asyncpg
import msgspec
import numpy as np

from tests.sections import SECTIONS, sections
from tests.service.own_process import KEY, MODEL, Service, judged, serving
from tests.service.vectors import digest, vectors_of
from tests.stage.postgres import Server, create_database
from tests.stage.victims import Orders, Victim, command, hatching, live

BATCH, CONCURRENCY = 64, 8
IN_FLIGHT = BATCH * CONCURRENCY
LATENCY = 1.0
"""Of the server: 78 ms and 22 us a token. All sections take about a quarter of a minute."""
ROWS = "SELECT id, text, vector_send(embedding) AS sent FROM {}"
ENDED_BY_TERM = (143, -SIGTERM)
"""By itself, or by the system where it had not yet begun."""


class Place(Protocol):
    """Where the rows go, read by a connection of our own."""

    url: str

    async def rows(self) -> Iterable[tuple[str, str, bytes]]:
        """Id, text, and vector as little-endian float32."""
        ...


class SQLitePlace:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = str(path)

    async def rows(self) -> Iterable[tuple[str, str, bytes]]:
        if not self._path.exists():
            return []
        with closing(sqlite3.connect(self._path)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'aembed_rows'").fetchone():
                return []
            return connection.execute("SELECT id, text, embedding FROM aembed_rows").fetchall()


class PostgresPlace:
    def __init__(self, database: str, table: str) -> None:
        self._database, self._table = database, table
        self.url = f"{database}?table={table}"

    async def rows(self) -> Iterable[tuple[str, str, bytes]]:
        connection = await asyncpg.connect(self._database)
        try:
            if await connection.fetchval("SELECT to_regclass($1)", self._table) is None:
                return []
            found = await connection.fetch(ROWS.format(self._table))
        finally:
            await connection.close()
        return [(row["id"], row["text"], _little_endian(row["sent"])) for row in found]


def _little_endian(sent: bytes) -> bytes:
    return np.frombuffer(sent, ">f4", offset=4).astype("<f4").tobytes()


@dataclass(slots=True)
class Tally:
    """What the signals came to. `lost` has, for each, how many texts were billed and not stored: in flight."""

    kills: int = 0
    rounds: int = 0
    bought_again: int = 0
    bound: int = IN_FLIGHT
    lost: list[int] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def killed(self, lost: int, stored: int) -> None:
        self.kills += 1
        self.lost.append(lost)
        self.stored.append(stored)
        if not 0 <= lost <= self.bound:
            self.problems.append(f"{lost} texts were billed and not stored at one signal, {self.bound} is the bound")

    def __str__(self) -> str:
        mean = sum(self.lost) / max(1, len(self.lost))
        return (
            f"{self.kills} signals in {self.rounds} rounds, at {_span(self.stored)} rows stored\n"
            f"billed and not stored at a signal: at most {max(self.lost, default=0)}, {mean:.0f} on average, "
            f"{self.bound} is the bound; {self.bought_again} billed twice in all"
        )


def _span(numbers: Sequence[int]) -> str:
    return f"{min(numbers, default=0):,} to {max(numbers, default=0):,}"


@dataclass(slots=True)
class Judge:
    """Of one store and one ledger, from kill to kill."""

    service: Service
    place: Place
    told: Path
    texts: Sequence[str]
    tally: Tally
    _lost: int = 0

    async def after_kill(self) -> int:
        """How many rows are there."""
        there = await self.check()
        lost = await self.billed() - len(there)
        self.tally.killed(lost - self._lost, len(there))
        self._lost = lost
        return len(there)

    async def after_end(self) -> None:
        missing = len(self.texts) - len(await self.check())
        if missing:
            self.tally.problems.append(f"{missing} rows are missing at the end")
        self.tally.bought_again += await self.billed() - len(self.texts)

    async def check(self) -> set[str]:
        """The ids that are there. Those that were acknowledged must be, each with its own text and its vector."""
        rows = list(await self.place.rows())
        right = vectors_of([digest(text.encode()) for _, text, _ in rows], 1_536).astype("<f4") if rows else []
        for (id, text, vector), expected in zip(rows, right, strict=True):
            if text != self.texts[int(id)] or vector != expected.tobytes():
                self.tally.problems.append(f"row {id} is wrong")
        there = {id for id, _, _ in rows}
        acknowledged = set(self.told.read_text().split()) if self.told.exists() else set()
        if lost := acknowledged - there:
            self.tally.problems.append(f"{len(lost)} acknowledged rows are lost")
        return there

    async def billed(self) -> int:
        """How many texts, each as often as it was, once the server has noticed that nobody is there."""
        while True:
            if not (await self.service.ledger())["in_flight"]:
                return sum((await self.service.texts()).values())
            await asyncio.sleep(0.01)


async def one_round(
    judge: Judge, begin: Callable[[], Coroutine[Any, Any, Victim]], number: int, moments: Iterable[float]
) -> None:
    """Sends the signal at those moments of the job's runs, and lets it end after the last."""
    for moment in moments:
        victim = await begin()
        if await victim.ended(moment) is not None or await victim.killed(number) == 0:
            break
        code = await victim.ended()
        if code not in (-SIGKILL, *ENDED_BY_TERM):
            judge.tally.problems.append(f"a job ended with exit code {code}")
        await judge.after_kill()
    else:
        victim = await begin()
    if code := await victim.ended(None):
        judge.tally.problems.append(f"a job ended with exit code {code}")
    await judge.after_end()


async def run(
    texts: Sequence[str],
    folder: Path,
    *,
    kills: int,
    seconds: float,
    seed: int = 1,
    number: int = SIGKILL,
    database: str | None = None,
    latency: float = LATENCY,
) -> Tally:
    """`seconds` is the longest that the job runs between two signals."""
    tally = Tally(bound=IN_FLIGHT if number == SIGKILL else 0)
    async with hatching() as begin:
        while tally.kills < kills:
            random = Random(seed + tally.rounds)
            moments = [random.uniform(0.0, seconds) for _ in range(kills - tally.kills)]
            place: Place = SQLitePlace(folder / "rows.db")
            if database:
                place = PostgresPlace(database, f"rows{seed}_{tally.rounds}")
            async with serving("--key", KEY, "--latency", str(latency)) as service:
                what = _what(texts, folder, place, service, number)
                judge = Judge(service, place, folder / "told", texts, tally)
                await one_round(judge, partial(begin, *what), number, moments)
            _clear(folder)
            tally.rounds += 1
    return tally


def _what(texts: Sequence[str], folder: Path, place: Place, service: Service, number: int) -> tuple[Any, ...]:
    """The library is killed; SIGTERM is for the command."""
    if number == SIGKILL:
        return live, Orders(service.url, place.url, texts, str(folder / "told"), CONCURRENCY, BATCH)
    source = folder / "texts.jsonl"
    source.write_bytes(b"\n".join(msgspec.json.encode({"id": str(n), "text": text}) for n, text in enumerate(texts)))
    options = {"--concurrency": CONCURRENCY, "--max-batch-size": BATCH, "--store": place.url, "--model": MODEL}
    arguments = ["index", str(source), *[str(each) for pair in options.items() for each in pair]]
    return command, arguments, service.url, folder / "output"


def _clear(folder: Path) -> None:
    for path in (*folder.glob("rows.db*"), folder / "told"):
        path.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="the seed of the first round")
    parser.add_argument("--count", type=int, default=SECTIONS)
    parser.add_argument("--seconds", type=float, default=4.0, help="the longest that the job runs between two signals")
    parser.add_argument("--latency", type=float, default=LATENCY, help="of the server; 1: 78 ms + 22 us a token")
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    parser.add_argument("--store", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    number = SIGTERM if options.signal == "TERM" else SIGKILL
    texts = sections(options.count)
    how: dict[str, Any] = {"kills": options.kills, "seconds": options.seconds, "seed": options.first, "number": number}
    with tempfile.TemporaryDirectory() as folder, postgres_database(options.store) as database:
        tally = asyncio.run(run(texts, Path(folder), database=database, latency=options.latency, **how))
    print(tally)
    return judged(tally.problems)


@contextmanager
def postgres_database(store: str) -> Iterator[str | None]:
    if store == "sqlite":
        yield None
        return
    server = Server()
    try:
        yield create_database(server.url, "aembed_kills")
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
