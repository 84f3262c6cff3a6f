"""This module tests whether a pace is the right answer to refusals, by a sequential test of its requests. It is pure.

Each request at the pace adds evidence: for the pace if it is accepted, against it if it is refused. Wald's test says
how much: the log of how much likelier that is if the pace is right than if it changes nothing. The test never ends,
because limits change.
"""

from __future__ import annotations

from math import log

# Chosen: a pace that leaves more than a fourth of the refusals is hardly what refuses. Smaller, a right pace that is
# met by some chance would be taken back; larger, a wrong one would be kept.
FEWER = 0.25
"""A right pace leaves at most this part of the refusals that there were."""
# Computed: Wald's bounds for wrongly believing it in e^-5 (0.7 %)
# and wrongly taking it back in e^-3 (5 %) of all cases.
CONFIRMED, UNDONE = 5.0, -3.0
"""The evidence, in nats, at which a pace is believed and at which it is taken back."""
# Chosen: outside of these one acceptance would say nearly nothing, or nearly as much as a refusal.
LEAST_SHARE, MOST_SHARE = 0.05, 0.6
"""The share of refusals before there was a pace is taken to lie between these."""


class Trial:
    """The trial of a pace, before which `share` of the requests were refused; what is sent after `since` counts."""

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
    def is_believable(self) -> bool:
        """Whether the pace is still believed: a refusal now and then has not made it less believable."""
        return self._evidence >= CONFIRMED + self._refused

    @property
    def is_undone(self) -> bool:
        return self._evidence <= UNDONE
