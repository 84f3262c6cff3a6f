"""What a terminal shows while a job is under way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

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
async def bar(latest: Callable[[], Progress], total: int | None) -> AsyncIterator[None]:
    with closing(JobBar(total)) as shown:
        async with call_every(BAR_SECONDS, lambda: shown.show(latest())):
            yield


class JobBar:
    """On stderr, until it is closed; then nothing is left of it. `redirect_stdout` keeps what is printed above it."""

    def __init__(self, total: int | None, *, redirect_stdout: bool = False) -> None:
        self._console, self._total = Console(stderr=True), total
        width = self._console.width
        self._bar = Bar(*columns(width), console=self._console, transient=True, redirect_stdout=redirect_stdout)
        self._task = self._bar.add_task(caption(Progress(), total, caption_room(width)), total=total)
        self._bar.start()

    def show(self, progress: Progress) -> None:
        said = caption(progress, self._total, caption_room(self._console.width))
        self._bar.update(self._task, completed=count_done(progress), description=said)

    def close(self) -> None:
        self._bar.stop()


def columns(width: int) -> tuple[ProgressColumn, ...]:
    text = TextColumn("{task.description}", markup=False)
    return (_TimeLeft(), text) if width < NARROW else (BarColumn(bar_width=BAR_WIDTH), text, _TimeLeft())


class _TimeLeft(ProgressColumn):
    def render(self, task: Task) -> Text:
        left = task.time_remaining
        return Text("" if left is None or task.finished else f"{duration_in_words(left)} left")
