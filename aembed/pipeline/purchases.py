"""Which rows a run has bought, and of which texts: a row is paid for once, and twice where it was edited."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort

SHARD_BITS, TEXT_BITS = 12, 24
_ALL = (1 << 64) - 1
_TEXT = (1 << TEXT_BITS) - 1


class Purchases:
    """Eight bytes a row, however many rows a run fills: 40 bits tell the row, 24 bits its text.

    Two rows that look alike here are taken for one whose text was edited, which may be bought: nothing is lost by it.
    """

    def __init__(self) -> None:
        self._shards: dict[int, array[int]] = {}

    def note(self, id: str, text: str) -> None:
        """This row is bought, with this text."""
        row, mark = _marks(id, text)
        insort(self._shards.setdefault(row >> (64 - SHARD_BITS), array("Q")), row | mark)

    def forget(self, id: str, text: str) -> None:
        """It was not bought after all."""
        row, mark = _marks(id, text)
        shard = self._shards.get(row >> (64 - SHARD_BITS), ())
        if (place := bisect_left(shard, row | mark)) < len(shard) and shard[place] == row | mark:
            del self._shards[row >> (64 - SHARD_BITS)][place]

    def of(self, id: str, text: str) -> list[bool]:
        """An entry for each time that this row was bought: whether it had this text."""
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
    """What is wrong with an id or a text that is no str is told where all records are checked."""
    return hash(str(id)) & _ALL & ~_TEXT, hash(str(text)) & _TEXT
