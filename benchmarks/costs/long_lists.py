"""How long lists of a million short texts hold up the event loop that they are given on, verb by verb.

    python -m benchmarks.long_lists [--texts 1000000] [--dimensions 16] [--runs 3] [--stacks] [CASE ...]

Each case is a process of its own, so that none sees what another left behind. A callback comes round every millisecond;
the stall is how much later than that it came, at the most. `held` is the most CPU time that the loop's own thread used
between two rounds: where the machine does something else, too, that is what is left of the stall. `--stacks` tells
where the loop stood whenever it was late, and which collections of garbage there were. The provider is the simulated
one, in a third process. Exits 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, closing, suppress
from pathlib import Path
from time import perf_counter, sleep, thread_time
from typing import Any

from aembed import Embedder, PartialError, Record, SQLiteColumn
from benchmarks.results import Bar, finish, median, table
from tests.service.own_process import KEY, MODEL, ROOT, serving

TICK = 0.001
LATE = 0.008
"""`--stacks` shows where the loop stood once it is so many seconds late."""
SEARCHES = 10_000
"""Of `search_many`: so many, and not as many as there are texts, which would take hours."""


class Watch:
    """The longest time that the running loop was held up for between `begin` and `end`."""

    def __init__(self, stacks: bool) -> None:
        self._stacks = Stacks() if stacks else None
        self._main = threading.get_ident()
        self.began = self.last = 0.0
        self._used = self._stall = self._held = 0.0
        self._late = 0
        self._handle: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self.began = self.last = perf_counter()
        self._used = thread_time()
        self._handle = asyncio.get_running_loop().call_later(TICK, self._tick)
        if self._stacks:
            self._stacks.watch(self)

    def _tick(self) -> None:
        now, used = perf_counter(), thread_time()
        gap = now - self.last - TICK
        self._stall, self._held = max(self._stall, gap), max(self._held, used - self._used)
        self._late += gap > LATE
        self.last, self._used = now, used
        self._handle = asyncio.get_running_loop().call_later(TICK, self._tick)

    def end(self) -> dict[str, float]:
        self._tick()
        assert self._handle is not None
        self._handle.cancel()
        if self._stacks:
            self._stacks.tell()
        return {"stall": self._stall, "held": self._held, "late": self._late, "seconds": self.last - self.began}


class Stacks:
    """Where the loop's thread stood while it was late, by a thread that looks every two milliseconds."""

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._seen = Counter[str]()
        self._collection = 0.0

    def watch(self, watch: Watch) -> None:
        gc.callbacks.append(self._note_collection)
        threading.Thread(target=self._look, args=(watch,), daemon=True).start()

    def _look(self, watch: Watch) -> None:
        while True:
            sleep(2 * TICK)
            if perf_counter() - watch.last - TICK > LATE:
                frames = reversed(traceback.extract_stack(sys._current_frames()[self._main])[-6:])
                self._seen[" < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames)] += 1

    def _note_collection(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._collection = thread_time()
        elif (seconds := thread_time() - self._collection) > LATE:
            self._seen[f"a collection of generation {info['generation']}, {seconds * 1e3:.0f} ms of CPU"] += 1

    def tell(self) -> None:
        for where, times in self._seen.most_common(12):
            print(f"  {times:4} x {where}", file=sys.stderr)


Case = Callable[[Embedder, list[str], Path, Watch], Awaitable[dict[str, float]]]


async def listed(embedder: Embedder, texts: list[str], folder: Path, watch: Watch) -> dict[str, float]:
    watch.begin()
    embeddings = await embedder.embed_documents(texts)
    assert len(embeddings.vectors) == len(texts)
    return watch.end()


async def generated(embedder: Embedder, texts: list[str], folder: Path, watch: Watch) -> dict[str, float]:
    watch.begin()
    embeddings = await embedder.embed_documents(iter(texts))
    assert len(embeddings.vectors) == len(texts)
    return watch.end()


async def equal(embedder: Embedder, texts: list[str], folder: Path, watch: Watch) -> dict[str, float]:
    given = [texts[number % 1_000] for number in range(len(texts))]
    watch.begin()
    embeddings = await embedder.embed_documents(given)
    assert len(embeddings.vectors) == len(texts)
    return watch.end()


async def failing(embedder: Embedder, texts: list[str], folder: Path, watch: Watch) -> dict[str, float]:
    given = [text if number % 1_000 == 0 else "" for number, text in enumerate(texts)]
    watch.begin()
    embeddings = await embedder.embed_documents(given)
    with suppress(PartialError):
        embeddings.raise_for_failures()
    return watch.end()


async def streamed(embedder: Embedder, texts: list[str], folder: Path, watch: Watch) -> dict[str, float]:
    watch.begin()
    async with embedder.stream(texts) as results:
        async for _ in results:
            pass
    return watch.end()


async def stored(embedder: Embedder, texts: list[str], folder: Path, watch: Watch) -> dict[str, float]:
    records = [Record(f"id {number}", text) for number, text in enumerate(texts)]
    await embedder.embed_into(folder / "other.db", records[:1])
    watch.begin()
    report = await embedder.embed_into(folder / "rows.db", records)
    assert report.stored == len(texts), report
    return watch.end()


async def backfilled(embedder: Embedder, texts: list[str], folder: Path, watch: Watch) -> dict[str, float]:
    with closing(sqlite3.connect(folder / "app.db")) as connection, connection:
        connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, vector BLOB)")
        connection.executemany("INSERT INTO notes (body) VALUES (?)", ([text] for text in texts))
    async with aclosing(SQLiteColumn(folder / "app.db", "notes", text="body", vector="vector")) as column:
        watch.begin()
        report = await embedder.backfill(column)
        assert report.stored == len(texts), report
        return watch.end()


async def searched(embedder: Embedder, texts: list[str], folder: Path, watch: Watch) -> dict[str, float]:
    await embedder.embed_into(folder / "rows.db", [Record(text, text) for text in texts[:1_000]])
    watch.begin()
    found = await embedder.search_many(folder / "rows.db", texts[:SEARCHES], k=5)
    assert len(found) == min(len(texts), SEARCHES)
    return watch.end()


CASES: dict[str, Case] = {
    "embed_documents": listed,
    "embed_documents, a generator": generated,
    "embed_documents, a thousand texts over and over": equal,
    "embed_documents, nearly all empty": failing,
    "stream": streamed,
    "embed_into": stored,
    "backfill": backfilled,
    "search_many": searched,
}
MOST_SECONDS = {"embed_documents": 0.040}


async def run_case(name: str, texts: int, dimensions: int, stacks: bool) -> dict[str, float]:
    given = [f"a short text, number {number}" for number in range(texts)]
    async with serving("--key", KEY) as service:
        options: dict[str, Any] = {"api_key": KEY, "base_url": service.url, "dimensions": dimensions}
        async with Embedder(MODEL, **options) as embedder:
            await embedder.embed_documents(["what is loaded once is loaded now"])
            with tempfile.TemporaryDirectory() as folder:
                return await CASES[name](embedder, given, Path(folder), Watch(stacks))


def run_apart(name: str, texts: int, dimensions: int, stacks: bool) -> dict[str, float]:
    options = ["--texts", str(texts), "--dimensions", str(dimensions), *(["--stacks"] if stacks else [])]
    command = [sys.executable, "-m", "benchmarks.costs.long_lists", "--one", *options, name]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    print(f"{name}: stall {found['stall'] * 1e3:.0f} ms, held {found['held'] * 1e3:.0f} ms", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3, help="the bar is about their median")
    parser.add_argument("--stacks", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases = options.cases or list(CASES)
    if options.one:
        print(json.dumps(asyncio.run(run_case(cases[0], options.texts, options.dimensions, options.stacks))))
        return 0
    found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for _ in range(options.runs):
        for name, runs in found.items():
            runs.append(run_apart(name, options.texts, options.dimensions, options.stacks))
    rows = [
        {"case": name, "texts": options.texts, "dimensions": options.dimensions}
        | {figure: median(run[figure] for run in runs) for figure in runs[0]}
        for name, runs in found.items()
    ]
    shown = [[r["case"], *(f"{r[f] * 1e3:.0f} ms" for f in ("stall", "held")), f"{r['seconds']:.1f} s"] for r in rows]
    print(table(["case", "stall", "CPU held", "in all"], shown))
    bars = [
        Bar(f"longest stall, {r['case']}", r["stall"] * 1e3, most=MOST_SECONDS[r["case"]] * 1e3, unit=" ms")
        for r in rows
        if r["case"] in MOST_SECONDS
    ]
    return finish("long_lists", rows, bars, keep=options.texts >= 1_000_000 and not options.cases)


if __name__ == "__main__":
    sys.exit(main())
