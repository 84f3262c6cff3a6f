"""Running a command to its exit code: event loop, signals, errors, questions."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import Collection, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import typer

from aembed.cli._streams import flush_streams, printable_line, say
from aembed.errors import (
    AembedError,
    AuthenticationError,
    ConfigError,
    InputError,
    NotFoundError,
    PermissionDeniedError,
    SpaceMismatchError,
    StoreError,
)

# 2 is what click and most programs end with for wrong usage. 128 is what shells add to the number of a signal.
OK, SOME_FAILED, USAGE, STOPPED, ROWS_ARE_OUT, SIGNALLED = 0, 1, 2, 3, 4, 128
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
# Rich hides the cursor while a bar is shown, and has no time to show it again where the process ends at once.
_SHOW_CURSOR = b"\x1b[?25h"
_VAIN = (
    ConfigError,
    InputError,
    AuthenticationError,
    PermissionDeniedError,
    NotFoundError,
    SpaceMismatchError,
)


class Interrupted(Exception):
    """A signal came while nothing was under way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(command: Coroutine[Any, Any, int], *, drained: Collection[int] = ()) -> NoReturn:
    """Runs a command and ends with the exit code that it returns, or that its error means. `drained` are the signals by
    which a command that goes on comes to its end: 0."""
    try:
        code = asyncio.run(_run_stoppable(command, drained))
    except Interrupted as interrupted:
        say("")
        code = SIGNALLED + interrupted.number
    except AembedError as error:
        say(f"error: {reason_in_words(error)}")
        code = exit_code(error)
    raise typer.Exit(code)


def exit_code(error: AembedError) -> int:
    """2 where another try of the same is vain and nothing was spent, else 3."""
    spent = error.report is not None and bool(error.report.stored or error.report.billed_tokens)
    if isinstance(error, _VAIN) and not spent:
        return USAGE
    return USAGE if isinstance(error, StoreError) and error.report is None else STOPPED


def reason_in_words(error: AembedError) -> str:
    """What went wrong, for a person. A foreign error under it is not quoted: it may hold a text."""
    cause = error.__cause__
    return printable_line(f"{error}: {cause}" if isinstance(cause, AembedError) else error)


def is_interactive() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str) -> bool:
    """Raises Interrupted on a signal; the end of the input is a no."""
    with interrupt_at_once():
        print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
        _wait_for_input()
        answer = sys.stdin.readline()
    return answer.strip().lower() in ("y", "yes")


def _wait_for_input() -> None:
    """A signal ends it. A read is not ended by one that comes just before it blocks, or to another thread."""
    if sys.platform == "win32":
        return  # no select of files there
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    before = signal.set_wakeup_fd(wakes)
    try:
        select.select([sys.stdin, woken], [], [])
    finally:
        signal.set_wakeup_fd(before)
        os.close(woken)
        os.close(wakes)


@contextmanager
def interrupt_at_once() -> Iterator[None]:
    """A signal ends at once what blocks the event loop: nothing is under way."""
    handlers = {number: signal.signal(number, _interrupt) for number in _heeded_signals()}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _heeded_signals() -> list[signal.Signals]:
    """Those that whoever started the command did not have it ignore, as nohup and a shell's & do."""
    return [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def _interrupt(number: int, _: object) -> NoReturn:
    raise Interrupted(number)


async def _run_stoppable(command: Coroutine[Any, Any, int], drained: Collection[int]) -> int:
    task = asyncio.ensure_future(command)
    with _Signals(task) as signals:
        await asyncio.wait([task])
    if task.cancelled() and signals.received:
        return OK if signals.received in drained else SIGNALLED + signals.received
    return task.result()


class _Signals:
    """The first signal cancels the command, which waits for what it has sent; the second ends the process."""

    def __init__(self, task: asyncio.Task[int]) -> None:
        self._task = task
        self._loop = asyncio.get_running_loop()
        self.received: int | None = None
        self._heard = _heeded_signals()

    def __enter__(self) -> _Signals:
        for number in self._heard:
            try:
                self._loop.add_signal_handler(number, self._receive, number)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda n, _: self._loop.call_soon_threadsafe(self._receive, n))
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._heard:
            try:
                self._loop.remove_signal_handler(number)
            except NotImplementedError:
                signal.signal(number, signal.SIG_DFL)

    def _receive(self, number: int) -> None:
        if self.received is not None:
            with suppress(OSError, ValueError):
                if os.isatty(2):
                    os.write(2, _SHOW_CURSOR)
            flush_streams()
            # sys.exit would wait for threads, one of which may be what hangs.
            os._exit(SIGNALLED + number)
        self.received = number
        self._task.cancel()
