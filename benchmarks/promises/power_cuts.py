"""Power cuts in the middle of a job into SQLite: is every row that was acknowledged still there?

    python -m benchmarks.power_cuts [--cuts 500] [--first 0] [--synchronous full]

Each round runs the job on a recorded disk (tests/stage/power.py) and cuts the power at ten random moments; the last of
those disks is where the next round begins. `--synchronous normal` and `off` are there to show that rows can be lost.
Exits 1 if an acknowledged row is lost, a row is wrong or a file is damaged.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np

from aembed import Embedder, FakeProvider, Limits, Record, SQLiteStore
from aembed.providers.fake import fake_vectors
from aembed.stores._sqlite import _thread as sqlite_file
from aembed.types import Refusal, Rows
from tests.service.own_process import judged
from tests.stage.power import Cut, Disk, recorded

RECORDS, BATCH, DIMENSIONS = 400, 40, 768
CUTS_PER_ROUND = 10
NAME = "rows.db"
RECORDED = [Record(f"{number}", f"text {number}") for number in range(RECORDS)]


@dataclass(slots=True)
class Tally:
    cuts: int = 0
    acknowledged: int = 0
    lost: int = 0
    with_loss: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.cuts} power cuts: {self.lost:,} of {self.acknowledged:,} acknowledged rows lost, "
            f"in {self.with_loss} of them"
        )


class NotingStore(SQLiteStore):
    """Notes on the disk's record what is acknowledged, when it is. Now and then somebody else checkpoints the file."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk.folder / NAME)
        self._disk = disk
        self._writes = 0

    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        await super().write(rows, refusals)
        self._disk.note(rows.ids)
        self._writes += 1
        if self._writes % 3 == 0:
            with closing(sqlite3.connect(self._disk.folder / NAME)) as another:
                another.execute("PRAGMA wal_checkpoint")


async def job(disk: Disk) -> None:
    """In two halves, so that the file is closed and opened again between them."""
    for share in (RECORDED[: RECORDS // 2], RECORDED):
        store = NotingStore(disk)
        provider = FakeProvider(dimensions=DIMENSIONS, limits=Limits(BATCH, 300_000, 8_191))
        async with Embedder(provider, concurrency=4) as embedder:
            report = await embedder.embed_into(store, share)
        await store.aclose()
        assert report.stored + report.unchanged == len(share)


def rows_in(folder: Path) -> tuple[set[str], list[str]]:
    """The ids that a power cut left, and what is wrong with them."""
    path, problems = folder / NAME, []
    if not path.exists():
        return set(), []
    try:
        with closing(sqlite3.connect(path)) as connection:
            if (found := connection.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
                problems.append(f"the file is damaged: {found[:3]}")
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'aembed_rows'").fetchone():
                return set(), problems
            rows = connection.execute("SELECT id, text, embedding FROM aembed_rows").fetchall()
    except sqlite3.DatabaseError as error:
        return set(), [f"the file is damaged: {error}"]
    right = fake_vectors([str(text).encode() for _, text, _ in rows], DIMENSIONS)
    for (id, text, blob), vector in zip(rows, right, strict=True):
        if text != f"text {id}" or not np.array_equal(np.frombuffer(blob, "<f4"), vector):
            problems.append(f"row {id} is wrong")
    return {id for id, _, _ in rows}, problems


def one_round(
    start: Cut, acknowledged: AbstractSet[str], cuts: int, random: Random, tally: Tally
) -> tuple[Cut, set[str]]:
    """Runs the job from that disk on; returns the last cut and what must be on it."""
    with tempfile.TemporaryDirectory() as folder:
        start.write(Path(folder))
        with recorded(Path(folder)) as disk:
            asyncio.run(job(disk))
    points = [random.randrange(1, len(disk.operations) + 1) for _ in range(cuts)]
    for cut in disk.cuts(points, random):
        due = acknowledged | {id for (ids,) in cut.notes for id in ids}
        with tempfile.TemporaryDirectory() as folder:
            cut.write(Path(folder))
            there, problems = rows_in(Path(folder))
        lost = due - there
        tally.cuts += 1
        tally.acknowledged += len(due)
        tally.lost += len(lost)
        tally.with_loss += bool(lost)
        tally.problems += problems
        if lost:
            tally.problems.append(f"{len(lost)} acknowledged rows are lost")
    return cut, due | there


def run(cuts: int, seed: int = 0) -> Tally:
    """Raises LookupError where this Python's SQLite cannot be watched."""
    tally, number = Tally(), seed
    start, kept = Cut({}, []), set[str]()
    while tally.cuts < cuts:
        start, kept = one_round(start, kept, min(CUTS_PER_ROUND, cuts - tally.cuts), Random(number), tally)
        if len(kept) > RECORDS * 0.8 or tally.problems:
            start, kept = Cut({}, []), set()
        number += 1
    return tally


@contextmanager
def weakened(synchronous: str) -> Iterator[None]:
    """The store's connections have another setting than its own."""
    usual = sqlite_file._connect

    def connect(path: Path, timeout: float, *, reads_only: bool = False) -> sqlite3.Connection:
        connection = usual(path, timeout, reads_only=reads_only)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        return connection

    sqlite_file._connect = connect
    try:
        yield
    finally:
        sqlite_file._connect = usual


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first round")
    parser.add_argument("--synchronous", choices=["full", "normal", "off"], default="full")
    options = parser.parse_args()
    with weakened(options.synchronous):
        tally = run(options.cuts, options.first)
    print(tally)
    return judged(tally.problems)


if __name__ == "__main__":
    sys.exit(main())
