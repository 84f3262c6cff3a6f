"""This module remembers which rows a run has bought, and with which texts: a row is paid for twice only if edited."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field

# Chosen: 4,096 shards keep each insertion into a sorted array short (at 10 million
# rows 2,400 entries, 20 kB to move). 64 less 24 bits tell rows apart: of a million,
# two look alike with a chance of 0.4; that an edit is missed is 1 in 2^24.
SHARD_BITS, TEXT_BITS = 12, 24
"""Bits that choose a shard, and bits that stand for a text."""
_ALL = (1 << 64) - 1
_TEXT = (1 << TEXT_BITS) - 1


@dataclass(eq=False, repr=False)
class Purchases:
    """Eight bytes for each row, however many rows a run fills: 40 bits tell the row, 24 bits its text.

    Two rows that look alike here are taken for one whose text was edited, which may be bought: nothing is lost by it.
    """

    # Law 8: memory is bounded by the work in flight, not by the input. This is the exception, so it is kept this small.

    _shards: dict[int, array[int]] = field(default_factory=dict)

    def note(self, id: str, text: str) -> None:
        """Notes that this row is bought, with this text."""
        row, mark = _marks(id, text)
        insort(self._shards.setdefault(row >> (64 - SHARD_BITS), array("Q")), row | mark)

    def forget(self, id: str, text: str) -> None:
        """It was not bought after all."""
        row, mark = _marks(id, text)
        shard = self._shards.get(row >> (64 - SHARD_BITS), ())
        if (place := bisect_left(shard, row | mark)) < len(shard) and shard[place] == row | mark:
            del self._shards[row >> (64 - SHARD_BITS)][place]

    def forget_all(self, id: str) -> None:
        """Whatever was bought of this row."""
        row, _ = _marks(id, "")
        if shard := self._shards.get(row >> (64 - SHARD_BITS)):
            del shard[bisect_left(shard, row) : bisect_right(shard, row | _TEXT)]

    def purchases_of(self, id: str, text: str) -> list[bool]:
        """Says for each time that this row was bought whether it had this text then."""
        row, mark = _marks(id, text)
        shard = self._shards.get(row >> (64 - SHARD_BITS))
        if shard is None:
            return []
        place, same = bisect_left(shard, row), []
        while place < len(shard) and shard[place] & ~_TEXT == row:
            same.append(shard[place] & _TEXT == mark)
            place += 1
        return same


def _marks(id: str, text: str) -> tuple[int, int]:
    """The bits of a row and of its text. An id or a text that is no str is refused later, with all other records."""
    return hash(str(id)) & _ALL & ~_TEXT, hash(str(text)) & _TEXT
