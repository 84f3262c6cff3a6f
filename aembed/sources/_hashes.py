"""The ids of a source as 8 bytes each, on disk beyond half a million: ten million take no more memory than those.

Two ids may have the same hash (among ten million once in 370,000 sources). Whoever asks has to bear that: an id that
seems to come twice is looked up in the source itself, and a row whose text is gone stays where its id has the hash of
one that is there. No row is ever taken for gone because of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aembed.sources._temporary import open_temporary

Hashes: TypeAlias = NDArray[np.uint64]

WIDTH = 8
"""Bytes of a hash."""
# Chosen: 4 MB; a part is held in memory several times. Smaller, there are more parts, for each of which all is read.
_PART = 500_000
# Chosen: temporary arrays of half a MB.
_BLOCK = 65_536
_NONE: Hashes = np.empty(0, np.uint64)


def hash_id(id: str) -> bytes:
    """The same in every process, as stores keep it."""
    return blake2b(id.encode("utf-8", "surrogatepass"), digest_size=WIDTH).digest()


def has_any(ids: bytes, hashes: Hashes) -> bool:
    """Whether any of the hashes is among those of `ids`."""
    return bool(np.isin(np.frombuffer(ids, "<u8"), hashes).any())


class IdHashes:
    """The hashes of ids in the order in which they came. `hash_id` is what a test makes narrow."""

    def __init__(self, hash_id: Callable[[str], bytes] = hash_id) -> None:
        self._hash_id = hash_id
        self._latest = bytearray()
        self._written = 0
        self._file: BinaryIO | None = None
        self._most = _PART * WIDTH

    def __len__(self) -> int:
        return (self._written + len(self._latest)) // WIDTH

    def add(self, id: str) -> None:
        self._latest += self._hash_id(id)
        if len(self._latest) >= self._most:
            self._spill()

    def hash_of(self, id: str) -> int:
        return int.from_bytes(self._hash_id(id), "little")

    def add_all(self, hashes: bytes) -> None:
        self._latest += hashes
        if len(self._latest) >= self._most:
            self._spill()

    def read(self, start: int, stop: int) -> bytes:
        """The hashes of those that came as number `start` up to `stop`."""
        begin, end = start * WIDTH, stop * WIDTH
        if begin >= self._written:
            return bytes(self._latest[begin - self._written : end - self._written])
        assert self._file
        self._file.seek(begin)
        found = self._file.read(min(end, self._written) - begin)
        return found + bytes(self._latest[: max(0, end - self._written)])

    def repeated(self) -> Hashes:
        """Those that came more than once."""
        found = [_NONE]
        for part in self._parts(self._part_count):
            part.sort()
            found.append(np.unique(part[1:][part[1:] == part[:-1]]))
        return np.concatenate(found)

    def has_each(self, ids: Sequence[str]) -> list[bool]:
        """Of each id whether it is here."""
        unknown = set(self.missing(self.like(ids)).tolist())
        return [self.hash_of(id) not in unknown for id in ids]

    def like(self, ids: Iterable[str] = ()) -> IdHashes:
        """Those of other ids, to be compared with these."""
        others = IdHashes(self._hash_id)
        for id in ids:
            others.add(id)
        return others

    def missing(self, others: IdHashes) -> Hashes:
        """The hashes of `others` that are not here."""
        count = max(self._part_count, others._part_count)
        found = [_NONE]
        for own, theirs in zip(self._parts(count), others._parts(count), strict=True):
            found.append(np.setdiff1d(theirs, own))
        return np.concatenate(found)

    @property
    def _part_count(self) -> int:
        return max(1, -(-len(self) // _PART))

    def _parts(self, count: int) -> Iterator[Hashes]:
        """All of them in `count` parts of about the same size, by their upper halves."""
        for number in range(count):
            found = [_NONE]
            for start in range(0, len(self), _BLOCK):
                block = np.frombuffer(self.read(start, min(start + _BLOCK, len(self))), "<u8")
                found.append(block[((block >> 32) * count) >> 32 == number] if count > 1 else block)
            yield np.concatenate(found)

    def _spill(self) -> None:
        try:
            self._file = self._file or open_temporary(self)
            self._file.seek(self._written)
            self._file.write(self._latest)
            self._file.flush()
        except OSError:
            self._most = 2 * len(self._latest)  # there is no room on the disk: the memory may have some
            return
        self._written += len(self._latest)
        self._latest.clear()
