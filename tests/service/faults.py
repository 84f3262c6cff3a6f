"""What can go wrong with one request, as data, and the scripts that say when.

A script is any callable from a Request to a Fault, or to None for a proper answer. `billed` says whether the
service bills the request all the same: a reply that was cut on its way is billed, a 500 is not. What is billed passes
the rate limits first; what is not billed comes before them.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, TypeAlias

Headers: TypeAlias = Sequence[tuple[str, str]]
Framing = Literal["length", "chunked", "close"]


@dataclass(frozen=True, slots=True)
class Request:
    """One request that the service understood. `number` counts requests from 0, `at` is the loop's clock."""

    number: int
    at: float
    model: str
    texts: Sequence[str]
    tokens: int
    headers: Mapping[str, str] = field(default_factory=dict)
    base64: bool = False
    """Whether the vectors are asked for as base64."""


@dataclass(frozen=True, slots=True)
class Status:
    """An answer with this status. A mapping is sent as JSON; None is OpenAI's own body for that status."""

    code: int
    body: Mapping[str, Any] | bytes | None = None
    headers: Headers = ()
    billed: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    """These bytes instead of a reply. With framing "close" there is no Content-Length, the connection ends it."""

    content: bytes
    code: int = 200
    content_type: str = "application/json"
    headers: Headers = ()
    framing: Framing = "length"
    billed: bool = True


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer, for as long as the client stays."""

    billed: bool = False


@dataclass(frozen=True, slots=True)
class Late:
    """A proper reply, `seconds` later than it would have been."""

    seconds: float
    billed: bool = True


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection ends after that many bytes of the reply (0: before it; None: after all of it), with a reset
    if `reset`."""

    after_bytes: int | None = 0
    reset: bool = False
    framing: Framing = "length"
    billed: bool = True


@dataclass(frozen=True, slots=True)
class Truncate:
    """A reply in proper HTTP whose body ends after `share` of its bytes."""

    share: float = 0.5
    billed: bool = True


@dataclass(frozen=True, slots=True)
class Drip:
    """A proper reply at this speed."""

    bytes_per_second: float
    billed: bool = True


@dataclass(frozen=True, slots=True)
class Flood:
    """A reply that goes on for `size_bytes` of JSON text, or of headers."""

    size_bytes: int = 1 << 30
    where: Literal["body", "headers"] = "body"
    framing: Framing = "length"
    billed: bool = True


@dataclass(frozen=True, slots=True)
class Mutate:
    """A reply that `change` edited: it gets the reply as JSON values and returns what to send, or the very bytes.

    `intact`: every vector is there all the same, and can be told apart.
    """

    change: Callable[[dict[str, Any]], Any]
    billed: bool = True
    intact: bool = False


Fault: TypeAlias = Status | Body | Hang | Late | Cut | Truncate | Drip | Flood | Mutate
Script: TypeAlias = Callable[[Request], Fault | None]


def gzip_bomb(size_bytes: int = 100_000_000, *, layers: int = 2) -> Body:
    """A small reply that says it is gzip, in layers, and unpacks to `size_bytes`."""
    content = b" " * size_bytes
    for _ in range(layers):
        content = gzip.compress(content, mtime=0)
    return Body(content, headers=[("content-encoding", ", ".join(["gzip"] * layers))])


def html(code: int = 502) -> Status:
    """What a proxy in front of the service answers."""
    page = b"<html><head><title>Bad Gateway</title></head><body><center><h1>Bad Gateway</h1></center></body></html>"
    return Status(code, page, [("content-type", "text/html")])


COMMON: tuple[Fault, ...] = (Status(500), Status(503), Hang(), Cut(after_bytes=200), Truncate())
"""Server errors, a hung call, a cut connection and a broken body, as the engine's bars mix them."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Each request fails with probability `rate`; which and how follows from the seed and the request's number,
    counted from `first`."""

    seed: int
    rate: float = 0.05
    kinds: Sequence[Fault] = COMMON
    first: int = 0

    def __call__(self, request: Request) -> Fault | None:
        random = Random(self.seed * 1_000_003 + request.number - self.first)
        return random.choice(self.kinds) if random.random() < self.rate else None


class Plan:
    """The next requests get these, in order; those after them get proper answers."""

    def __init__(self, *faults: Fault | None) -> None:
        self._left = list(reversed(faults))

    def __call__(self, request: Request) -> Fault | None:
        return self._left.pop() if self._left else None


@dataclass(frozen=True, slots=True)
class Always:
    """Every request gets it."""

    fault: Fault

    def __call__(self, request: Request) -> Fault | None:
        return self.fault


@dataclass(frozen=True, slots=True)
class Outage:
    """Every request between two moments of the loop's clock."""

    start: float
    end: float
    fault: Fault = Status(503)

    def __call__(self, request: Request) -> Fault | None:
        return self.fault if self.start <= request.at < self.end else None


@dataclass(frozen=True, slots=True)
class First:
    """The first of several scripts that has something to say."""

    scripts: Sequence[Script]

    def __call__(self, request: Request) -> Fault | None:
        return next((fault for script in self.scripts if (fault := script(request))), None)
