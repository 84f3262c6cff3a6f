"""Power cuts while the search map of a SQLite store is made: is every search after them exact?

    python -m benchmarks.map_power_cuts [--rounds 20] [--first 0] [--cuts-each 2] [--unsafe]

Each round writes, replaces and deletes rows on a recorded disk (tests/stage/power.py), makes a map three times while
rows are written beside it, and cuts the power after each operation: while the map's file is written, synced and
renamed, while its token is committed, while the map before is removed. On each of those disks the store is opened and
searched, with the map that it finds, after the next one was made, and after further writes. The answers are compared
with float64 over all rows, and the rows with those that were acknowledged. One of the disks is where the next round
begins.

With `--unsafe` the map is not synced and its sums are not compared: then answers must be wrong. Exits 1 if an answer is
wrong, a row is lost or a file is damaged.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np

from aembed import Report, SQLiteStore
from aembed.providers.fake import fake_vectors
from aembed.stores._map import _file as map_file
from aembed.stores._search import Best, NearestQuery
from aembed.stores._sqlite import _making, _mapped
from aembed.types import Rows, Space
from tests.service.own_process import judged
from tests.stage.power import Cut, Disk, recorded, recorded_module
from tests.stores.samples import rows as rows_of

NAME, DIMENSIONS, K = "rows.db", 64, 5
IDS = 600
SPACE = Space("fake", "fake", DIMENSIONS)
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where the real files lie: what is synced is judged by the record."""
State = dict[str, str]
"""The edition of each row."""


@dataclass(slots=True)
class Tally:
    cuts: int = 0
    while_made: int = 0
    after: Counter[str] = field(default_factory=Counter)
    """What was done last to a map's file."""
    searches: int = 0
    by_map: int = 0
    wrong: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        after = ", ".join(f"{kind} {count:,}" for kind, count in sorted(self.after.items()))
        return (
            f"{self.cuts:,} power cuts, {self.while_made:,} of them while a map was made: {self.wrong} of "
            f"{self.searches:,} searches were wrong; {self.by_map:,} went by a map\n"
            f"what was done last, to a map's file: {after}"
        )


def batch(names: Sequence[str], edition: str) -> Rows:
    return rows_of(
        list(names), fake_vectors([f"{name} {edition}".encode() for name in names], DIMENSIONS), edition=edition
    )


class Writer:
    """Changes rows, and notes on the disk's record which state was begun and which is acknowledged."""

    def __init__(self, store: SQLiteStore, state: State, disk: Disk, random: Random) -> None:
        self.state = dict(state)
        self._store, self._disk, self._random = store, disk, random
        self._edition = max((int(edition) for edition in state.values()), default=0)

    async def write(self, count: int) -> None:
        self._edition += 1
        names = sorted({f"{self._random.randrange(IDS):04}" for _ in range(count)})
        self._begin(self.state | dict.fromkeys(names, str(self._edition)))
        await self._store.write(batch(names, str(self._edition)))
        self._disk.note("done", self.state)

    async def delete(self, count: int) -> None:
        gone = self._random.sample(sorted(self.state), min(count, len(self.state) // 2))
        self._begin({name: edition for name, edition in self.state.items() if name not in gone})
        await self._store.delete(gone)
        self._disk.note("done", self.state)

    def _begin(self, state: State) -> None:
        self.state = state
        self._disk.note("begun", self.state)


async def live(disk: Disk, state: State, random: Random) -> None:
    """Three maps of a store that is written to."""
    store = SQLiteStore(disk.folder / NAME)
    await store.prepare(SPACE)
    writer = Writer(store, state, disk, random)
    for _ in range(3):
        await writer.write(200)
        await writer.delete(20)
        disk.note("made from")
        await store.finish(Report())
        await writer.write(30)
        await _made(store)
        disk.note("made to")
        await store.search(query(random), K)
        await writer.write(10)
        await store.search(query(random), K)
    await store.aclose()


async def _made(store: SQLiteStore) -> None:
    """Waits for a map that is being made."""
    if store._maker._running is not None:
        await asyncio.wrap_future(store._maker._running)


def query(random: Random) -> Any:
    return np.random.default_rng(random.randrange(2**32)).standard_normal(DIMENSIONS).astype(np.float32)


# after a cut


async def check(folder: Path, allowed: Sequence[State], random: Random, tally: Tally) -> State:
    """Returns the rows that are there."""
    path = folder / NAME
    if not path.exists():
        return {}
    with closing(sqlite3.connect(path)) as connection:
        if (found := connection.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
            tally.problems.append(f"the file is damaged: {found[:3]}")
    store = SQLiteStore(path)
    held = {row.id: row.vector async for row in store.rows()}
    state = next((each for each in allowed if _is(each, held)), None)
    if state is None:
        tally.problems.append("the rows are not those that were acknowledged")
        state = {}
    await store.prepare(SPACE)
    await compare(store, held, random, tally)
    await _made(store)
    await compare(store, held, random, tally)
    new = batch([f"{random.randrange(IDS):04}" for _ in range(1)], "0")
    await store.write(new)
    await compare(store, held | dict(zip(new.ids, new.matrix, strict=True)), random, tally)
    await store.aclose()
    return state


def _is(state: State, held: Mapping[str, Any]) -> bool:
    if state.keys() != held.keys():
        return False
    if not state:
        return True
    right = fake_vectors([f"{name} {edition}".encode() for name, edition in state.items()], DIMENSIONS)
    return all(np.array_equal(held[name], vector) for name, vector in zip(state, right, strict=True))


async def compare(store: SQLiteStore, held: Mapping[str, Any], random: Random, tally: Tally) -> None:
    """Two searches: the second one finds the map open."""
    for _ in range(2):
        vector = query(random)
        try:
            found = [(match.id, match.score) for match in await store.search(vector, K)]
        except Exception as error:
            found = [(repr(error), 0.0)]
        best = Best(NearestQuery(vector, K), [])
        if held:
            best.add(list(held), np.stack(list(held.values())))
        tally.searches += 1
        tally.by_map += store._map._mapped is not None
        if found != best.found():
            tally.wrong += 1
            tally.problems.append(f"found {found[:2]}, not {best.found()[:2]}")


# rounds


def one_round(
    start: Cut, state: State, cuts_each: int, random: Random, tally: Tally, *, safe: bool = True
) -> tuple[Cut, State]:
    """Returns one of the cuts, and the rows that are on it."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        start.write(Path(folder))
        with recorded(Path(folder)) as disk, recorded_module(map_file, disk, syncs=safe):
            asyncio.run(live(disk, state, random))
    points = [point for point in range(1, len(disk.operations) + 1) for _ in range(cuts_each)]
    chosen, last = random.randrange(len(points)), (start, state)
    for number, cut in enumerate(disk.cuts(points, random)):
        kinds = [kind for kind, *_ in cut.notes]
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            cut.write(Path(folder))
            found = asyncio.run(check(Path(folder), _allowed(cut, state), random, tally))
        kind, *named = disk.operations[points[number] - 1]
        if named and "-map-" in str(named[0]):
            tally.after[kind] += 1
        tally.cuts += 1
        tally.while_made += kinds.count("made from") > kinds.count("made to")
        if number == chosen:
            last = (cut, found)
    return last


def _allowed(cut: Cut, state: State) -> list[State]:
    """What was acknowledged; in the middle of a write also what was being written."""
    noted = [("done", state), *((kind, *given) for kind, *given in cut.notes if kind in ("begun", "done"))]
    return [given for _, given in (noted[-1:] if noted[-1][0] == "done" else noted[-2:])]


@contextmanager
def small_maps() -> Iterator[None]:
    """A few rows are worth a map, and one follows the other at once."""
    names = {
        "MAPPED_FROM_BYTES": 1,
        "_REST": 0,
        "_REST_AFTER_FAILURE": 0.0,
        "_MOST_UNKNOWN": 20,
        "_ABANDONED_AFTER": -1e9,
    }
    usual = {name: getattr(_making, name) for name in names}
    for name, value in names.items():
        setattr(_making, name, value)
    try:
        yield
    finally:
        for name, value in usual.items():
            setattr(_making, name, value)


@contextmanager
def unchecked() -> Iterator[None]:
    """Maps are taken as they are, without their sums."""
    sums, lists = map_file.zlib, _mapped.shortlists
    map_file.zlib = SimpleNamespace(crc32=lambda *_: 0)  # type: ignore[assignment]
    _mapped.shortlists = lambda *given, check: lists(*given, check=False)  # type: ignore[assignment]
    try:
        yield
    finally:
        map_file.zlib, _mapped.shortlists = sums, lists


def run(rounds: int, first: int = 0, cuts_each: int = 2, *, safe: bool = True) -> Tally:
    """Raises LookupError where this Python's SQLite cannot be watched."""
    tally, start, state = Tally(), Cut({}, []), State()
    with small_maps(), nullcontext() if safe else unchecked():
        for number in range(first, first + rounds):
            start, state = one_round(start, state, cuts_each, Random(number), tally, safe=safe)
            if number % 5 == 4 or tally.problems:
                start, state = Cut({}, []), {}
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the seed of the first round")
    parser.add_argument("--cuts-each", type=int, default=2, help="cuts after each operation")
    parser.add_argument("--unsafe", action="store_true")
    options = parser.parse_args()
    tally = run(options.rounds, options.first, options.cuts_each, safe=not options.unsafe)
    print(tally)
    return judged(tally.problems)


if __name__ == "__main__":
    sys.exit(main())
