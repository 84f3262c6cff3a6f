"""This module tells who listens of one request: of its tries, of what came between them, and of its end."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import TypeAlias

from aembed.dispatch._submission import Submission
from aembed.dispatch._telling import Origin, Teller, status_of
from aembed.errors import QuotaExceededError, RateLimitError
from aembed.events import RequestAnswered, RequestFailed, RequestRefused, RequestRetried, RequestStarted
from aembed.types import InputType, Reply

What: TypeAlias = tuple[str, str, str, int | None, int, int, InputType, int, int]
"""What all events of one try begin with."""

_numbers = count(1)


class RequestTeller:
    """Tells of one request, from its first try to its end. `since` is when it was first wanted."""

    __slots__ = (
        "_context",
        "_error",
        "_first_sent",
        "_is_open",
        "_number",
        "_seconds",
        "_sent",
        "_since",
        "_status",
        "_submission",
        "_tell",
        "_texts",
        "_time",
        "_tokens",
        "_tries",
        "_what",
    )

    def __init__(self, tell: Teller, submission: Submission, texts: int, tokens: float, since: float) -> None:
        self._tell, self._submission, self._context = tell, submission, submission.context
        self._time = asyncio.get_running_loop().time
        self._number, self._texts, self._tokens = next(_numbers), texts, round(tokens)
        self._since, self._tries, self._is_open = since, 0, False

    def started(self, origin: Origin) -> None:
        self._sent, self._is_open = self._time(), True
        self._tries += 1
        if self._tries == 1:
            self._first_sent = self._sent
        input_type = self._submission.input_type
        self._what: What = (*origin, self._number, self._tries, input_type, self._texts, self._tokens)
        self._tell(RequestStarted(*self._what, self._sent - self._since), self._context)

    def answered(self, reply: Reply, billed: int, cost_usd: float | None) -> None:
        now = self._time()
        self._is_open = False
        self._tell(
            RequestAnswered(
                *self._what,
                now - self._sent,
                now - self._first_sent,
                billed,
                cost_usd,
                int(reply.matrix.shape[1]),
                reply.model,
            ),
            self._context,
        )

    def missed(self, error: BaseException) -> None:
        """A try has failed; what becomes of the request is told later."""
        self._since = self._time()
        self._seconds = self._since - self._sent
        self._error, self._status = type(error).__name__, status_of(error)
        if isinstance(error, RateLimitError | QuotaExceededError):
            hint = error.hints.retry_after if error.hints else None
            self._tell(RequestRefused(*self._what, self._seconds, self._error, self._status, hint), self._context)

    def retried(self, pause: float) -> None:
        self._tell(RequestRetried(*self._what, self._seconds, self._error, self._status, pause), self._context)

    def ended(self, error: BaseException) -> None:
        """It is not tried any more. What was answered, or was never sent, is not told of."""
        if self._is_open:
            self._is_open = False
            seconds = self._time() - self._first_sent
            self._tell(RequestFailed(*self._what, seconds, type(error).__name__, status_of(error)), self._context)
