"""How far a job is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import replace
from importlib import import_module
from typing import Any

from aembed.cli._show import dollars_in_words
from aembed.cli._streams import printable_line, say
from aembed.results import Progress, count_in_words

# Chosen: an hour leaves 720 lines in a log. Larger, whoever looks on would think that the job hangs.
LINE_SECONDS = 5.0
# The engine tells its progress five times a second at the most; a faster bar would show the same again.
BAR_SECONDS = 0.2
# Chosen: beside a bar of 24 columns, 72 leave room for the counts and the time left. Smaller terminals show those
# alone.
BAR_WIDTH, NARROW = 24, 72
"""Columns of the bar, and of a terminal that has no room for one."""


def show_reading(count: Callable[[], int], *, quiet: bool) -> AbstractAsyncContextManager[None]:
    """While the inputs are read for the first time, before anything is sent."""
    if quiet:
        return nullcontext()
    if on_terminal():
        shown: AbstractAsyncContextManager[None] = _bars().spinner(count)
        return shown
    return call_every(LINE_SECONDS, lambda: say(f"reading: {count_in_words(count(), 'text')}"))


def show_embedding(
    latest: Callable[[], Progress], total: int | None, *, quiet: bool
) -> AbstractAsyncContextManager[None]:
    """While the job is under way. Of one that goes on (None) a line is told where something has happened since."""
    if quiet:
        return nullcontext()
    if on_terminal():
        shown: AbstractAsyncContextManager[None] = _bars().bar(latest, total)
        return shown
    if total is None:
        return call_every(LINE_SECONDS, _News(latest).tell)
    return call_every(LINE_SECONDS, lambda: say(progress_line(latest(), total)))


class _News:
    """Lines of a job that goes on: one where its counts, or what it waits for, have changed."""

    def __init__(self, latest: Callable[[], Progress]) -> None:
        self._latest = latest
        self._told: Progress | None = None

    def tell(self) -> None:
        now = self._latest()
        # The seconds change all the time.
        if self._told is None or replace(now, seconds=self._told.seconds) != self._told:
            self._told = now
            say(str(now))


@contextmanager
def show_building(*, quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """While an index is built: a line for each phase, and one every few seconds."""
    told, phase_told = float("-inf"), ""

    def tell(phase: str, done: int, total: int) -> None:
        nonlocal told, phase_told
        if phase != phase_told or time.monotonic() - told >= LINE_SECONDS:
            told, phase_told = time.monotonic(), phase
            say(f"index: {phase}, {100 * min(done, total) // total} %" if total else f"index: {phase}")

    yield None if quiet else tell


def on_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _bars() -> Any:
    """Imported for a terminal alone: it takes a tenth of a run that finds nothing to do."""
    return import_module("aembed.cli._bars")


def progress_line(progress: Progress, total: int) -> str:
    return printable_line(f"{100 * count_done(progress) // max(1, total)} %: {progress}")


def count_done(progress: Progress) -> int:
    return progress.stored + progress.unchanged + progress.failed


@asynccontextmanager
async def call_every(seconds: float, tick: Callable[[], None]) -> AsyncIterator[None]:
    async def ticks() -> None:
        while True:
            await asyncio.sleep(seconds)
            tick()

    task = asyncio.create_task(ticks())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def caption_room(width: int) -> int:
    """What is left beside the bar and the time left, which is cut where more is shown."""
    return max(20, width - (0 if width < NARROW else BAR_WIDTH + 1) - len("59 min 59 s left") - 2)


def caption(progress: Progress, total: int | None, room: int) -> str:
    """As much as there is room for, what matters most first; the second line says what is waited for."""
    of_all = "" if total is None else f"/{total:,}"
    speed = progress.stored / progress.seconds if progress.seconds else 0.0
    parts = [f"{count_done(progress):,}{of_all} texts", f"{speed:,.0f}/s"]
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    if progress.cost_usd:
        parts.append(dollars_in_words(progress.cost_usd))
    if progress.billed_tokens:
        parts.append(count_in_words(progress.billed_tokens, "token"))
    shown = parts[0]
    for part in parts[1:]:
        if len(shown) + 2 + len(part) <= room:
            shown = f"{shown}  {part}"
    return "\n".join([shown, _cut(printable_line(progress.waiting), room)]).rstrip()


def _cut(waiting: str, room: int) -> str:
    """When it goes on stands at the end, and stays."""
    what, _, when = waiting.rpartition(", ")
    if len(waiting) <= room or len(when) + 3 >= room:
        return waiting[:room]
    return f"{what[: room - len(when) - 3]}…, {when}"
