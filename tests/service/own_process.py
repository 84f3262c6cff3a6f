"""The simulated service in a process of its own, and what its ledger and a store's file say."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tests.service.vectors import vector_of
from tests.service.wire import Wire

ROOT = Path(__file__).parents[2]
MODEL = "openai:text-embedding-3-small"
KEY = "sk-simulated"


@dataclass(frozen=True, slots=True)
class Service:
    """`url` is what a client takes as its base URL."""

    url: str

    async def ledger(self) -> Mapping[str, Any]:
        return await self._asked("/ledger")

    async def texts(self) -> Mapping[str, int]:
        """How often each text was billed, by its digest."""
        return await self._asked("/ledger/texts")

    async def script(self, **changes: Any) -> None:
        """Changes it while it runs; tests/service/control.py has the fields."""
        async with Wire(self.url) as wire:
            reply = await wire.request("POST", "/script", msgspec.json.encode(changes))
        assert reply.status == 200, reply.body

    async def _asked(self, path: str) -> Any:
        async with Wire(self.url) as wire:
            return (await wire.request("GET", path)).json()


@asynccontextmanager
async def serving(*options: str) -> AsyncIterator[Service]:
    """`python -m tests.service.server` with these options, ended with the context."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.service.server", *options, cwd=ROOT, stdout=PIPE
    )
    assert process.stdout is not None
    try:
        yield Service((await process.stdout.readline()).decode().strip())
    finally:
        process.terminate()
        await process.wait()


def wrong_rows(path: Path, texts: Sequence[str]) -> list[str]:
    """What is wrong with the rows of a SQLite store, read by a connection of our own: id N holds texts[N]."""
    wrong, seen = [], 0
    with closing(sqlite3.connect(path)) as connection:
        for id, text, blob in connection.execute("SELECT id, text, embedding FROM aembed_rows"):
            seen += 1
            if text != texts[int(id)]:
                wrong.append(f"row {id} holds another text")
            elif not np.array_equal(np.frombuffer(blob, "<f4"), vector_of(text)):
                wrong.append(f"row {id} holds a vector of another text")
    return wrong + ([f"{seen:,} rows instead of {len(texts):,}"] if seen != len(texts) else [])


def judged(problems: Sequence[str]) -> int:
    """Prints them; the exit code."""
    for problem in problems[:20]:
        print(f"MISSED {problem}")
    print("every bar is met" if not problems else f"{len(problems)} problems")
    return 1 if problems else 0
