"""This module counts how often requests are refused, and says whether that is worth the trial of a pace. It is pure.

A bucket that is emptied a little too fast looks like a number in flight that is sometimes taken.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

# Chosen: a pace that is learned from chance slows a job down for nothing, so it takes eight refusals that are not of
# one burst (six requests apart) and twice as many as the 2 % that pass for chance.
OFTEN, FREQUENT, APART = 8, 0.04, 6
"""So many refusals, of such a share of the requests, and so many requests apart, are worth the trial of a pace."""
# Chosen: a third of all requests is refused then, which chance does not do.
DENSE = 24
"""OFTEN refusals among so many requests, each sent when the one before was known, are worth it, too."""
# Chosen: a trial costs a slow minute or two, so the next one is late; where a fourth and more is refused, chance is not
# likely, and a sixth of that time is enough.
TRIALS_APART, UNLIKE_CHANCE, SOONER = 300, 0.25, 6
"""So many requests lie between a trial that failed and the next one, twice as many each time; SOONER times fewer where
a larger share than UNLIKE_CHANCE is refused."""


@dataclass(eq=False, repr=False)
class RefusalFrequency:
    """Counts requests, which have numbers in the order in which they are sent."""

    _requests: int = 0
    _refusals: int = 0
    _apart: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=OFTEN))
    """For each of the latest refusals: how many requests had been sent, and how many refused before."""
    _dense: deque[int] = field(default_factory=lambda: deque(maxlen=OFTEN))
    """The numbers of the latest refused that were sent after another refusal was known."""
    _sent: int = 0
    _next_trial: int = 0
    _trial_apart: int = TRIALS_APART

    @property
    def share(self) -> float:
        """The share of the requests since the first refusal that were refused."""
        return self._refusals / max(self._requests, 1)

    @property
    def recent_share(self) -> float:
        """The share of the latest requests that were refused; an overestimate, since a series of many was picked."""
        if self._is_dense:
            return OFTEN / (self._sent - self._dense[0] + 1)
        sent, refusals = self._apart[0] if self._apart else (0, 0)
        return (self._refusals - refusals) / max(self._sent - sent, 1)

    @property
    def is_high(self) -> bool:
        """Whether so many are refused that a pace is worth a trial."""
        if self._sent < self._next_trial:
            return False
        apart = self._apart
        return self._is_dense or (len(apart) == OFTEN and FREQUENT * (self._sent - apart[0][0]) <= OFTEN)

    @property
    def _is_dense(self) -> bool:
        return len(self._dense) == OFTEN and self._sent - self._dense[0] < DENSE

    def note_accepted(self) -> None:
        self._requests += 1

    def note_refused(self, number: int, sent: int, *, afresh: bool) -> None:
        """The request of that number was refused, when so many had been sent.

        `afresh` says that it was sent after another refusal was known.
        """
        self._sent = sent
        if not self._refusals:
            self._requests = 0
        if afresh:
            self._dense.append(number)
        if not self._apart or sent - self._apart[-1][0] >= APART:
            self._apart.append((sent, self._refusals))
        self._requests += 1
        self._refusals += 1

    def put_off(self, share: float) -> None:
        """A trial has failed, of a pace that was to better that share of refusals."""
        self._apart.clear()
        self._dense.clear()
        apart = self._trial_apart if share < UNLIKE_CHANCE else self._trial_apart // SOONER
        self._next_trial = self._sent + apart
        self._trial_apart *= 2

    def forget(self) -> None:
        self._apart.clear()
        self._dense.clear()
        self._requests = self._refusals = 0
