"""Runs contestants in turn, round by round, each in a process of its own that stays for all its rounds."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.beside.peers import VENVS, Contestant
from benchmarks.beside.peers.child import Result
from benchmarks.beside.peers.environment import failed, python
from benchmarks.beside.peers.job import Job
from tests.service.own_process import ROOT

Watch = Literal["cpu", "stall"]


@dataclass(slots=True)
class Entry:
    """One contestant with its results so far. `absent` says why it does not take part."""

    contestant: Contestant
    version: str = ""
    absent: str = ""
    results: list[Result] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.contestant.name} {self.version}".strip()


class Runner:
    """A child that is ready."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def told(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Raises EOFError if the child ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise EOFError("it ended without an answer")
        return json.loads(line)

    async def go(self, watch: Watch = "cpu") -> Result:
        return Result(**await self.told({"watch": watch}))


@asynccontextmanager
async def running(
    contestant: Contestant, job: Job, texts: Path, environment: Mapping[str, str] = {}
) -> AsyncIterator[tuple[Runner, str]]:
    """The child and the peer's version. Raises LookupError where its package could not be installed."""
    interpreter = sys.executable
    if contestant.distribution:
        interpreter = str(await asyncio.to_thread(python, contestant.venv, VENVS[contestant.venv]))
        if problem := failed(contestant.venv).get(contestant.distribution):
            raise LookupError(problem)
    process = await asyncio.create_subprocess_exec(
        interpreter,
        *("-m", "benchmarks.beside.peers.child"),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=PIPE,
        stdout=PIPE,
        stderr=None if "AEMBED_BENCH_STDERR" in os.environ else DEVNULL,
    )
    runner = Runner(process)
    start = {"opens": contestant.opens, "distribution": contestant.distribution, "loop": contestant.loop}
    try:
        ready = await runner.told(start | {"texts": str(texts), "job": asdict(job)})
        yield runner, ready["version"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def contest(
    contestants: Sequence[Contestant],
    job_of: Callable[[Contestant], Job],
    texts: Sequence[str],
    rounds: Sequence[Watch],
    *,
    environment: Mapping[str, str] = {},
    between: Callable[[Contestant, int], Any] | None = None,
) -> list[Entry]:
    """All of them, one at a time, in another order each round. `between` is awaited before each run."""
    entries = [Entry(contestant) for contestant in contestants]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.json"
        path.write_text(json.dumps(list(texts)))
        async with AsyncExitStack() as stack:
            runners = {}
            for entry in entries:
                opening = running(entry.contestant, job_of(entry.contestant), path, environment)
                try:
                    runners[entry.contestant], entry.version = await stack.enter_async_context(opening)
                except (LookupError, EOFError) as error:
                    entry.absent = str(error)
            for number, watch in enumerate(rounds):
                here = [entry for entry in entries if not entry.absent]
                first = number % max(1, len(here))
                for entry in here[first:] + here[:first]:
                    if between:
                        await between(entry.contestant, number)
                    await _one(entry, runners[entry.contestant], watch)
    return entries


async def _one(entry: Entry, runner: Runner, watch: Watch) -> None:
    try:
        result = await runner.go(watch)
    except EOFError as error:
        entry.absent = str(error)
        return
    entry.results.append(result)
    stall = "" if result.stall is None else f"  stall {result.stall * 1000:.0f} ms"
    print(
        f"  {entry.name:32} {result.cpu:6.2f} s CPU {result.wall:6.2f} s{stall}  {result.growth_mb:6.0f} MB  "
        f"{result.lost} lost {result.wrong} wrong {result.errors or ''}",
        file=sys.stderr,
        flush=True,
    )
