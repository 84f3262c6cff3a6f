"""What the simulated service knows about its clients: the judge of every test. Pure, the time is an argument."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.service.windows import MINUTE

BYTES_PER_TOKEN = 4


def tokens_in(size_bytes: int) -> int:
    """OpenAI counts for its limits by UTF-8 bytes / 4, not by its tokenizer."""
    return -(-size_bytes // BYTES_PER_TOKEN)


class Event(NamedTuple):
    """One request. `label` is "accepted", or why it was refused."""

    at: float
    inputs: int
    tokens: int
    label: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """What arrived between `start` and `start + seconds`. `tokens` are those of the accepted requests."""

    start: float
    seconds: float
    accepted: int
    tokens: int
    refused: int


@dataclass(slots=True)
class Ledger:
    """Requests, bills and requests in flight.

    A request is in flight from its full receipt until its reply is written or its client is gone. Billed is what was
    accepted, and what a scripted fault says is billed. Lost is what was billed while its reply did not arrive whole
    and right: a fault spoilt it, or the client left. A text billed again counts in `texts_again` and `tokens_again`.
    """

    requests: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    billed_tokens: int = 0
    lost_tokens: int = 0
    abandoned: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    tokens_in_flight: int = 0
    max_tokens_in_flight: int = 0
    texts_again: int = 0
    bytes_again: int = 0
    times_billed: dict[bytes, int] = field(default_factory=dict, repr=False)
    tokens_by_project: Counter[str] = field(default_factory=Counter)
    events: list[Event] = field(default_factory=list, repr=False)

    def arrived(self, tokens: int) -> None:
        self.requests += 1
        self.in_flight += 1
        self.tokens_in_flight += tokens
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.max_tokens_in_flight = max(self.max_tokens_in_flight, self.tokens_in_flight)

    def left(self, tokens: int) -> None:
        self.in_flight -= 1
        self.tokens_in_flight -= tokens

    def decided(self, event: Event) -> None:
        self.events.append(event)
        if event.label == "accepted":
            self.accepted += 1
        else:
            self.refused[event.label] += 1

    def billed(self, inputs: Iterable[tuple[bytes, int]], tokens: int, project: str = "") -> None:
        """`inputs` are digests with their sizes in bytes."""
        self.billed_tokens += tokens
        self.tokens_by_project[project] += tokens
        for key, size_bytes in inputs:
            times = self.times_billed.get(key, 0)
            self.times_billed[key] = times + 1
            if times:
                self.texts_again += 1
                self.bytes_again += size_bytes

    @property
    def tokens_again(self) -> int:
        return tokens_in(self.bytes_again)

    @property
    def rate_limited(self) -> int:
        """How many requests came too early."""
        return sum(count for label, count in self.refused.items() if label == "429 rate_limit_exceeded")

    def stretches(self, seconds: float = MINUTE) -> list[Stretch]:
        """The requests in stretches of the clock, from the first to the last; an empty one is not left out."""
        groups: dict[int, list[Event]] = {}
        for event in self.events:
            groups.setdefault(math.floor(event.at / seconds), []).append(event)
        return [_stretch(n, seconds, groups.get(n, [])) for n in _span(groups)]

    def summary(self) -> dict[str, Any]:
        """As JSON, without the texts and the events."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        counted = {name: dict(getattr(self, name)) for name in ("refused", "faults", "tokens_by_project")}
        windows = [[s.start, s.accepted, s.tokens, s.refused] for s in self.stretches()]
        return plain | counted | {"texts": len(self.times_billed), "minutes": windows}

    def texts(self) -> dict[str, int]:
        """How often each text was billed, by its digest in hexadecimal."""
        return {key.hex(): times for key, times in self.times_billed.items()}


_PLAIN = (
    "requests",
    "accepted",
    "billed_tokens",
    "lost_tokens",
    "abandoned",
    "in_flight",
    "max_in_flight",
    "tokens_in_flight",
    "max_tokens_in_flight",
    "texts_again",
    "tokens_again",
    "rate_limited",
)


def _span(groups: dict[int, list[Event]]) -> Iterator[int]:
    if groups:
        yield from range(min(groups), max(groups) + 1)


def _stretch(number: int, seconds: float, events: list[Event]) -> Stretch:
    accepted = [event for event in events if event.label == "accepted"]
    tokens = sum(event.tokens for event in accepted)
    return Stretch(number * seconds, seconds, len(accepted), tokens, len(events) - len(accepted))
