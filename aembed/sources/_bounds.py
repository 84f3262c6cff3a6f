"""What one document may cost: bytes, unpacked, and seconds of the processor."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from time import thread_time
from typing import BinaryIO, TypeVar

from aembed.errors import InputError

# Chosen: the whole of Shakespeare is 5 MB. Larger, a few documents at once would take gigabytes, as each is held
# several times while it is read; smaller, real tables have rows that would be left out.
MAX_BYTES = 32_000_000
"""Of a text that has to be held in memory as a whole: a document, or one row of a table."""

# Computed: two million of 300 bytes are 600 MB. A file of 32 MB that is nothing but line breaks would take sixteen
# times that.
MAX_PIECES = 2_000_000
"""Lines of a document, or its headings: each takes up to 300 bytes while it is read."""

MAX_SECONDS = 60.0
"""Of a document: a hundred times what the largest sane ones take."""

# Chosen: to read the clock costs about as much as a step; 1,024 steps are over in milliseconds.
_CHECKED_EVERY = 1_024
# Chosen: what is read past is not kept. Smaller, a line of gigabytes takes more calls.
_CHUNK = 1_000_000

T = TypeVar("T")


class WorkClock:
    """The seconds that the work on one document takes in this thread. Another thread's work is not counted."""

    def __init__(self) -> None:
        self._begun = thread_time()
        self._steps = 0

    def tick(self) -> None:
        """To be called for each small step. Raises InputError once the work has taken too long."""
        self._steps += 1
        if self._steps % _CHECKED_EVERY == 0:
            check_seconds(thread_time() - self._begun)


def limit_seconds(items: Iterator[T]) -> Iterator[T]:
    """The items of one document. Raises InputError once making them has taken too long; what is done with them, and
    the waiting in between, is not counted.
    """
    spent = 0.0
    while True:
        begun = thread_time()
        try:
            item = next(items)
        except StopIteration:
            return
        spent += thread_time() - begun
        check_seconds(spent)
        yield item


def check_seconds(spent: float) -> None:
    if spent > MAX_SECONDS:
        raise InputError(f"skipped: reading it takes more than {MAX_SECONDS:.0f} seconds; split it, or repair it")


def check_pieces(count: int, what: str) -> None:
    if count > MAX_PIECES:
        raise InputError(f"skipped: it has more than {MAX_PIECES:,} {what}; split it")


def read_whole(stream: BinaryIO, head: bytes = b"") -> bytes:
    """All of a document, of which `head` was read already. Raises InputError where it is larger than may be held."""
    content = head + stream.read(MAX_BYTES + 1 - len(head))
    if len(content) > MAX_BYTES:
        raise too_large_error()
    return content


def read_lines(stream: BinaryIO) -> Iterator[bytes | InputError]:
    """Each line, and in the place of one that is too large to be held in memory what is to be said of it."""
    while line := stream.readline(MAX_BYTES + 1):
        if len(line) <= MAX_BYTES:
            yield line
        else:
            clock = WorkClock()
            while line and not line.endswith(b"\n"):
                line = stream.readline(_CHUNK)
                clock.tick()
            yield too_large_error()


UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""What Windows begins a file with that it calls Unicode."""


def check_encoding(head: bytes) -> None:
    """Raises InputError for the beginning of a file of lines that is of another encoding as a whole."""
    if head.startswith(UTF_16):
        raise InputError("it is UTF-16, not UTF-8; convert the file")


def too_large_error() -> InputError:
    return InputError(f"skipped: it holds more than {MAX_BYTES // 1_000_000} MB; split it")
