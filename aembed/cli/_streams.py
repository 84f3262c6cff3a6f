"""The standard streams, which may be closed, full, or lead to somebody who has gone.

What is said on stderr never stops a job. A result that stdout does not take is an error of its own.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from io import BufferedWriter, FileIO, TextIOWrapper

from aembed.errors import ConfigError

# What a terminal would obey, or what would turn the line around.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Format characters (Unicode's Cf) that are not seen: direction marks, and those that hide or join what is shown. The
# joiners U+200C and U+200D stay, which shape the letters of many scripts, and so do marks that are seen.
_UNSEEN = re.compile(
    r"[\xad\u061c\u180e\u200b\u200e\u200f\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)


class ReaderGone(Exception):
    """Whoever reads stdout wants no more of it."""


def prepare_streams() -> None:
    """No file that is opened later gets the number of a stream that is closed; no message can fail."""
    closed = sys.stderr is None
    with suppress(OSError):
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(number)
    if closed or type(sys.stderr) is TextIOWrapper:
        sys.stderr = _Steady(
            BufferedWriter(FileIO(2, "wb", closefd=False)),
            encoding="utf-8" if closed else sys.stderr.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def printable_line(text: object) -> str:
    """One line that a terminal shows as it is."""
    return _CONTROL.sub(" ", _UNSEEN.sub("", str(text)))


def tell(*lines: str) -> None:
    """A result. Raises ReaderGone, and ConfigError where stdout is closed or takes nothing."""
    if sys.stdout is None:
        raise ConfigError("stdout is closed: there is nowhere to write the result")
    try:
        print("\n".join(map(printable_line, lines)), flush=True)
    except BrokenPipeError:
        _silence(1)
        raise ReaderGone from None
    except OSError as error:
        _silence(1)
        raise ConfigError(f"the result could not be written to stdout: {error.strerror}") from None


def say(line: str) -> None:
    """Progress, a warning, an error."""
    print(printable_line(line), file=sys.stderr, flush=True)


def flush_streams() -> None:
    """What is still held back is written, or given up: the interpreter would fail at its end."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            _silence(number)


class _Steady(TextIOWrapper):
    """A stderr that fails nobody: a terminal that hung up, a full disk, a pipe that nobody reads."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            _silence(2)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            _silence(2)


def _silence(number: int) -> None:
    """What the buffers still hold goes nowhere."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
