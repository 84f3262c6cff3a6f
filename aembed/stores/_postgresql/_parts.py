"""A write goes in parts where the server cannot take it whole: it takes too long, or a row of it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from aembed.errors import RowRefusedError, StoreError
from aembed.stores._postgresql._apart import Refused
from aembed.stores._postgresql._errors import SlowError
from aembed.stores._postgresql._hooks import Hook, HookedError, name_hooks

# Chosen: larger, one transaction would hold its locks for hundreds of savepoints; smaller, more rows would be sent
# again.
MOST_APART = 256
"""Rows that are told apart in one transaction: it stays short, and so does what others wait for."""


class Write(Protocol):
    async def __call__(self, part: Sequence[int], refused: Refused | None, *, slow_ends: bool) -> int:
        """Writes the rows at these positions in one transaction; returns how many the server took.

        Fills `refused`, unless it is None, with what it does not take, by positions in the part.
        """
        ...


class LockedError(StoreError):
    """Other transactions hold rows that were to be written: `positions` among those; nothing was written."""

    def __init__(self, positions: frozenset[int]) -> None:
        super().__init__(f"{len(positions):,} rows are held by other transactions")
        self.positions = positions


class DroppedError(StoreError):
    """The server took rows and kept them not: `positions` among those that were written."""

    def __init__(self, positions: frozenset[int], place: str, hooks: tuple[Hook, ...]) -> None:
        blamed = f"{name_hooks(hooks)} drops it or changes it" if hooks else "the server does not keep what it took"
        super().__init__(
            f"{place}: a row was written and is not there as it was written: {blamed}; let it keep vector and text"
        )
        self.positions = positions


async def write_by_halves(
    positions: Sequence[int], write: Write, *, tells_apart: bool = True
) -> tuple[int, Mapping[int, RowRefusedError]]:
    """How many rows were taken, and why others were not: such a row is found by halves, and fails alone.

    By halves within one transaction, where there are not many rows and `write` can tell them apart. A row that another
    transaction holds is waited for alone: what waits for it holds no other, so that no statement of the user's own can
    meet it in a deadlock, which the server may end by failing the user's.
    """
    parts: list[tuple[Sequence[int], bool]] = [(positions, False)]
    taken, refused = 0, dict[int, RowRefusedError]()
    while parts:
        part, is_apart = parts.pop()
        half, some = len(part) // 2, Refused()
        halves = [(part[half:], is_apart), (part[:half], is_apart)]
        try:
            taken += await write(part, some if is_apart else None, slow_ends=half > 0)
            refused |= {part[i]: error for i, error in some.items()}
        except HookedError:
            parts.append((part, is_apart))  # It is known now, and the next try looks at what became of the rows.
        except DroppedError as error:
            lost = [part[i] for i in sorted(error.positions)]
            refused |= {i: RowRefusedError(str(error)) for i in lost}
            parts += [(rest, is_apart)] if (rest := [i for i in part if i not in refused]) else []
        except LockedError as error:
            locked = sorted(error.positions)
            first, others = [part[locked[0]]], [part[i] for i in locked[1:]]
            free = [part[i] for i in range(len(part)) if i not in error.positions]
            parts += [(rest, is_apart) for rest in (others, first, free) if rest]
        except SlowError:
            if not half:
                raise
            parts += halves
        except RowRefusedError as error:
            if not half:
                if not part:
                    raise
                refused[part[0]] = error
            elif tells_apart and not is_apart and len(part) <= MOST_APART:
                parts.append((part, True))
            else:
                parts += halves
    return taken, refused
