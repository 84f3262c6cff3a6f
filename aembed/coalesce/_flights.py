"""This module holds what is on its way, and says what calls are told whose vector does not arrive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from aembed.core.changes import Item
from aembed.dispatch import Notice, SpendLimit, Submission
from aembed.errors import AembedError, OutageError, UnavailableError
from aembed.types import Hints, Vector

logger = logging.getLogger("aembed")

Waiter: TypeAlias = "asyncio.Future[Vector]"

# Chosen: an outage has lasted for max_outage when this is told, so a second is short; at 0 callers would ask in a loop.
SOON = 1.0
"""A call may be asked again after so many seconds, where nothing says more."""


class QuerySpendLimit(SpendLimit, Protocol):
    """What queries may spend, and when that changes."""

    changed: Notice
    """A request was noted, refused or has landed."""

    @property
    def tokens_left(self) -> float: ...
    def exceeded_error(self, tokens: int) -> AembedError: ...


@dataclass(slots=True, eq=False)
class Flight:
    """One text on its way, and the calls that wait for its vector, each with its deadline."""

    fingerprint: bytes
    since: float
    item: Item = field(init=False)
    """What is sent of it, once it was measured."""
    context: Context | None = None
    """That of the call that it began with, where somebody is told of its request."""
    batch: QueryBatch | None = None
    waiters: dict[Waiter, float] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class QueryBatch:
    """What goes in one request, or in its parts where it is refused.

    `flights` are those without an answer yet, by fingerprint; `wanted` is how many of them have calls that wait.
    """

    submission: Submission
    items: Sequence[Item]
    flights: dict[bytes, Flight]
    wanted: int

    def want(self, more: int) -> None:
        """So many more flights have calls that wait. A load that nobody waits for is let go of."""
        # Law 1: only what was not sent yet is let go of; what is on its way lands, and goes into the cache.
        self.wanted += more
        if not self.wanted:
            self.submission.drop()


def reason_of(task: asyncio.Task[None]) -> BaseException:
    return asyncio.CancelledError() if task.cancelled() else task.exception() or asyncio.CancelledError()


def error_for_calls(reason: BaseException, *, closed: bool, held_back_for: float) -> AembedError:
    """The error that calls are told when their task has ended so. After an outage a query may be asked again."""
    match reason:
        case OutageError():
            return unavailable_error(str(reason), max(held_back_for, SOON))
        case AembedError():
            return reason
        case asyncio.CancelledError():
            why = "the Embedder was closed" if closed else "the request was cancelled"
            return UnavailableError(f"{why} before there was an answer")
        case _:
            logger.error("a request of queries ended in an unexpected error", exc_info=reason)
            error = AembedError(f"unexpected {type(reason).__name__}")
            error.__cause__ = reason
            return error


def unavailable_error(message: str, closed: float) -> UnavailableError:
    return UnavailableError(message, hints=Hints(retry_after=closed) if closed > 0 else None)


def held_back_error(seconds: float) -> UnavailableError:
    return unavailable_error(
        f"no vector in time: the provider fails, the next request goes in {seconds:.1f} s", seconds
    )
