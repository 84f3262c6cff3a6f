"""Standard input, which can be read once: kept in a file without a name, and read from there as often as wanted."""

from __future__ import annotations

import os
import sys
import tempfile
from io import BufferedReader, RawIOBase
from typing import Any, BinaryIO, cast

from aembed.errors import ConfigError
from aembed.sources._files import File

# Chosen: larger, a signal waits for more input; smaller, gigabytes take more calls.
_CHUNK_BYTES = 1 << 20


class SpooledInput(File, frozen=True, eq=False, gc=False, kw_only=True):
    """Its file is gone with the process, however that ends: nothing stays in the temporary folder."""

    held: BinaryIO

    def open(self) -> BinaryIO:
        return cast(BinaryIO, BufferedReader(_Part(self.held.fileno())))


class _Part(RawIOBase):
    """A reading with a place of its own: the descriptor has one place for all who use it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        os.lseek(self._descriptor, self._at, os.SEEK_SET)
        data = os.read(self._descriptor, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def spool_stdin(stdin: BinaryIO | None = None) -> SpooledInput:
    """Reads it up to its end. Raises ConfigError where it is closed, cannot be read, or there is no room for it."""
    stream = stdin or (sys.stdin.buffer if sys.stdin is not None else None)
    if stream is None:
        raise ConfigError("standard input is closed; pipe JSON Lines into it, or name a file in place of '-'")
    try:
        held = cast(BinaryIO, tempfile.TemporaryFile(prefix="aembed-"))  # noqa: SIM115 - the Source closes it
    except OSError as error:
        raise _no_room_error(error) from None
    try:
        while data := _read(stream):
            _write(data, held)
        held.flush()
    except BaseException:
        held.close()
        raise
    return SpooledInput("stdin", "stdin", None, ".jsonl", held=held)


def _read(stream: BinaryIO) -> bytes:
    try:
        return stream.read(_CHUNK_BYTES)
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is closed, or not open for reading"
        raise ConfigError(f"standard input cannot be read: {reason}; name a file in place of '-'") from None


def _write(data: bytes, held: BinaryIO) -> None:
    try:
        held.write(data)
        held.flush()
    except OSError as error:
        raise _no_room_error(error) from None


def _no_room_error(error: OSError) -> ConfigError:
    return ConfigError(
        f"standard input cannot be kept in the temporary folder: {error.strerror}; make room there, or name another "
        "with TMPDIR"
    )
