"""This module makes the tries of one request: tenacity decides whether and when, the gate decides who goes first.

      send()               the first try is made without tenacity: most are answered
         |
         v
    +-> enter: a slot, the budgets, the gate -> reserve money -> send -> reply, checked -----> done
    |                                                             |
    |                                                             +-- closed connection, other format: at once, twice
    |                                                             +-- any other error: raised to the batch's sender
    |                                                             +-- a rate limit, or unavailable (5xx, timeout ...)
    |                                                                   |
    |     tenacity calls, in this order:                                v
    |         wait()    how long: its exponential, jitter, the server's hint
    |         stop()    the gate is told; is that the end?  --yes--> the error is raised to the sender of the batch
    |         sleep()   while the gate is closed: not here, but in `enter`; else for a while, or until another lands
    +------------+

A rate limit ends the tries only of a batch that can be divided, and is too large; else max_outage does (OutageError).
An UnavailableError ends them after as many failures as the sender of the batch asks for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from aembed.core.gate import PROBE_SECONDS, pause_seconds
from aembed.core.pacing import Throttling
from aembed.core.retrying import WAIT_AND_RETRY, may_be_billed
from aembed.core.splitting import Tries
from aembed.dispatch._admission import Admission, Permit
from aembed.dispatch._member import Member
from aembed.dispatch._probe import Probe
from aembed.dispatch._requests import CHANCE_MEMORY, Requests
from aembed.dispatch._route import Route
from aembed.dispatch._sending import send_promptly
from aembed.dispatch._submission import Submission
from aembed.errors import ProviderError, RateLimitError, UnavailableError
from aembed.types import Reply

# Chosen: with a base of 1 s that is 50 to 100 ms, in which a slot at the server becomes free. At 1.0 a single query
# would wait a second for nothing; at 0 it would be refused again at once.
SOONER_ALONE = 0.1
"""The part of the backoff that is waited where nothing is on its way whose answer could be waited for."""
# Chosen: one request of the last ones that was accepted as it was after it had failed is enough to speak of chance for
# the next three; each part that fails for good takes a fifth of that away.
SELDOM = 0.1
"""Failures are by chance while the share of those that were accepted later, as they were, is above this."""


class Request:
    """The tries of one request. tenacity decides whether and when, the gate decides who goes first.

    `divisible` says that it may be sent in parts, `awaited` that others wait for its answer and keep their places
    meanwhile, so that this request keeps its own.
    """

    def __init__(
        self,
        requests: Requests,
        submission: Submission,
        texts: Sequence[str],
        tokens: float,
        tries: Tries,
        divisible: bool,
        awaited: bool,
    ) -> None:
        self._requests = requests
        self._admission = requests.admission
        self._submission = submission
        self._texts = texts
        self._tokens = tokens
        self._divisible = divisible
        self._awaited = awaited
        self._pool = requests.pool
        self._route = Route(Probe(requests, submission), failed_at=tries.failed_at) if requests.pool else None
        self._permit: Permit | None = None
        self._refusal = Throttling()
        self._limited = self._hinted = False
        self._refusals, self._refused_since = 0, 0.0
        self._tries = tries
        self._telling = requests.tell_of(submission, len(texts), tokens)

    async def send(self) -> Reply:
        """The reply. Raises the ProviderError that waiting did not clear, or OutageError.

        RateLimitError comes out only for a `divisible` batch that is too large for the rate limit, UnavailableError
        after as many failures as `tries` says.
        """
        if self._telling is None:
            return await self._send()
        try:
            return await self._send()
        except BaseException as error:
            self._telling.ended(error)
            raise

    async def _send(self) -> Reply:
        errors: list[Exception] = []
        try:
            return await self._attempt()
        except WAIT_AND_RETRY as error:
            errors.append(error)

        async def attempt() -> Reply:
            # tenacity counts the first try, which was made without it, so its error is raised again.
            if errors:
                raise errors.pop()
            return await self._attempt()

        # tenacity is the only backoff: no stop_after_delay and no wait_random, which read the real clock and the global
        # random. Only the two classes that waiting can clear are tried again; a cancellation never is.
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(WAIT_AND_RETRY),
            wait=self._backoff,
            stop=self._is_last,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except UnavailableError as error:
            # Several addresses refused it, and the others failed.
            if self._route and len(self._route.refused_by) > 1:
                raise next(iter(self._route.refused_by.values())) from error
            raise

    async def _attempt(self) -> Reply:
        """One try: leave to send, the request, and what becomes of it told to gate and pacer.

        In a pool it goes on at once where an address refuses it that may be to blame itself.
        """
        submission, tries = self._submission, self._tries
        while True:
            permit, submission.permit = submission.permit, None
            permit = self._permit = permit or await submission.wait(
                self._admission.enter(
                    self._tokens,
                    texts=len(self._texts),
                    interactive=submission.interactive or tries.control,
                    control=tries.control,
                    divisible=self._divisible,
                    remaining=submission.remaining() if submission.remaining else inf,
                    route=self._route,
                )
            )
            if permit is None:
                tries.outgrown = self._admission.is_beyond_share(self._tokens)
                raise RateLimitError(f"requests of {self._tokens:,.0f} tokens are never accepted")
            tries.number, tries.address = permit.number, permit.admission
            try:
                # In a pool a probe that hangs would hold a slot which the next probe needs, while others do its work.
                probes = self._pool is not None and permit.gate_pass.probe
                urgent = submission.interactive or tries.control or probes
                reply = await send_promptly(
                    self._requests,
                    submission,
                    self._texts,
                    self._tokens,
                    permit.admission,
                    urgent=urgent,
                    telling=self._telling,
                )
            except BaseException as error:
                self._refusal = permit.admission.note_throttled(permit, error)
                if not self._goes_elsewhere(permit, error):
                    if self._route and (telling := self._route.most_telling(permit, error)) is not error:
                        raise telling from error
                    raise
                submission.retries += 1
                if self._telling:
                    self._telling.retried(0.0)
                continue
            permit.admission.note_success(permit, reply.hints)
            if self._pool and self._route and self._route.refused_by:
                self._pool.note_contradicted(self._route.refused_by)
            if tries.failures:
                self._requests.chance += CHANCE_MEMORY * (1.0 - self._requests.chance)
            return reply

    def _goes_elsewhere(self, permit: Permit, error: BaseException) -> bool:
        """Whether another address is asked at once. What waiting may clear is decided by tenacity."""
        if self._pool is None or self._route is None or self._submission.dropped:
            return False
        if not isinstance(error, ProviderError) or isinstance(error, WAIT_AND_RETRY):
            return False
        single, control = len(self._texts) == 1, self._tries.control
        return self._pool.goes_elsewhere(permit, error, self._route, single=single, control=control)

    def _backoff(self, state: RetryCallState) -> float:
        """The server's hint stands in the place of an ever longer backoff, which would hold all others up.

        What waits alone waits as long as its server says, and no longer. What waits for the gate finds its waits grow.
        """
        error = error_of(state)
        alone = isinstance(error, RateLimitError) and not self._refusal.closes
        backoff, hint = self._requests.backoff(state), hint_of(error)
        if alone and hint is not None and 0.0 < hint < inf:
            backoff = 0.0
        elif hint is not None or not alone:
            backoff = min(backoff, self._requests.backoff_base)
        return pause_seconds(backoff, hint, self._requests.random, alone=alone)

    def _is_last(self, state: RetryCallState) -> bool:
        """Tells the gate of a failure; returns whether there were so many that the request itself may be to blame."""
        # A wait for a rate limit is no failed attempt: it is bounded by max_outage, and not by max_retries.
        if self._permit is None:
            return True
        error, admission = error_of(state), self._permit.admission
        assert error is not None
        self._limited = isinstance(error, RateLimitError)
        self._hinted = hint_of(error) is not None
        blame = admission.note_failure(
            self._permit,
            error,
            wait=state.upcoming_sleep,
            hinted=self._hinted,
            closes=self._refusal.closes,
            alone=self._tries.alone,
        )
        if self._limited:
            too_large = self._refusal.too_large and (self._pool is None or self._pool.is_too_large(self._tokens))
            return self._divisible and (too_large or self._is_too_heavy(admission))
        if self._route and any(member.is_there and member.has_accepted for member in self._route.refused_by):
            return False  # An address that accepts others has refused it: this one says nothing.
        billed = may_be_billed(error)
        self._tries.billed += billed
        if not blame and not self._requests.max_retries:
            return False
        says_nothing = self._says_nothing(admission, blame)
        if self._route and admission not in self._route.failed_at:
            self._route.failed_at.append(admission)
        if says_nothing:
            # An address that is away says nothing of the request, which goes on elsewhere: not without end.
            return billed and self._tries.billed >= self._tries.most_billed
        self._tries.failures += 1
        self._tries.rest = 0.0 if self._pool else admission.gate.rest_seconds(state.upcoming_sleep, hinted=self._hinted)
        by_chance = self._requests.chance > SELDOM and not (self._divisible and billed)
        self._tries.blame += blame if by_chance else 1.0
        most = self._tries.most
        if billed:
            # While the gate is closed nothing goes out that may be billed again, but one short text.
            most = self._tries.most_billed if admission.gate.is_open or not self._divisible else 1
        return self._tries.failures >= most

    def _says_nothing(self, admission: Admission, blame: float) -> bool:
        """Whether a failure at an address of a pool is that of the address."""
        if self._pool is None or self._route is None or not isinstance(admission, Member):
            return False
        is_away = not admission.gate.is_open and (not blame or self._tries.alone)
        return (is_away and self._pool.is_open) or self._pool.says_nothing(admission, self._route)

    def _is_too_heavy(self, admission: Admission) -> bool:
        """Whether the size is what is refused: no wait helped, and nothing as large was ever accepted."""
        self._refusals += 1
        now = asyncio.get_running_loop().time()
        self._refused_since = self._refused_since or now
        patience = 0.0 if self._tries.on_trial else self._requests.longest_window
        waited = now - self._refused_since
        self._tries.too_heavy = self._tries.unproven and self._refusals > 1 and waited >= patience
        if self._tries.too_heavy:
            admission.pacer.forget_refusals(now)
        return self._tries.too_heavy

    async def _sleep(self, seconds: float) -> None:
        """Waits before the next try.

        What was refused without a hint goes again once one of the others has landed, or soon where there are none.
        """
        assert self._permit is not None
        self._submission.retries += 1
        if self._telling:
            self._telling.retried(seconds)
        admission = self._permit.admission
        answerable = self._limited and admission.gate.is_open and not self._hinted
        if self._route and isinstance(admission, Member):
            # The request goes on elsewhere, while the address rests as this request would have rested there.
            if answerable:
                seconds = min(seconds, PROBE_SECONDS) * (SOONER_ALONE if admission.in_flight == 0 else 1.0)
            else:
                seconds = admission.gate.rest_seconds(seconds, hinted=self._hinted)
            self._route.not_before[admission] = asyncio.get_running_loop().time() + seconds
            admission.rest(seconds, hinted=not answerable)
        elif answerable:
            alone = SOONER_ALONE if admission.in_flight == 0 else 1.0
            await self._submission.wait(admission.wait_for_answer(alone * min(seconds, PROBE_SECONDS)))
        elif (rest := admission.gate.rest_seconds(seconds, hinted=self._hinted)) > 0:
            admission.note_rest(rest)
            await self._submission.rest(rest, stays=self._awaited)


def error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def hint_of(error: BaseException | None) -> float | None:
    """The seconds that the server asks to wait, if it says so."""
    return error.hints.retry_after if isinstance(error, ProviderError) and error.hints else None
