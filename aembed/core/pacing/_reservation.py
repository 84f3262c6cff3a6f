"""These values travel between dispatch and pacer: a place in the budgets, and what follows from a refusal."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from aembed.core.pacing._budget import Charge
from aembed.core.pacing._in_flight import SentRequest

Unit = Literal["requests", "tokens", "texts"]


@dataclass(slots=True, eq=False)
class Reservation:
    """Leave to send `tokens` in one request at `start`, which may move while the request waits.

    `latest` is as far as queries may push it back; `sent` is set once it is on its way.
    """

    tokens: float
    texts: int
    interactive: bool
    start: float = 0.0
    latest: float = inf
    sent: SentRequest | None = None
    charges: dict[Unit, Charge] = field(default_factory=dict)

    @property
    def costs(self) -> dict[Unit, float]:
        """What the request takes of each limit."""
        return {"requests": 1.0, "tokens": self.tokens, "texts": float(self.texts)}


@dataclass(frozen=True, slots=True)
class Throttling:
    """What follows from a 429.

    `too_large` says that the batch is to be sent in parts; `closes` that nobody sends before the wait is over, instead
    of this request alone.
    """

    too_large: bool = False
    closes: bool = False
