"""What a terminal shows while a job is under way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from aembed.cli._progress import BAR_SECONDS, BAR_WIDTH, NARROW, call_every, caption, caption_room, count_done
from aembed.cli._show import duration_in_words
from aembed.results import Progress, count_in_words


@asynccontextmanager
async def spinner(count: Callable[[], int]) -> AsyncIterator[None]:
    status = Console(stderr=True).status("reading")
    with status:
        async with call_every(BAR_SECONDS, lambda: status.update(f"reading: {count_in_words(count(), 'text')}")):
            yield


@asynccontextmanager
async def bar(latest: Callable[[], Progress], total: int) -> AsyncIterator[None]:
    console = Console(stderr=True)
    with Bar(*columns(console.width), console=console, transient=True, redirect_stdout=False) as shown:
        task = shown.add_task(caption(Progress(), total, caption_room(console.width)), total=total)

        def tick() -> None:
            progress = latest()
            said = caption(progress, total, caption_room(console.width))
            shown.update(task, completed=count_done(progress), description=said)

        async with call_every(BAR_SECONDS, tick):
            yield


def columns(width: int) -> tuple[ProgressColumn, ...]:
    text = TextColumn("{task.description}", markup=False)
    return (_TimeLeft(), text) if width < NARROW else (BarColumn(bar_width=BAR_WIDTH), text, _TimeLeft())


class _TimeLeft(ProgressColumn):
    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("" if left is None or task.finished else f"{duration_in_words(left)} left")
