"""What a row costs on Ray Data and on Daft: CPU time by aembed with one actor and with four, and by the engines' own.

    python -m benchmarks.engines [--rows 131072] [--few 2000] [--only Ray Daft]

Each contestant is a process with all that it starts: the engine's own processes, too. It embeds a tenth of so many
rows, for what is loaded late, then all of them, and then twice as many: what the last job takes more is what rows cost,
without the start of actors. The service runs in another process, and answers at once. `--rows` are those of aembed,
`--few` those of the others, which are slow. With a cache workers that are not alone lease each text in it, which no bar
is about. Exits 1 if a bar is missed: four actors take at most 1.25 x the CPU time of one for a row; for a CPU second
aembed has at least 5 x the rows of Ray's HTTP stage and of Daft's `embed_text`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import psutil

from benchmarks.beside.peers import VENVS
from benchmarks.beside.peers.environment import python
from benchmarks.results import Bar, finish, table
from tests.service.own_process import KEY, ROOT, serving

OURS = {
    "Ray": ("1 actor", "4 actors", "1 actor, cache and coordinator", "4 actors, cache and coordinator"),
    "Daft": ("",),
}
THEIRS = {"Ray": ("HTTP stage", "HTTP stage, 500 texts a row by hand"), "Daft": ("embed_text",)}
LOOK_SECONDS = 0.2


def processes_of(root: int) -> list[psutil.Process]:
    """That process and all that it has started, as far as they live."""
    try:
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


class TreeClock:
    """The CPU seconds of a process and of all that it has started, also of what has ended since."""

    def __init__(self, process: int) -> None:
        self._root, self._seconds = process, dict[tuple[int, float], float]()
        self._ended = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self._thread.start()

    def seconds(self) -> float:
        self._look()
        return sum(self._seconds.values())

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        for process in processes_of(self._root):
            try:
                times = process.cpu_times()
                self._seconds[process.pid, process.create_time()] = times.user + times.system
            except psutil.Error:
                continue


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of two jobs, the second of twice as many rows; the seconds of that one; what came of all."""

    rows: int
    first: float
    second: float
    seconds: float
    wrong: int

    @property
    def of_1000(self) -> float:
        return 1_000 * (self.second - self.first) / self.rows


async def measure(interpreter: Path, name: str, rows: int, folder: str) -> Cost:
    wanted = (rows // 10, rows, 2 * rows)
    async with serving("--key", KEY) as service:
        process = await asyncio.create_subprocess_exec(
            *(str(interpreter), "-m", "benchmarks.beside.peers.engines", name, service.url, folder),
            *map(str, wanted),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=PIPE,
            stdout=PIPE,
            stderr=None if "AEMBED_BENCH_STDERR" in os.environ else asyncio.subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        clock = TreeClock(process.pid)
        try:
            await process.stdout.readline()
            taken, wrong, began = [], 0, 0.0
            for each in wanted:
                before, began = clock.seconds(), time.monotonic()
                process.stdin.write(b"go\n")
                line = await process.stdout.readline()
                if not line:
                    raise RuntimeError(f"{name} ended without an answer; AEMBED_BENCH_STDERR=1 shows what it says")
                told = json.loads(line)
                taken.append(clock.seconds() - before)
                wrong += told["wrong"] + abs(told["rows"] - each)
            return Cost(rows, taken[1], taken[2], time.monotonic() - began, wrong)
        finally:
            clock.stop()
            if process.returncode is None:
                process.stdin.close()
                await process.wait()


async def contest(engines: Sequence[str], rows: int, few: int) -> dict[str, Cost]:
    interpreter = await asyncio.to_thread(python, "engines", VENVS["engines"])
    wanted = [
        (f"{engine}: {', '.join(filter(None, ('aembed', how)))}", rows) for engine in engines for how in OURS[engine]
    ]
    wanted += [(f"{engine}: {name}", few) for engine in engines for name in THEIRS[engine]]
    costs = {}
    for name, count in wanted:
        with tempfile.TemporaryDirectory() as folder:
            costs[name] = cost = await measure(interpreter, name, count, folder)
        print(f"  {name}: {cost.of_1000:.3f} s of CPU for 1,000 rows", file=sys.stderr, flush=True)
    return costs


def bars_of(costs: Mapping[str, Cost]) -> list[Bar]:
    bars = [Bar("vectors that are missing or wrong", sum(cost.wrong for cost in costs.values()), most=0)]

    def beside(name: str, over: str, under: str, *, most: float | None = None, least: float | None = None) -> None:
        if over in costs and under in costs:
            bars.append(Bar(name, costs[over].of_1000 / costs[under].of_1000, most=most, least=least, unit=" x"))

    beside("CPU of a row, 4 actors to 1", "Ray: aembed, 4 actors", "Ray: aembed, 1 actor", most=1.25)
    beside("rows a CPU second, to Ray's HTTP stage", "Ray: HTTP stage", "Ray: aembed, 4 actors", least=5.0)
    beside("rows a CPU second, to Daft's embed_text", "Daft: embed_text", "Daft: aembed", least=5.0)
    return bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=131_072)
    parser.add_argument("--few", type=int, default=2_000)
    parser.add_argument("--only", nargs="+", choices=[*OURS], default=[*OURS])
    options = parser.parse_args()
    costs = asyncio.run(contest(options.only, options.rows, options.few))
    head = ("contestant", "rows", "CPU for 1,000 more", "of the whole job, 1,000", "seconds")
    lines = (
        (name, f"{2 * c.rows:,}", f"{c.of_1000:.3f} s", f"{500 * c.second / c.rows:.3f} s", f"{c.seconds:.0f} s")
        for name, c in costs.items()
    )
    print(table(head, lines), end="\n\n")
    return finish("engines", [], bars_of(costs), keep=False)


if __name__ == "__main__":
    sys.exit(main())
