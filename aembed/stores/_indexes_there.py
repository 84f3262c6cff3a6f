"""Indexes that are over a column before it is filled: what they cost, and which of them may be dropped meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class IndexesThere:
    """`there` are the names of those that take in each row as it is written; `aside` of those that were dropped to be
    built again, and are not there yet. `fixed` says why those that are there cannot be dropped, "" where they can.
    `filled` rows have a vector; one more takes about `seconds_a_row`."""

    there: tuple[str, ...]
    aside: tuple[str, ...]
    fixed: str
    filled: int
    seconds_a_row: float


@runtime_checkable
class SetsIndexesAside(Protocol):
    """A column whose indexes of vectors can be dropped while it is filled, and are built again."""

    async def indexes_there(self) -> IndexesThere: ...

    async def set_indexes_aside(self) -> None:
        """Drops them, and keeps how they are made, in one transaction. Raises StoreError, with nothing dropped."""
        ...

    async def restore_indexes(
        self, *, memory: str | None = None, on_progress: Callable[[str, int, int], object] | None = None
    ) -> None:
        """Builds those that were set aside, by this run or an earlier one, beside running writes."""
        ...
