"""Kills at random moments of jobs with batch=True, hours apart, with answers that are lost and a list that lags.

    python -m benchmarks.batch_kills [--kills 200] [--first 1] [--store sqlite]

Each run is a process of its own, which is killed, now and then one of two at once; some have only a part of the
records. The simulated service is another, and keeps a clock that is advanced between the runs. At the end of each
history every row is there and right, the ledger has every text once (the list lags less than the grace of ten minutes),
and no file is left at the service. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from benchmarks.kills import Place, PostgresPlace, SQLitePlace, postgres_database

from tests.service.own_process import KEY, Service, judged, serving
from tests.service.vectors import digest, vectors_of
from tests.service.wire import Wire
from tests.stage.victims import BatchOrders, Begin, batch, hatching

TEXTS, DIMENSIONS = 1_200, 48
"""Three lines of a file."""
LONGEST_SECONDS = 0.8
"""A run that is not killed takes half a second."""
KILLS_A_HISTORY = 8
HOURS = (1.0, 30.0, 400.0, 700.0, 3_600.0, 90_000.0)
"""What passes between two runs, in seconds: less and more than the grace, and more than a batch may take."""
MOST_LAG = 300.0
MOST_RUNS_TO_THE_END = 15


class History:
    """One store and one service, from its first run to its end."""

    def __init__(self, service: Service, place: Place, begins: Sequence[Begin], seed: int) -> None:
        self._service, self._place, self._begins = service, place, begins
        self._random = Random(seed)
        self._texts = [f"text {number} of history {seed}" for number in range(TEXTS)]
        self._ahead = 0.0
        self.kills = 0
        self.bought_twice = 0

    async def live(self) -> list[str]:
        """What went wrong in it."""
        await self._draw_faults()
        while self.kills < KILLS_A_HISTORY:
            orders = self._drawn_orders()
            victims = [await begin(batch, orders) for begin in self._begins[: self._random.choice([1, 1, 2])]]
            for victim in victims:
                if await victim.ended(self._random.uniform(0.0, LONGEST_SECONDS)) is None:
                    await victim.killed()
                    self.kills += 1
            await self._pass(self._random.choice(HOURS))
        return [problem async for problem in self._ends()]

    def _drawn_orders(self) -> BatchOrders:
        """Vectors of records that a run does not have are kept in the store."""
        orders, part = self._orders, self._random.choice([1.0, 1.0, self._random.random()])
        return replace(orders, texts=self._texts[: int(TEXTS * part)])

    @property
    def _orders(self) -> BatchOrders:
        return BatchOrders(self._service.url, self._place.url, self._texts, self._ahead, DIMENSIONS)

    async def _draw_faults(self) -> None:
        lost = [
            self._random.choice([None, None, {"kind": "lost"}, {"kind": "lost", "took_effect": False}])
            for _ in range(6)
        ]
        courses = [{"stops_at": 0.5}] if self._random.random() < 0.3 else []
        await self._service.script(
            list_lag=self._random.uniform(0.0, MOST_LAG),
            usual_course={"validating": 20, "running": 300, "order": "shuffled"},
            courses=courses,
            batch_faults={"create": lost, "upload": lost[3:]},
        )

    async def _pass(self, seconds: float) -> None:
        self._ahead += seconds
        await self._service.script(advance=seconds)

    async def _ends(self) -> AsyncIterator[str]:
        for number in range(MOST_RUNS_TO_THE_END):
            # One whose uploads are lost again and again ends with an error, and the next one goes on.
            await (await self._begins[0](batch, self._orders)).ended()
            await self._pass(90_000.0 if number % 4 == 3 else 700.0)
            if not [*await self._wrong_rows()]:
                break
        for problem in await self._wrong_rows():
            yield problem
        # A file whose upload was killed, or whose answer was lost, is deleted by the service after a week.
        await self._pass(8 * 86_400.0)
        victim = await self._begins[0](batch, self._orders)
        if code := await victim.ended():
            yield f"the last run ended with exit code {code}"
        times = Counter((await self._service.texts()).values())
        self.bought_twice = sum(count for often, count in times.items() if often > 1)
        if times != {1: TEXTS}:
            yield f"texts by how often they were bought: {dict(times)}"
        async with Wire(self._service.url, key=KEY) as wire:
            left = (await wire.request("GET", "/v1/files")).json()["data"]
        if left:
            yield f"{len(left)} files are left at the service"

    async def _wrong_rows(self) -> Sequence[str]:
        rows = list(await self._place.rows())
        right = vectors_of([digest(text.encode()) for _, text, _ in rows], DIMENSIONS).astype("<f4") if rows else []
        wrong = [
            f"row {id} is wrong"
            for (id, text, vector), expected in zip(rows, right, strict=True)
            if text != self._texts[int(id)] or vector != expected.tobytes()
        ]
        return wrong + ([f"{len(rows)} rows of {TEXTS}"] if len(rows) != TEXTS else [])


async def run(kills: int, seed: int, folder: Path, database: str | None) -> list[str]:
    problems: list[str] = []
    killed = histories = 0
    async with hatching() as first, hatching() as second:
        while killed < kills:
            place: Place = SQLitePlace(folder / f"rows{seed}.db")
            if database:
                place = PostgresPlace(database, f"rows{seed}")
            async with serving("--key", KEY) as service:
                history = History(service, place, [first, second], seed)
                problems += [f"history {seed}: {problem}" for problem in await history.live()]
            killed, histories, seed = killed + history.kills, histories + 1, seed + 1
    print(f"{killed} kills in {histories} histories", flush=True)
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--first", type=int, default=1, help="the seed of the first history")
    parser.add_argument("--store", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, postgres_database(options.store) as database:
        os.environ["TMPDIR"] = folder  # a process that is killed leaves the file that it gathers
        return judged(asyncio.run(run(options.kills, options.first, Path(folder), database)))


if __name__ == "__main__":
    sys.exit(main())
