"""Workers of a store, as the object that they write through knows them: which of them was silent for too long.

A worker that was frozen past its end may come back with vectors of texts that others have replaced since. From then on
it replaces no row that was written after its last sign of life.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aembed.errors import StoreError


@dataclass(slots=True)
class Life:
    """Times are seconds since 1970 by the clock of the database."""

    seen_at: float
    ends_at: float
    lapsed_at: float | None = None
    """The last sign of life before the worker was silent for too long, for the first time."""

    def lapse(self) -> float:
        """It was silent for too long. A sign of life that came since does not change when that began."""
        if self.lapsed_at is None:
            self.lapsed_at = self.seen_at
        return self.lapsed_at


@dataclass(eq=False, repr=False)
class Lives:
    _lives: dict[int, Life] = field(default_factory=dict)

    def note_seen(self, token: int, now: float, seconds: float) -> None:
        """A sign of life: the worker lives so many seconds from now on."""
        life = self._lives.setdefault(token, Life(now, now + seconds))
        # The silence is looked for before the new sign of life moves the end: afterwards nobody could tell that there
        # was one.
        self.lapsed_at(token, now)
        life.seen_at, life.ends_at = now, now + seconds

    def forget(self, token: int) -> None:
        self._lives.pop(token, None)

    def life_of(self, token: int | None) -> Life | None:
        return None if token is None else self._lives.get(token)

    def lapsed_at(self, token: int | None, now: float) -> float | None:
        """None for a worker that was never silent for too long, and for one that is not known here."""
        life = self.life_of(token)
        if life is None:
            return None
        if life.lapsed_at is None and now > life.ends_at:
            return life.lapse()
        return life.lapsed_at


def superseded_error(id: str) -> StoreError:
    """Why a row is not written that others have written since."""
    return StoreError(
        f"{id!r} was written by another job while this one stood still for longer than its leases hold; what that one "
        "wrote stays: run this again"
    )
