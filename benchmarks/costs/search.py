"""Exact search of a large SQLite store by its map, against reading all rows as builds before did, and beside peers.

    python -m benchmarks.search [--quick] [--sizes 100000x1536 1000000x384] [--runs 3] [--no-peers] [--folder DIR]

Each way runs in processes of its own, on one core, over the same vectors: of one common direction (cosines of 0.7 to
0.95, one dimension ten times as wide, 1 % of the rows twice), and random ones. `first` is from the opening of the
store to the answer, `next` the median of those that follow. `before` is this build without a map. The answers are
compared with those of float64 over all rows; peers with their recall.

Then what the map costs: the time to make it, in searches of before; rows a second of new and of replaced rows with
the triggers and without; a search after 100 rows were written; the memory of a search among equal rows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aembed import SQLiteStore
from aembed.results import Report
from aembed.stores._search import Best, NearestQuery
from aembed.stores._sqlite import _making
from aembed.types import Matrix, Rows, Space
from benchmarks.beside.peers import environment
from benchmarks.results import Bar, finish, median, table
from tests.service.own_process import ROOT

K = 5
MOST_COSTED = 100_000
"""Rows of a store whose writes and equal rows are measured as well."""
BATCH = 1_000
REQUIREMENTS = ("numpy", "sqlite-vec", "apsw", "duckdb", "lancedb", "pyarrow", "faiss-cpu", "usearch")
PEERS = ("sqlite-vec", "duckdb", "lancedb", "faiss", "usearch", "mapped float32")
PEERS_SCRIPT = ROOT / "benchmarks" / "beside" / "peers" / "searching.py"
QUICK = ((40_000, 384),)
SIZES = ((100_000, 1_536), (1_000_000, 384))
OF_BEFORE = {100_000: 40.0, 1_000_000: 35.0}
OF_PEER = {100_000: ("sqlite-vec", 15.0), 1_000_000: ("lancedb", 10.0)}
FIRST_OF_BEFORE, SEARCHES_A_MAP, AFTER_WRITE, EQUAL_MB, TRIGGERS = 20.0, 5.0, 2.0, 60.0, 1.05


def vectors(random: np.random.Generator, n: int, dimensions: int, kind: str) -> Matrix:
    rows = random.standard_normal((n, dimensions), dtype=np.float32)
    if kind == "random":
        return rows
    widths = np.ones(dimensions, np.float32)
    widths[dimensions // 3] = 10
    common = np.sin(1 + np.arange(dimensions)) / np.sqrt(dimensions / 2)
    rows *= widths * (0.45 / np.sqrt((widths**2).sum()))
    rows += common.astype(np.float32)
    return rows


async def fill(path: Path, matrix: Matrix) -> float:
    """Seconds for each row."""
    store = SQLiteStore(path)
    await store.prepare(Space("fake", "fake", matrix.shape[1]))
    began = time.perf_counter()
    for start in range(0, len(matrix), BATCH):
        await store.write(batch(range(start, min(start + BATCH, len(matrix))), matrix[start : start + BATCH]))
    took = time.perf_counter() - began
    await store.aclose()
    return took / len(matrix)


def batch(numbers: Sequence[int], matrix: Matrix, edition: str = "") -> Rows:
    names = [f"docs/{number:07}" for number in numbers]
    marks, nothing = [f"{name}{edition}".encode() for name in names], [None] * len(names)
    return Rows(names, [f"{name} " * 20 for name in names], nothing, nothing, marks, marks, np.asarray(matrix))


# one way, in a process of its own


async def searched(folder: Path, *, by_map: bool) -> dict[str, Any]:
    if not by_map:
        _making.MAPPED_FROM_BYTES = 2**62
    seconds, found = [], []
    queries = np.load(folder / "queries.npy")
    store = SQLiteStore(folder / "notes.db")
    if not by_map:
        store._map._throw_away = lambda id: None  # type: ignore[method-assign]
        store._map._current = lambda dimensions, connection: None  # type: ignore[method-assign]
    for query in queries:
        began = time.perf_counter()
        matches = await store.search(query, K)
        seconds.append(time.perf_counter() - began)
        found.append([(match.id, match.score) for match in matches])
    if by_map:
        assert store._map._mapped is not None
    await store.aclose()
    return {"first": seconds[0], "next": seconds[1:], "found": found}


async def made(folder: Path) -> dict[str, Any]:
    store = SQLiteStore(folder / "notes.db")
    began, used = time.perf_counter(), time.process_time()
    await store.finish(Report())
    await store.aclose()
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - used}


async def searched_after_writes(folder: Path) -> dict[str, Any]:
    """A search after each write of 100 rows, beside those without one."""
    store, queries = SQLiteStore(folder / "written.db"), np.load(folder / "queries.npy")
    random, alone, after = np.random.default_rng(9), [], []
    for number, query in enumerate(np.concatenate([queries, queries])):
        if number % 2:
            chosen = random.integers(0, 20_000, 100)
            rows = vectors(random, 100, len(query), "alike")
            await store.write(batch(sorted({int(each) for each in chosen}), rows[: len(set(chosen.tolist()))], "new"))
        began = time.perf_counter()
        await store.search(query, K)
        (after if number % 2 else alone).append(time.perf_counter() - began)
    await store.aclose()
    return {"alone": median(alone[1:]), "after": median(after)}


async def searched_among_equals(folder: Path) -> dict[str, Any]:
    """Most memory that a search takes where all rows are equal."""
    store, query = SQLiteStore(folder / "equal.db"), np.load(folder / "queries.npy")[0]
    await store.search(query, K)
    tracemalloc.start()
    assert [match.id for match in await store.search(query, K)] == [f"docs/{number:07}" for number in range(K)]
    (_, peak) = tracemalloc.get_traced_memory()
    assert store._map._mapped is not None
    await store.aclose()
    return {"mb": peak / 1e6}


PARTS = {
    "map": lambda folder: searched(folder, by_map=True),
    "before": lambda folder: searched(folder, by_map=False),
    "make": made,
    "after writes": searched_after_writes,
    "equals": searched_among_equals,
}


def run(part: str, folder: Path) -> dict[str, Any]:
    return _told([sys.executable, "-m", "benchmarks.search", "--part", part, "--folder", str(folder)])


def run_peer(interpreter: Path, way: str, folder: Path, action: str) -> dict[str, Any]:
    return _told([str(interpreter), str(PEERS_SCRIPT), way, str(folder), action])


def _told(command: Sequence[str]) -> dict[str, Any]:
    """On one core."""
    environ = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, env=environ, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, preexec_fn=_on_one_core
    )
    told: dict[str, Any] = json.loads(done.stdout or "{}")
    return told


def _on_one_core() -> None:
    with suppress(AttributeError, OSError):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


# what is measured


@dataclass(slots=True)
class Data:
    """A store, its queries and the true answers."""

    folder: Path
    rows: int
    dimensions: int
    kind: str
    true: list[list[tuple[str, float]]]

    @classmethod
    def make(cls, folder: Path, rows: int, dimensions: int, kind: str, queries: int) -> Data:
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(1)
        if not (folder / "ready").exists():
            matrix = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, (rows, dimensions))
            for start in range(0, rows, 10_000):
                matrix[start : start + 10_000] = vectors(random, min(10_000, rows - start), dimensions, kind)
            twice = random.integers(0, rows, rows // 100)
            matrix[twice] = matrix[(twice * 7 + 1) % rows]
            matrix.flush()
            asyncio.run(fill(folder / "notes.db", matrix))
            (folder / "ready").touch()
        np.save(folder / "queries.npy", vectors(np.random.default_rng(2), queries, dimensions, kind))
        return cls(folder, rows, dimensions, kind, list(cls._truth(folder)))

    @staticmethod
    def _truth(folder: Path) -> Iterator[list[tuple[str, float]]]:
        """In float64, over all rows."""
        matrix = np.load(folder / "rows.npy", mmap_mode="r")
        queries = np.load(folder / "queries.npy")
        best = [Best(NearestQuery(query, K), []) for query in queries]
        for start in range(0, len(matrix), BATCH):
            page = np.asarray(matrix[start : start + BATCH])
            ids = [f"docs/{number:07}" for number in range(start, start + len(page))]
            for each in best:
                each.add(ids, page)
        return (each.found() for each in best)

    @property
    def title(self) -> str:
        return f"{self.rows:,} x {self.dimensions}, {self.kind}"


def measure(data: Data, peers: Path | None, runs: int) -> dict[str, Any]:
    for old in data.folder.glob("notes.db-map-*"):
        old.unlink()
    before = [run("before", data.folder)]
    making = run("make", data.folder)
    ways: dict[str, list[dict[str, Any]]] = {"map": [], "before": before}
    usable = [way for way in PEERS if peers and _is_made(peers, way, data.folder)]
    for _ in range(runs):
        for way in ("map", "before"):
            ways[way].append(run(way, data.folder))
        for way in usable:
            ways.setdefault(way, []).append(run_peer(peers, way, data.folder, "search"))  # type: ignore[arg-type]
    row: dict[str, Any] = {"data": data.title, "making": making}
    for way, told in ways.items():
        row[way] = {
            "first": median(each["first"] for each in told),
            "next": median(median(each["next"]) for each in told),
            "right": _right(told[-1]["found"], data),
        }
    print(table(_HEAD, _lines(row)), flush=True)
    return row


def _is_made(peers: Path, way: str, folder: Path) -> bool:
    note = folder / f"made {way}"
    if not note.exists():
        try:
            run_peer(peers, way, folder, "make")
        except subprocess.CalledProcessError as error:
            print(f"{way} is left out: {error}", flush=True)
            return False
        note.touch()
    return True


def _right(found: Sequence[Sequence[Any]], data: Data) -> float:
    """The share of answers that are ids, order and scores of the truth; of peers, the share of its rows (recall)."""
    if found and found[0] and isinstance(found[0][0], list):
        same = [[(id, score) for id, score in each] == true for each, true in zip(found, data.true, strict=True)]
        return sum(same) / len(same)
    wanted = [{int(id[5:]) for id, _ in true} for true in data.true]
    return sum(len(set(each) & true) for each, true in zip(found, wanted, strict=True)) / (K * len(wanted))


_HEAD = ("", "first, ms", "next, ms", "right", "of the map's")


def _lines(row: Mapping[str, Any]) -> Iterator[list[str]]:
    for way, told in row.items():
        if isinstance(told, dict) and "next" in told:
            ratio = told["next"] / row["map"]["next"]
            yield [
                way,
                f"{told['first'] * 1e3:.1f}",
                f"{told['next'] * 1e3:.1f}",
                f"{told['right']:.3f}",
                f"{ratio:.1f} x",
            ]


def bars_of(row: Mapping[str, Any], data: Data) -> Iterator[Bar]:
    ours, before = row["map"], row["before"]
    title = data.title
    yield Bar(f"{title}: next, before / by map", before["next"] / ours["next"], least=OF_BEFORE.get(data.rows, 1.0))
    yield Bar(f"{title}: first, before / by map", before["first"] / ours["first"], least=FIRST_OF_BEFORE)
    yield Bar(f"{title}: answers that are exact", ours["right"], least=1.0)
    yield Bar(
        f"{title}: making the map, in searches of before", row["making"]["cpu"] / before["next"], most=SEARCHES_A_MAP
    )
    if data.rows in OF_PEER and OF_PEER[data.rows][0] in row:
        peer, times = OF_PEER[data.rows]
        yield Bar(f"{title}: next, {peer} / by map", row[peer]["next"] / ours["next"], least=times)


def writes(folder: Path, runs: int) -> dict[str, float]:
    """How much longer writes take with the triggers: new rows, and rows that a map knows."""
    random, count, new, again = np.random.default_rng(3), 20_000, [], []
    matrix = vectors(random, count, 1_536, "random")
    for _ in range(runs):
        took = {}
        for noted in (False, True):
            path = folder / f"writes-{noted}.db"
            for each in list(folder.glob(f"{path.name}*")):
                each.unlink()
            asyncio.run(fill(path, matrix[:2_000]))
            if noted:
                _made_now(path)
            took[noted] = asyncio.run(_write_on(path, matrix))
        new.append(took[True][0] / took[False][0])
        again.append(took[True][1] / took[False][1])
    return {"new": median(new), "again": median(again)}


def _made_now(path: Path) -> None:
    async def make() -> None:
        store = SQLiteStore(path)
        _making.MAPPED_FROM_BYTES = 1
        await store.finish(Report())
        await store.aclose()

    asyncio.run(make())


async def _write_on(path: Path, matrix: Matrix) -> tuple[float, float]:
    """CPU seconds for all others, and for the first 2,000 ten times again."""
    store = SQLiteStore(path)
    began = time.process_time()
    for start in range(2_000, len(matrix), BATCH):
        await store.write(batch(range(start, start + BATCH), matrix[start : start + BATCH]))
    new, began = time.process_time() - began, time.process_time()
    for number in range(10):
        for start in (0, 1_000):
            await store.write(batch(range(start, start + BATCH), matrix[start : start + BATCH], str(number)))
    again = time.process_time() - began
    await store.aclose()
    return new, again


def costs(data: Data, runs: int) -> tuple[dict[str, Any], list[Bar]]:
    found: dict[str, Any] = {"writes": writes(data.folder, runs)}
    shutil.copy(data.folder / "notes.db", data.folder / "written.db")
    _made_now(data.folder / "written.db")
    found["after writes"] = run("after writes", data.folder)
    if not (data.folder / "equal.db").exists():
        one = vectors(np.random.default_rng(4), 1, data.dimensions, data.kind)
        asyncio.run(fill(data.folder / "equal.db", np.broadcast_to(one, (data.rows, data.dimensions))))
    _made_now(data.folder / "equal.db")
    found["equals"] = run("equals", data.folder)
    written, after = found["writes"], found["after writes"]
    return found, [
        Bar("new rows, with triggers / without", written["new"], most=TRIGGERS, unit=" x"),
        Bar("replaced rows, with triggers / without", written["again"], most=TRIGGERS, unit=" x"),
        Bar("a search after 100 rows were written / without", after["after"] / after["alone"], most=AFTER_WRITE),
        Bar(f"a search among {data.rows:,} equal rows", found["equals"]["mb"], most=EQUAL_MB, unit=" MB"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40,000 x 384")
    parser.add_argument("--sizes", nargs="*", type=_size, help="ROWSxDIMENSIONS")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--kinds", nargs="*", choices=("alike", "random"), default=("alike", "random"))
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the data is kept; default a temporary folder")
    parser.add_argument("--keep", action="store_true", help="write results/")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(asyncio.run(PARTS[options.part](options.folder))))
        return 0
    sizes = options.sizes or (QUICK if options.quick else SIZES)
    with tempfile.TemporaryDirectory() as temporary:
        return _measure_all(options, sizes, options.folder or Path(temporary))


def _measure_all(options: argparse.Namespace, sizes: Sequence[tuple[int, int]], place: Path) -> int:
    peers = None if options.no_peers else environment.python("searches", REQUIREMENTS)
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for number, (count, dimensions) in enumerate(sizes):
        for kind in options.kinds:
            folder = place / f"{count}x{dimensions}-{kind}"
            data = Data.make(folder, count, dimensions, kind, options.queries)
            print(data.title, flush=True)
            row = measure(data, peers if kind == "alike" else None, options.runs)
            bars += bars_of(row, data)
            if number == 0 and kind == "alike" and count <= MOST_COSTED:
                row["costs"], more = costs(data, options.runs)
                bars += more
            rows.append(row)
    return finish("search", rows, bars, keep=options.keep)


def _size(text: str) -> tuple[int, int]:
    rows, dimensions = text.split("x")
    return int(rows), int(dimensions)


if __name__ == "__main__":
    sys.exit(main())
