"""What an Embedder tells of its work: `Embedder(..., on_event=function)` calls the function with these values::

    JobBegan ----------------------------------------------------------------------------------------> JobEnded
       RequestStarted --+-- its reply came -------------------------------------> RequestAnswered
          ^             +-- nothing more is tried ------------------------------> RequestFailed
          |             +-- a try got nowhere: [RequestRefused, for a limit] ---> RequestRetried --+
          +----------------------------------------------------------------------------------------+
       OutageBegan -> OutageEnded          BatchSubmitted -> (hours later, in whatever job) BatchCollected

Each request that was started ends in exactly one RequestAnswered or RequestFailed. None of them holds a text, a vector,
a key, an id of a row, or anything of a URL but its host and port.

All have `provider`, `model`, `address` and `port`: where it went. The address is a host name, empty (and the port None)
for a model in this process, and for several addresses at once. Times are seconds, money is US dollars. Errors are names
of classes, as `RateLimitError`; `status` is that of HTTP, None where there was no reply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from aembed.results import Progress
from aembed.types import InputType

__all__ = [
    "BatchCollected",
    "BatchSubmitted",
    "Event",
    "JobBegan",
    "JobEnded",
    "OnEvent",
    "OutageBegan",
    "OutageEnded",
    "RequestAnswered",
    "RequestFailed",
    "RequestRefused",
    "RequestRetried",
    "RequestStarted",
]


@dataclass(frozen=True, slots=True)
class _AtProvider:
    provider: str
    model: str
    address: str
    port: int | None


@dataclass(frozen=True, slots=True)
class _OfRequest(_AtProvider):
    """`request` is its number in this process, `try_number` counts from 1. `tokens` are estimated."""

    request: int
    try_number: int
    input_type: InputType
    texts: int
    tokens: int


@dataclass(frozen=True, slots=True)
class RequestStarted(_OfRequest):
    """A try of a request goes out, after it has `waited` for its turn: for a slot, for limits, for an outage to end.

    A request of queries has waited as long as the oldest of them.
    """

    waited: float


@dataclass(frozen=True, slots=True)
class RequestAnswered(_OfRequest):
    """The vectors have come. `seconds` are those of the last try, `total_seconds` since the first one was sent.

    `billed_tokens` are estimated where the reply does not say. `cost_usd` is None without a known price.
    """

    seconds: float
    total_seconds: float
    billed_tokens: int
    cost_usd: float | None
    dimensions: int
    response_model: str
    """As the reply names it; empty where it does not."""


@dataclass(frozen=True, slots=True)
class RequestRefused(_OfRequest):
    """A limit of the provider's has refused a try (429). `retry_after` is what it asks to wait, None: it did not say.

    What becomes of the request is told after it.
    """

    seconds: float
    error: str
    status: int | None
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class RequestRetried(_OfRequest):
    """A try has failed, and the request is sent again after about `pause`, or sooner where others are answered."""

    seconds: float
    error: str
    status: int | None
    pause: float


@dataclass(frozen=True, slots=True)
class RequestFailed(_OfRequest):
    """It has failed, and is not sent again as it is: its texts may go in parts, fail, or stop the job.

    `error` is CancelledError where the end came before its answer.
    """

    total_seconds: float
    error: str
    status: int | None


@dataclass(frozen=True, slots=True)
class OutageBegan(_AtProvider):
    """The provider does not answer any more, or an address of several refuses everything: work waits, or goes on at
    the others. The next request goes there in `pause`."""

    error: str
    status: int | None
    pause: float


@dataclass(frozen=True, slots=True)
class OutageEnded(_AtProvider):
    """There was an answer again, after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class BatchSubmitted(_AtProvider):
    """A batch is out at the provider, which knows it as `batch`. `tokens` are estimated.

    One whose creation was not certain is only told of once it is collected.
    """

    batch: str
    texts: int
    tokens: int


@dataclass(frozen=True, slots=True)
class BatchCollected(_AtProvider):
    """All that there is of a batch is kept. `status` is the provider's (completed, failed, expired, cancelled), or
    `gone`. `seconds` have passed since it was created there."""

    batch: str
    status: str
    texts: int
    billed_tokens: int
    cost_usd: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class JobBegan(_AtProvider):
    """A call of a verb of many texts. `job` is its number in this process. A backfill that watches is none: it has no
    end."""

    job: int
    verb: str


@dataclass(frozen=True, slots=True)
class JobEnded(_AtProvider):
    """`counts` are those of its report, without words; `error` is what stopped it, empty where it ended well."""

    job: int
    verb: str
    counts: Progress
    error: str


Event: TypeAlias = (
    RequestStarted
    | RequestAnswered
    | RequestRefused
    | RequestRetried
    | RequestFailed
    | OutageBegan
    | OutageEnded
    | BatchSubmitted
    | BatchCollected
    | JobBegan
    | JobEnded
)
OnEvent: TypeAlias = Callable[[Event], object]
"""A plain function, called in the event loop: while it runs all else waits. What it raises is logged once."""
