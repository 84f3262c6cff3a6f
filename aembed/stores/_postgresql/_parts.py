"""A write goes in parts where the server cannot take it whole: it takes too long, or a row of it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from aembed.errors import RowRefusedError, StoreError
from aembed.stores._postgresql._errors import SlowError
from aembed.stores._postgresql._hooks import Hook, HookedError, named


class Write(Protocol):
    async def __call__(self, part: Sequence[int], *, slow_ends: bool) -> int:
        """Writes the rows at these positions in one transaction; returns how many the server took."""
        ...


class DroppedError(StoreError):
    """The server took rows and kept them not: `positions` among those that were written."""

    def __init__(self, positions: frozenset[int], place: str, hooks: tuple[Hook, ...]) -> None:
        super().__init__(dropped(place, hooks))
        self.positions = positions


def dropped(place: str, hooks: tuple[Hook, ...]) -> str:
    blamed = f"{named(hooks)} drops it or changes it" if hooks else "the server does not keep what it took"
    return f"{place}: a row was written and is not there as it was written: {blamed}; let it keep vector and text"


async def written(positions: Sequence[int], write: Write) -> tuple[int, Mapping[int, RowRefusedError]]:
    """How many rows were taken, and why others were not: such a row is found by halves, and fails alone."""
    parts: list[Sequence[int]] = [positions]
    taken, refused = 0, dict[int, RowRefusedError]()
    while parts:
        part = parts.pop()
        half = len(part) // 2
        try:
            taken += await write(part, slow_ends=half > 0)
        except HookedError:
            parts.append(part)  # It is known now, and the next try looks at what became of the rows.
        except DroppedError as error:
            lost = [part[i] for i in sorted(error.positions)]
            refused |= {i: RowRefusedError(str(error)) for i in lost}
            parts += [rest] if (rest := [i for i in part if i not in refused]) else []
        except SlowError:
            if not half:
                raise
            parts += [part[half:], part[:half]]
        except RowRefusedError as error:
            if half:
                parts += [part[half:], part[:half]]
            elif part:
                refused[part[0]] = error
            else:
                raise
    return taken, refused
