"""This module makes one try of a request: within a deadline, and with a reply that can be trusted.

    send_once()   deadline -> provider.embed -+- reply:    count, width and values are checked -> returned
                                              +- no reply: UnavailableError; the deadline was missed
                                              +- error:    quotes of users' texts are taken out of it

What follows from a failed try is in _request.py.

The deadlines of requests that are under way become shorter as others are answered (core/deadlines.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import anyio
import numpy as np
from tenacity.wait import wait_exponential

from aembed.core.billing import billed_tokens
from aembed.core.deadlines import Deadlines
from aembed.core.metering import Meter
from aembed.core.quoting import without_quotes
from aembed.core.spaces import is_same_model
from aembed.core.vectors import check_squares, check_width, squares
from aembed.dispatch._admission import Admission
from aembed.dispatch._pool import Pool
from aembed.dispatch._request_telling import RequestTeller
from aembed.dispatch._submission import Submission
from aembed.dispatch._telling import Teller, origin_of
from aembed.errors import (
    InvalidReplyError,
    ProviderError,
    QuotaExceededError,
    RateLimitError,
    SpaceMismatchError,
    UnavailableError,
)
from aembed.limits import RetryPolicy
from aembed.protocols import EmbedsPrepared, Provider
from aembed.types import Reply

# A limit of a minute has room for what it refused after 60 s, if ever; 5 s are for lateness.
LONGEST_WINDOW = 65.0
"""A refusal that lasts for more seconds is not about a window. (It is less where max_outage is short.)"""
# Chosen: a server that is well answers a short text in 78 ms and more, so less would be no try at all.
LEAST_SECONDS = 0.1
"""A try has at least so many seconds, however little is left of max_outage."""
# Chosen: one request of the last ones that was accepted as it was after it had failed is enough to speak of chance for
# the next three; each part that fails for good takes a fifth of that away.
CHANCE_MEMORY = 0.2
"""The weight of one request in the share of those that failed by chance."""


class Requests:
    """What all requests of one Dispatcher share: their provider, deadlines, backoff, and what replies have told."""

    def __init__(
        self,
        providers: Sequence[Provider],
        admission: Admission | Pool,
        *,
        retry: RetryPolicy,
        timeout: float,
        dimensions: int | None,
        random: Random,
        start_probe: Callable[[Coroutine[Any, Any, None]], object],
        meters: Sequence[Meter],
        tell: Teller | None,
    ) -> None:
        self.start_probe = start_probe
        """Starts the task that asks an address of a pool whether it is back."""
        self.dimensions = dimensions
        self.admission = admission
        self.max_retries = retry.max_retries
        # A fourth of max_outage, so that a size that is refused for ever is divided before the job would stop for it.
        self.longest_window = min(LONGEST_WINDOW, retry.max_outage / 4)
        self.random = random
        self.backoff_base = retry.backoff_base
        self.backoff = wait_exponential(multiplier=retry.backoff_base, max=retry.backoff_max)
        self.chance = 0.0
        """How often requests that had failed were accepted as they were, lately."""
        self.pool = admission if isinstance(admission, Pool) else None
        members = admission.members if isinstance(admission, Pool) else (admission,)
        self.addresses = {
            member: Address(provider, timeout, meter)
            for member, provider, meter in zip(members, providers, meters, strict=True)
        }
        self._tell = tell
        self._timeout = timeout
        self._model = ""

    def tell_of(self, submission: Submission, texts: int, tokens: float) -> RequestTeller | None:
        """What tells of a request that is to be sent; None where nobody listens."""
        if self._tell is None:
            return None
        since = submission.wanted_since if submission.permit else asyncio.get_running_loop().time()
        return RequestTeller(self._tell, submission, texts, tokens, since)

    async def send_once(
        self, texts: Sequence[str], tokens: float, submission: Submission, admission: Admission, *, urgent: bool
    ) -> Reply:
        """Sends one request within its deadline to the address of that admission, and returns a reply to be trusted.

        What is `urgent` (a query or a control) is cut by the deadline that was learned, however much was cut before.
        """
        # Law 1: a request that is under way is ended by its own deadline, and else only at the end of `drain`.
        loop = asyncio.get_running_loop()
        started, address = loop.time(), self.addresses[admission]
        most = address.deadlines.deadline_of(tokens) if urgent else self._timeout
        # In an outage the last try is cut to what is left of max_outage.
        seconds = min(most, max(admission.lost_at - started, LEAST_SECONDS))
        scope = anyio.CancelScope(deadline=started + seconds)
        under_way = _OpenRequest(scope, started, tokens, urgent, submission)
        address.under_way[under_way] = None
        if not urgent:
            self._tighten(address)
        try:
            with scope:
                if address.prepares is None:
                    reply = await address.provider.embed(texts, input_type=submission.input_type)
                else:
                    reply = await address.prepares.embed_prepared(
                        texts, input_type=submission.input_type, preparation=submission.preparation
                    )
        except ProviderError as error:
            # The users' texts are taken out of what a provider said before it reaches a log or a traceback.
            error.args = tuple(without_quotes(part, texts) if isinstance(part, str) else part for part in error.args)
            error.body = without_quotes(error.body, texts)
            if isinstance(error, RateLimitError) and error.hints and error.hints.spent_window:
                # Nothing is left of a day or a month: no short wait clears that, whatever provider object says it.
                raise QuotaExceededError(
                    str(error),
                    status_code=error.status_code,
                    request_id=error.request_id,
                    hints=error.hints,
                    body=error.body,
                ) from error
            raise
        finally:
            del address.under_way[under_way]
        if scope.cancelled_caught:
            deadline = scope.deadline - started
            address.deadlines.note_missed(tokens, deadline)
            raise UnavailableError(f"no answer within {deadline:.1f} s")
        # What a reply took tightens the deadlines of those that are under way, too.
        seconds = loop.time() - started
        address.deadlines.observe(tokens, seconds)
        address.meter.note_answer(seconds, billed_tokens(reply.usage.tokens, tokens), reply.usage.cost_usd)
        self._tighten(address)
        self._check(reply, len(texts), admission)
        return reply

    def _tighten(self, address: Address) -> None:
        """Shortens the deadlines of requests under way, the oldest first, as far as the ration of cut tokens goes."""
        rationed = 0.0
        for request in address.under_way:
            seconds = address.deadlines.patient_deadline_of(request.tokens)
            if seconds < self._timeout and not request.urgent:
                to_come = request.submission.to_come() if request.submission.to_come else 0.0
                if rationed + request.tokens > address.deadlines.tokens_that_may_be_cut(to_come):
                    continue
                rationed += request.tokens
            request.scope.deadline = min(request.scope.deadline, request.started + seconds)

    def _check(self, reply: Reply, inputs: int, admission: Admission) -> None:
        # Law 3: a vector is stored only beside the text that it was made from: count, width and finite values first,
        # whatever provider object it came from.
        matrix = reply.matrix
        if matrix.ndim != 2 or matrix.dtype != np.float32 or len(matrix) != inputs or not matrix.size:
            raise InvalidReplyError(f"expected {inputs} float32 vectors, got {matrix.dtype} of shape {matrix.shape}")
        if self.pool and self.dimensions not in (None, matrix.shape[1]):
            raise SpaceMismatchError(
                f"{admission.wait_report.where} gives vectors of {matrix.shape[1]} dimensions, and the other addresses "
                f"of {self.dimensions}; take it out of base_url"
            )
        check_width(matrix, self.dimensions)
        if not reply.checked:
            check_squares(squares(matrix))
        self.dimensions = int(matrix.shape[1])
        # A name that differs from the request's is normal; one that changes is another model.
        if self._model and reply.model and not is_same_model(reply.model, self._model):
            who = "the provider" if self.pool is None else admission.wait_report.where
            raise SpaceMismatchError(
                f"{who} answered with the model {reply.model!r}, before with {self._model!r}; "
                "their vectors cannot be compared: build a new store with one of them"
            )
        self._model = self._model or reply.model


class Address:
    """Where requests go, and how soon they are answered there."""

    def __init__(self, provider: Provider, timeout: float, meter: Meter) -> None:
        self.provider = provider
        self.origin = origin_of(provider)
        self.meter = meter
        self.prepares = provider if isinstance(provider, EmbedsPrepared) else None
        self.deadlines = Deadlines(timeout)
        self.under_way: dict[_OpenRequest, None] = {}


@dataclass(frozen=True, slots=True, eq=False)
class _OpenRequest:
    """A request that was sent and not answered yet, with the scope whose deadline ends it."""

    scope: anyio.CancelScope
    started: float
    tokens: float
    urgent: bool
    submission: Submission
