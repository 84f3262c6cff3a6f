"""Servers that are as they are: replies of a shape of their own, no base64, few texts at a time, late answers, texts of
which they die, accounts that are dry.

A script for each, and those by name that a running service may be told to be (`{"server": "16 inputs"}`): nothing of
what these refuse is on the bill.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, TypeAlias

import numpy as np
import pybase64

from tests.service.faults import Always, Fault, Late, Mutate, Request, Script, Status, html
from tests.service.mutations import wrong
from tests.service.refusals import Deadly, TooHeavy, error

Reply: TypeAlias = dict[str, Any]


def first_alone(reply: Reply) -> Reply:
    return reply | {"data": reply["data"][:1]}


def all_zero(reply: Reply) -> Reply:
    return reply | {"data": [item | {"index": 0} for item in reply["data"]]}


def average(reply: Reply) -> Reply:
    return reply | {"data": {"embedding": reply["data"][0]["embedding"]}}


def no_rows(reply: Reply) -> Reply:
    return reply | {"data": []}


def all_null(reply: Reply) -> Reply:
    return reply | {"data": [item | {"embedding": None} for item in reply["data"]]}


def float64(reply: Reply) -> Reply:
    """As base64 of some servers holds."""

    def wide(given: str) -> str:
        values = np.frombuffer(pybase64.b64decode(given), "<f4")
        return pybase64.b64encode(values.astype("<f8").tobytes()).decode()

    return reply | {"data": [item | {"embedding": wide(item["embedding"])} for item in reply["data"]]}


@dataclass(frozen=True, slots=True)
class OfBase64:
    """That fault for requests that ask for base64: all, or those whose number `every` divides."""

    fault: Fault
    every: int = 1

    def __call__(self, request: Request) -> Fault | None:
        return self.fault if request.base64 and request.number % self.every == 0 else None


@dataclass(frozen=True, slots=True)
class Behind:
    """A gateway: every so many requests wait so long for a place upstream, and are billed whoever is still there."""

    every: int
    seconds: float

    def __call__(self, request: Request) -> Fault | None:
        return Late(self.seconds) if request.number % self.every == self.every - 1 else None


@dataclass(slots=True)
class DryAfter:
    """After so many requests the account is dry, for so many seconds: every request meets the fault. Of one service."""

    requests: int
    fault: Fault
    seconds: float = inf
    _received: int = field(default=0, init=False)
    _since: float = field(default=inf, init=False)

    def __call__(self, request: Request) -> Fault | None:
        self._received += 1
        if self._received <= self.requests:
            return None
        self._since = min(self._since, request.at)
        return self.fault if request.at - self._since < self.seconds else None


def is_deadly(text: str) -> bool:
    return text.endswith("deadly")


ODD = ("index 0 left out", "index null everywhere", "index missing everywhere", "index as text", "usage missing")
NO_BASE64 = Status(500, error("encoding_format base64 is not supported"))
SERVERS: Mapping[str, Script] = {
    "5 inputs, 500": TooHeavy(Status(500, error("llama_decode returned -1")), max_inputs=5),
    "5 inputs, told": TooHeavy(Status(500, error("batch size 8 > maximum allowed batch size 5")), max_inputs=5),
    "no base64": OfBase64(NO_BASE64),
    **{name: Always(Mutate(wrong(name), intact=True)) for name in ODD},
    "deadly, 500": Deadly(is_deadly, Status(500)),
    "deadly, 503": Deadly(is_deadly, Status(503)),
    "deadly, filter": Deadly(is_deadly, Status(400, error("The response was filtered by the content policy."))),
    "deadly, page": Deadly(is_deadly, html(403)),
    "dry, quota": DryAfter(
        7, Status(429, error("You exceeded your current quota", "insufficient_quota", code="insufficient_quota"))
    ),
    "dry, credits": DryAfter(1, Status(402, error("Insufficient credits"))),
    "dry, budget": DryAfter(12, Status(400, error("Budget has been exceeded!", "budget_exceeded"))),
    "dry, balance": DryAfter(4, Status(403, error("Sorry, your account balance is insufficient"))),
    "away": DryAfter(5, Status(400, error("dial tcp 10.1.2.3:443: connect: connection refused")), seconds=2.0),
}
