"""What a column of the user's own table must do (a Backlog), and what one may do besides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from aembed.protocols.stores import Leases, Moves
from aembed.types import Embedded, Match, Matrix, Metadata, Record, Refusal, Space, Vector


@runtime_checkable
class Backlog(Protocol):
    """A column of the user's own table that is to be filled. Ids are shown as JSON (`17`, `["a", 3]`)."""

    async def prepare(self, space: Space) -> Space:
        """Checks table, columns, types and permissions, before money is spent."""
        ...

    def pending(self, limit: int | None = None) -> AsyncIterator[Record]:
        """The rows with a text and no vector, in key order. No transaction stays open."""
        ...

    async def write(self, ids: Sequence[str], texts: Sequence[str], matrix: Matrix) -> int:
        """Fills rows whose text is still the one that was embedded; returns how many were.

        Where the table refuses single rows, all others are filled and RowsRefusedError is raised.
        """
        ...

    async def count(self) -> int:
        """How many rows are pending."""
        ...

    async def search(self, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        """The k nearest of the filled rows, best first; `where` is a filter of their columns, as that of a Store."""
        ...

    async def aclose(self) -> None:
        """Closes what it opened itself, and nothing that it was given."""
        ...


@runtime_checkable
class MovesColumn(Moves, Protocol):
    """The same of a Backlog, which has no `info` and no `rows`: what it holds is known by these two."""

    async def space(self) -> Space | None:
        """Which vectors it is for; None where that is not known yet."""
        ...

    async def sample(self, most: int) -> list[Embedded]:
        """Some of its filled rows, each with its text: of those that tell, none whose text was edited since."""
        ...


@runtime_checkable
class Shares(Leases, Protocol):
    """What a Backlog may do besides: be filled by several jobs at once, which lease its texts as those of a Store.

    Its leases tell nothing of rows that are filled already: those are asked for by `settled`.
    """

    async def settled(self, texts: Mapping[str, str]) -> Mapping[str, Vector | None]:
        """Those of these ids whose row is not pending with that text: its vector, or None where it has another text by
        now, or is gone."""
        ...


@runtime_checkable
class Reclaims(Protocol):
    """What a Backlog may do besides: give each row to one worker at a time, as long as that one shows signs of life."""

    @property
    def has_lapsed(self) -> bool:
        """Whether no such sign came in time, at least once: others may have taken, and filled, what was held here."""
        ...

    async def reclaim(self, ids: Sequence[str]) -> AbstractSet[str]:
        """Those of these rows that are still pending and that no other worker holds: they are held here again."""
        ...


@runtime_checkable
class Refusals(Protocol):
    """What a Backlog may do besides: keep texts that were refused, so that the next run skips them."""

    async def refused(self, fingerprints: Mapping[str, bytes]) -> Mapping[str, Refusal]:
        """Those of these ids that were refused earlier with this fingerprint, in one round trip."""
        ...

    async def refuse(self, refusals: Sequence[Refusal]) -> None:
        """Kept until the row is filled."""
        ...

    async def refusals(self) -> list[Refusal]:
        """All that are kept, by id."""
        ...


class Looks(Protocol):
    """What is seen of a Backlog that is watched. One look comes after another; each reads rows and ends."""

    delay: str
    """When a row that becomes pending is seen, in words."""

    async def wait(self, seconds: float) -> None:
        """Returns after so many seconds, or sooner where rows may be pending."""
        ...

    def pending(self, *, everything: bool) -> AsyncIterator[Record]:
        """The rows that are pending as far as this look sees, of which no other worker is at; `everything`: all."""
        ...

    async def note_seen(self, left: AbstractSet[str]) -> None:
        """The look has ended well. Its rows are filled, or were edited since, or, those of `left`, get no vector."""
        ...


@runtime_checkable
class Watched(Protocol):
    """What a Backlog may do besides: see rows that become pending without reading all of it (`watch`)."""

    def watch(self, *, poll: float, recheck: float) -> AbstractAsyncContextManager[Looks]:
        """Called after `prepare`. A look comes `poll` seconds after the last one at the latest, and one at everything
        every `recheck` seconds."""
        ...
