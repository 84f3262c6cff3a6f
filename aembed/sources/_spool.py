"""What a plan has read of files, for the job that comes after it: so a file is parsed and cut once.

The records are kept in a file without a name, which is gone with the process. Tables are kept while they are small: to
parse a row again costs no more than to keep it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from aembed.sources._bounds import MAX_BYTES
from aembed.sources._files import File
from aembed.sources._temporary import open_temporary
from aembed.types import Record

# Chosen: a folder of tables may have many of this size, and one that is larger is mostly a single one. Larger, a disk
# of a small machine holds a copy of all that is read.
_MOST_TABLE_BYTES = 4_000_000
# Chosen: the text of 100,000 documents. Larger, temporary folders that lie in memory (tmpfs) would take much of it.
_MOST_BYTES = 500_000_000

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[tuple[int | None, str, str, dict[str, Any] | None]])


class Spool:
    """The records of files, by the file under the name that their ids were made of."""

    def __init__(self) -> None:
        self._places: dict[File, tuple[int, int, bytes]] = {}
        self._held: BinaryIO | None = None
        self._size_bytes = self._at = 0

    def get(self, file: File) -> tuple[bytes, Iterator[tuple[int | None, Record]]] | None:
        """The file's state and its records, where it is what it was when they were kept."""
        place = self._places.get(file)
        if place is None:
            return None
        offset, size_bytes, state = place
        try:
            if file.state_now() != state:
                return None
            assert self._held
            self._held.seek(offset)
            content = self._held.read(size_bytes)
            self._at = offset + size_bytes
        except OSError:
            return None
        rows = _DECODER.decode(content)
        return state, ((line, Record(id, text, metadata, file.root)) for line, id, text, metadata in rows)

    def keep(self, file: File, state: bytes, content: bytes) -> None:
        if self._size_bytes + len(content) > _MOST_BYTES:
            return
        try:
            self._held = self._held or open_temporary(self)
            if self._at != self._size_bytes:  # each step back and forth would be a write to the disk
                self._held.seek(self._size_bytes)
            self._at = -1
            self._held.write(content)
        except OSError:
            return  # no room: the job reads the file again
        self._places[file] = (self._size_bytes, len(content), state)
        self._size_bytes += len(content)
        self._at = self._size_bytes


class Draft:
    """The records of one file while it is read."""

    def __init__(self, spool: Spool, file: File) -> None:
        self._spool = spool
        self._file = file
        self._content: bytearray | None = bytearray()
        self._count = 0

    def add(self, line: int | None, record: Record) -> None:
        if self._content is None:
            return
        try:
            self._content += _ENCODER.encode((line, record.id, record.text, record.metadata))
        except (TypeError, ValueError, OverflowError, RecursionError):
            self.drop()  # what JSON has and msgpack has not: numbers of more than 64 bits, lone surrogates
            return
        self._count += 1
        if len(self._content) > (MAX_BYTES if line is None else _MOST_TABLE_BYTES):
            self.drop()

    def drop(self) -> None:
        self._content = None

    def finish(self, state: bytes) -> None:
        """`state` is the file's, before it was read and after."""
        if self._content is not None and state:
            # The beginning of an array of so many elements (msgpack's array 32).
            self._spool.keep(self._file, state, b"\xdd" + self._count.to_bytes(4, "big") + bytes(self._content))
