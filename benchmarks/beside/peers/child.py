"""One contestant in a process of its own, told in JSON lines what to do:

< {"opens": "openai_python:batched", "distribution": "openai", "loop": "asyncio", "texts": "texts.json", "job": {...}}
> {"version": "3.57.0"}                      ready: imported, opened, one text embedded
< {"watch": "cpu"}                           go
> {"cpu": 2.9, "wall": 1.4, ...}             the fields of Result
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from time import perf_counter, process_time
from typing import Any, TextIO

import numpy as np

from benchmarks.beside.peers.job import DIMENSIONS, ERRORS, Job, Rows
from tests.service.vectors import digest, vectors_of

_TICK = 0.001
_ROUNDING = 1e-6
_STATUS = Path("/proc/self/status")
_WARM_BYTES = 1_500_000_000
"""More than any contestant needs."""


@dataclass(frozen=True, slots=True)
class Result:
    """`cpu`: user and system seconds of the process during the work. `growth_mb`: the peak of its resident memory
    above that before the work, without the result as a float32 array. `stall`: the longest time in which the event
    loop answered nobody, None unless watched."""

    cpu: float
    wall: float
    growth_mb: float
    stall: float | None
    lost: int
    wrong: int
    errors: dict[str, int]


class Stall:
    longest = 0.0


@asynccontextmanager
async def watched(wanted: bool) -> AsyncIterator[Stall]:
    """Watching costs CPU time: those rounds are not for it."""
    stall = Stall()

    async def tick() -> None:
        before = perf_counter()
        while True:
            await asyncio.sleep(_TICK)
            now = perf_counter()
            stall.longest, before = max(stall.longest, now - before - _TICK), now

    task = asyncio.create_task(tick()) if wanted else None
    try:
        yield stall
    finally:
        if task:
            task.cancel()


def resident_mb(field: str) -> float:
    """VmRSS or VmHWM. Without /proc the process's peak since its start stands for both."""
    if not _STATUS.exists():
        return getrusage(RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def warm_memory() -> None:
    """Touches memory and lets go of it. A virtual machine's host takes back what has been free for some seconds, and
    giving it again costs 2 ms of CPU time a MB: who comes after whom would decide."""
    np.ones(_WARM_BYTES, np.uint8)


def forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


async def measured(embed: Callable[[Sequence[str]], Any], texts: Sequence[str], sent: Any, *, watch: str) -> Result:
    ERRORS.clear()
    gc.collect()
    warm_memory()
    forget_peak()
    before = resident_mb("VmRSS")
    async with watched(watch == "stall") as stall:
        cpu, began = process_time(), perf_counter()
        try:
            rows = await embed(texts)
        except Exception as error:
            ERRORS[type(error).__name__] += 1
            rows = [None] * len(texts)
        wall, cpu = perf_counter() - began, process_time() - cpu
    growth = resident_mb("VmHWM") - before - len(texts) * DIMENSIONS * 4 / 1e6
    lost, wrong = checked(rows, list(map(sent, texts)) if sent else texts)
    return Result(cpu, wall, growth, stall.longest if watch == "stall" else None, lost, wrong, dict(ERRORS))


def checked(rows: Rows, texts: Sequence[str]) -> tuple[int, int]:
    """How many vectors are missing, and how many are not those of their texts."""
    there = [index for index, row in enumerate(rows) if row is not None]
    wrong = abs(len(texts) - len(rows))
    for start in range(0, len(there), 1_000):
        part = there[start : start + 1_000]
        found = np.asarray([rows[index] for index in part], dtype=np.float32)
        right = vectors_of([digest(texts[index].encode()) for index in part], DIMENSIONS)
        wrong += int((np.abs(found - right).max(axis=1) > _ROUNDING).sum())
    return len(texts) - len(there), wrong


async def serve(start: Mapping[str, Any], texts: Sequence[str], told: TextIO) -> None:
    module, _, function = start["opens"].partition(":")
    adapter = import_module(f"benchmarks.beside.peers.{module}")
    embed = getattr(adapter, function)(Job(**start["job"]))
    await embed(["the first text"])
    named = start["distribution"]
    print(json.dumps({"version": metadata.version(named) if named else ""}), file=told, flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        result = await measured(embed, texts, getattr(adapter, "sent", None), watch=json.loads(line)["watch"])
        print(json.dumps(asdict(result)), file=told, flush=True)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


def main() -> None:
    # What libraries print goes to stderr; the protocol keeps the real stdout.
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    start = json.loads(sys.stdin.readline())
    with asyncio.Runner(loop_factory=loop_factory(start["loop"])) as runner:
        runner.run(serve(start, json.loads(Path(start["texts"]).read_text()), told))


if __name__ == "__main__":
    main()
