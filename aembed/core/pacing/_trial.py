"""Whether a pace is the right answer to refusals: a sequential test of its requests, which goes on. Pure."""

from __future__ import annotations

from math import log

FEWER = 0.25
"""A right pace leaves at most this part of the refusals there were."""
CONFIRMED, UNDONE = 5.0, -3.0
"""The evidence, in nats, at which a pace is believed and at which it is taken back."""
LEAST_SHARE, MOST_SHARE = 0.05, 0.6


class Trial:
    """`share` of the requests were refused before there was a pace; `since`: what was sent from then on counts."""

    def __init__(self, share: float, since: float) -> None:
        self.since = since
        share = min(max(share, LEAST_SHARE), MOST_SHARE)
        self._accepted = log((1.0 - FEWER * share) / (1.0 - share))
        self._refused = log(FEWER)
        self._evidence = 0.0
        self.confirmed = False

    def count(self, refused: bool, start: float) -> None:
        if start >= self.since:
            self._evidence = min(self._evidence + (self._refused if refused else self._accepted), CONFIRMED)
            self.confirmed |= self._evidence >= CONFIRMED

    @property
    def holds(self) -> bool:
        """A refusal now and then has not made it less believable."""
        return self._evidence >= CONFIRMED + self._refused

    @property
    def undone(self) -> bool:
        return self._evidence <= UNDONE
