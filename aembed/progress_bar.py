"""What shows how far a job is, for `on_progress`."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from typing import Any, Protocol, TextIO

from aembed.cli._progress import LINE_SECONDS, on_terminal, progress_line
from aembed.cli._show import terminal_columns
from aembed.cli._streams import printable_line, say
from aembed.results import Progress, Report


class ProgressBar:
    """A bar for one job after another: `await embedder.embed_documents(texts, on_progress=aembed.ProgressBar())`.

    On a terminal it is that of the command, on stderr (with the extra `cli`, which brings rich; else one line that
    rewrites itself). In a notebook it is such a line, elsewhere a line every five seconds. Its last line stays.
    """

    def __init__(self) -> None:
        self._view: _View | None = None
        self._ended: tuple[int, ...] = ()

    def __call__(self, progress: Progress) -> None:
        """Shows it. The last one of a job, or of a pass of a backfill, is a Report."""
        if not isinstance(progress, Report):
            if self._view is None:
                with_rich = on_terminal() and not _in_notebook() and find_spec("rich") is not None
                self._view = _Bar(progress.total) if with_rich else _Rewritten.here() or _Lines()
            self._view.show(progress)
            return
        view, self._view = self._view or _Rewritten.here() or _Lines(), None
        ended = (progress.inputs, progress.stored, progress.unchanged, progress.failed, progress.requests)
        # The pass of a backfill that finds nothing more tells the same again.
        view.end("" if ended == self._ended else printable_line(str(progress)))
        self._ended = ended


class _View(Protocol):
    def show(self, progress: Progress) -> None: ...
    def end(self, line: str) -> None: ...


def _in_notebook() -> bool:
    """Whether Jupyter's kernel reads what is printed."""
    return type(sys.stdout).__module__.startswith("ipykernel.")


def _line_of(progress: Progress) -> str:
    return progress_line(progress, progress.total) if progress.total else printable_line(str(progress))


class _Bar:
    def __init__(self, total: int | None) -> None:
        from aembed.cli._bars import JobBar

        self._bar: Any = JobBar(total, redirect_stdout=sys.stdout.isatty())

    def show(self, progress: Progress) -> None:
        self._bar.show(progress)

    def end(self, line: str) -> None:
        self._bar.close()
        if line:
            say(line)


class _Rewritten:
    """One line, where a carriage return begins it anew. On a terminal it is cut, since a line break ends that."""

    def __init__(self, stream: TextIO, room: int | None) -> None:
        self._stream, self._room, self._shown = stream, room, 0

    @classmethod
    def here(cls) -> _Rewritten | None:
        if _in_notebook():
            return cls(sys.stdout, None)
        return cls(sys.stderr, terminal_columns() - 1) if on_terminal() else None

    def show(self, progress: Progress) -> None:
        self._write(_line_of(progress)[: self._room])

    def end(self, line: str) -> None:
        if line:
            self._write(line)
        if line or self._shown:
            print(file=self._stream, flush=True)

    def _write(self, line: str) -> None:
        print(f"\r{line.ljust(self._shown)}", end="", file=self._stream, flush=True)
        self._shown = len(line)


class _Lines:
    def __init__(self) -> None:
        self._next = time.monotonic() + LINE_SECONDS

    def show(self, progress: Progress) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            say(_line_of(progress))

    def end(self, line: str) -> None:
        if line:
            say(line)
