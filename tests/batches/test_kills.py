"""A process is killed before and after every call of the provider and of the store, and run again hours later."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aembed import Embedder, Record, Report, SQLiteStore
from aembed.protocols import Store
from tests.batches.provider import DAY, BatchFake, Killed
from tests.batches.test_jobs import records, rows_are_right

pytestmark = pytest.mark.anyio

KEPT = ["begin_batch", "change_batch", "settle_lines", "end_batch", "forget_texts", "write"]


class Killer:
    """Ends the process at the point of that number: each call has one before it and one after it."""

    def __init__(self, fake: BatchFake, point: float) -> None:
        self.passed, self.names, self.dead = 0, list[str](), False
        self._point = point
        fake.before = lambda call: self.pass_by(f"before {call}")
        fake.after = lambda call: self.pass_by(f"after {call}")

    def pass_by(self, name: str) -> None:
        self.passed += 1
        self.names.append(name)
        if self.dead or self.passed == self._point:
            # What a process that is dead would do to clean up is not done either.
            self.dead = True
            raise Killed(name)

    def watch(self, store: SQLiteStore) -> None:
        for name in KEPT:
            setattr(store, name, self._watched(name, getattr(store, name)))

    def _watched(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        async def watched(*arguments: Any, **options: Any) -> Any:
            self.pass_by(f"before {name}")
            result = await method(*arguments, **options)
            self.pass_by(f"after {name}")
            return result

        return watched


async def run(fake: BatchFake, path: Path, given: list[Record], killer: Killer | None = None) -> Report | None:
    """One run of a process of its own, which may be killed."""
    store = SQLiteStore(path)
    if killer:
        killer.watch(store)
    try:
        async with Embedder(fake) as embedder:
            embedder._engine.clock = lambda: fake.now
            return await embedder.embed_into(store, given, batch=True)
    except BaseException as error:
        if isinstance(error, Killed) or (isinstance(error, BaseExceptionGroup) and error.subgroup(Killed)):
            return None
        raise
    finally:
        await store.aclose()


async def until_done(fake: BatchFake, path: Path, given: list[Record]) -> None:
    """Runs of later hours, until all rows are there."""
    fake.before = fake.after = lambda call: None
    for _ in range(6):
        fake.now += 700.0
        fake.run_batches()
        report = await run(fake, path, given)
        assert report
        if report.unchanged == len(given):
            break
    store: Store = SQLiteStore(path)
    await rows_are_right(store, given)
    fake.now += 4 * DAY
    await run(fake, path, given)
    assert await store.batches() == []  # type: ignore[attr-defined]
    await store.aclose()


@pytest.mark.parametrize("runs", [0, 1], ids=["submits", "collects"])
async def test_q15_a_process_is_killed_at_any_point(runs: int, tmp_path: Path) -> None:
    point, given = 1, records(6)
    while True:
        fake, path = BatchFake(), tmp_path / f"{point}.db"
        for _ in range(runs):
            await run(fake, path, given)
            fake.now += 60.0
            fake.run_batches()
        killer = Killer(fake, point)
        ended = await run(fake, path, given, killer)
        if ended:
            break
        await until_done(fake, path, given)
        assert set(fake.bought.values()) == {1}, killer.names
        assert len([name for name in fake.files if not name.startswith("out")]) <= 1, killer.names
        point += 1
    assert point == (11 if runs == 0 else 25)


@pytest.mark.parametrize("seed", range(6))
async def test_q16_histories_of_days_with_kills_lost_answers_and_edits(seed: int, tmp_path: Path) -> None:
    chance, fake, path = random.Random(seed), BatchFake(), tmp_path / "rows.db"
    given = records(10)
    for _ in range(8):
        fake.lose = chance.choices(["upload", "create", "get", "list", "delete"], k=chance.randrange(3))
        killer = Killer(fake, chance.randrange(1, 40) if chance.random() < 0.5 else float("inf"))
        await run(fake, path, given, killer)
        fake.lose = []
        fake.now += chance.choice([1.0, 300.0, 700.0, 90_000.0])
        if chance.random() < 0.6:
            fake.run_batches(chance.choice(["completed", "completed", "expired"]))
        if chance.random() < 0.3:
            number = chance.randrange(len(given))
            given[number] = Record(given[number].id, f"edited {chance.random()}")
    await until_done(fake, path, given)
    assert set(fake.bought.values()) == {1}
