"""Sorted runs of keys: where the row of a key is, without an index that costs a page of the file for each row.

An index over keys that are random puts each new one into another page, and each of these pages is written twice. Here
the new keys of one write are a run of their own, sorted; when there are some runs of a size, they are merged into one
of the next (a log-structured merge). So a key is written a few times in its life, among its neighbours.

An entry is a hint: 32 bits of the key's hash, and the number of a row that had that key. Whoever finds one looks at the
row. This module is arrays and nothing else; _run_table keeps them in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b, sha256
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Entries: TypeAlias = NDArray[np.uint64]
"""Hash << 32 | number of the row: ascending, each once."""
Hashes: TypeAlias = NDArray[np.uint64]
"""Of 32 bits each."""

# Chosen: longer ids are hashed by SHA-256 first, into as many characters. Larger, one long id among thousands would
# take more memory.
MOST_HASHED = 64
"""Characters."""
MOST_NUMBER = 2**32 - 2
"""The largest number of a row that has a place in an entry."""
NO_ROWS = np.empty(0, np.int64)
END = np.uint64(2**64 - 1)
"""Lies behind all entries."""
_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)
# Computed: 4,080 entries are 32,640 bytes, the largest row that a page of 32 KiB holds with its own few bytes.
CHUNK_ENTRIES = 4080


class IdHash:
    """Ids may be made up by somebody who would have thousands of them collide. So they are hashed with numbers that go
    by a store's own secret (multilinear hashing: any two ids collide once in 2^32 secrets)."""

    def __init__(self, secret: str) -> None:
        drawn = (blake2b(f"{secret} {number}".encode(), digest_size=8).digest() for number in range(MOST_HASHED + 1))
        self._factors = np.frombuffer(b"".join(drawn), "<u8").astype(np.uint64)

    def of(self, ids: Sequence[str]) -> Hashes:
        """Shape (n,), in the order of the ids."""
        if not ids:
            return np.empty(0, np.uint64)
        if max(map(len, ids)) > MOST_HASHED:
            ids = [
                id if len(id) <= MOST_HASHED else sha256(id.encode("utf-8", "surrogatepass")).hexdigest() for id in ids
            ]
        characters = np.array(ids, np.str_)
        width = characters.dtype.itemsize // 4
        matrix = characters.view(np.uint32).reshape(len(ids), width).astype(np.uint64)
        hashes: Hashes = (matrix @ self._factors[1 : width + 1] + self._factors[0]) >> _HALF
        return hashes


def hashes_of_fingerprints(fingerprints: Sequence[bytes]) -> Hashes:
    """They are hashes already, of which any part will do."""
    widths = set(map(len, fingerprints))
    if len(widths) != 1 or min(widths) < 4:
        fingerprints, widths = [each[:4].ljust(4, b"\0") for each in fingerprints], {4}
    matrix = np.frombuffer(b"".join(fingerprints), np.uint8).reshape(len(fingerprints), widths.pop())
    return np.ascontiguousarray(matrix[:, :4]).view("<u4").ravel().astype(np.uint64)


def entries_of(hashes: Hashes, numbers: Sequence[int]) -> Entries:
    """Rows whose number has no place in an entry have none."""
    rows = np.asarray(numbers, np.int64)
    fits = (rows >= 0) & (rows <= MOST_NUMBER)
    return merged([(hashes[fits] << _HALF) | rows[fits].astype(np.uint64)])


def merged(parts: Sequence[Entries]) -> Entries:
    # The stable sort of numpy merges what is sorted in parts: ten times as fast as its default one.
    entries = np.sort(np.concatenate(parts), kind="stable") if parts else np.empty(0, np.uint64)
    return entries[np.concatenate([[True], entries[1:] != entries[:-1]])] if len(entries) else entries


def chunked(entries: Entries) -> list[Entries]:
    return [entries[start : start + CHUNK_ENTRIES] for start in range(0, len(entries), CHUNK_ENTRIES)]


def packed(entries: Entries) -> bytes:
    return entries.astype("<u8", copy=False).tobytes()


def unpacked(data: bytes) -> Entries:
    return np.frombuffer(data, "<u8").astype(np.uint64, copy=False)


def matches(entries: Entries, hashes: Hashes, only_last: bool = False) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Positions among the hashes, and with each the number of a row that has that hash: of all such rows, or of the
    last one."""
    starts = entries.searchsorted(hashes << _HALF)
    # Mostly none is there: so the last entry of a hash is looked for where there is a first one alone. What would lie
    # behind all entries is compared with the first of them, which has a smaller hash.
    starts[starts == len(entries)] = 0
    there = ((entries[starts] >> _HALF) == hashes).nonzero()[0] if len(entries) else starts[:0]
    if not len(there):
        return there, NO_ROWS
    starts, ends = starts[there], entries.searchsorted((hashes[there] << _HALF) | _LOW, side="right")
    if only_last:
        starts = ends - 1
    counts = ends - starts
    positions = np.repeat(there, counts)
    # Of the hash at a position all entries follow one another.
    within = np.arange(len(positions)) - np.repeat(np.cumsum(counts) - counts, counts)
    return positions, (entries[np.repeat(starts, counts) + within] & _LOW).astype(np.int64)


def chunks_of(fences: Entries, hashes: Hashes) -> NDArray[np.intp]:
    """Which chunks of a run may hold these hashes. `fences` are the first entries of all chunks, and what lies behind
    the last."""
    first = np.searchsorted(fences, hashes << _HALF, side="right") - 1
    last = np.searchsorted(fences, (hashes << _HALF) | _LOW, side="right") - 1
    changes = np.zeros(len(fences) + 1, np.int64)
    np.add.at(changes, np.maximum(first, 0), 1)
    np.add.at(changes, last + 1, -1)
    return np.flatnonzero(np.cumsum(changes)[: len(fences) - 1])


# Odd numbers drawn by chance: they spread a hash over the words of a filter, twice, and over the bits of a word.
_SPREAD = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F], np.uint64)
_BITS_OF_WORD = 4

FilterBits: TypeAlias = tuple[NDArray[np.uint64], NDArray[np.uint64]]
"""Each of shape (n,)."""


class RunFilter:
    """Says of nearly all hashes that are not in a run that they are not. It is a Bloom filter of 64-bit words: a hash
    has four bits in each of two words."""

    def __init__(self, size: int, bits_per_entry: int) -> None:
        self._words = np.zeros(max(1, size * bits_per_entry // 64), np.uint64)

    @property
    def size_bytes(self) -> int:
        return self._words.nbytes

    def add(self, entries: Entries) -> None:
        hashes = entries >> _HALF
        for word, bits in enumerate(filter_bits(hashes)):
            np.bitwise_or.at(self._words, self._words_of(hashes, word), bits)

    def may_hold(self, hashes: Hashes, bits: FilterBits) -> NDArray[np.intp]:
        """The positions of those that may be in the run. `bits` are those of the hashes."""
        left = np.arange(len(hashes))
        for word in (0, 1):
            wanted = bits[word][left]
            left = left[(self._words[self._words_of(hashes[left], word)] & wanted) == wanted]
        return left

    def _words_of(self, hashes: Hashes, word: int) -> NDArray[np.intp]:
        spread = (hashes * _SPREAD[word]) >> _HALF
        words: NDArray[np.intp] = ((spread * np.uint64(len(self._words))) >> _HALF).astype(np.intp)
        return words


def filter_bits(hashes: Hashes) -> FilterBits:
    """Which bits hashes have in their words, whatever the filter."""
    first, second = np.zeros((2, len(hashes)), np.uint64)
    for bits, factor in ((first, _SPREAD[2]), (second, _SPREAD[3])):
        spread = hashes * factor
        for shift in range(32, 32 + 6 * _BITS_OF_WORD, 6):
            bits |= np.uint64(1) << ((spread >> np.uint64(shift)) & np.uint64(63))
    return first, second
