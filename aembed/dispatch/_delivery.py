"""This module sends one batch until nothing of it is left: in parts where it is refused, and finds out who is to blame.

For each part:  next -> send -+- answered: delivered
                              +- refused:  more parts (core/splitting.py), or a single text is held
                              +- failed:   again, more parts, or the text fails
                              +- no request can succeed: the error stops the job

A text that was refused is held until something else was accepted after it: then it is to blame, and fails. If good
texts are refused too, the account or the server is to blame, and that stops the job or is waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import anyio

from aembed.core.changes import Item
from aembed.core.cutting import Cutting
from aembed.core.packing import Cap
from aembed.core.retrying import Again, FailItems, FailJob
from aembed.core.splitting import Lessons, Remains, Tries
from aembed.core.weighing import Weight
from aembed.dispatch._control import Control
from aembed.dispatch._errand import Errand
from aembed.dispatch._guard import Guard
from aembed.dispatch._requests import Requests
from aembed.errors import (
    AembedError,
    BadRequestError,
    InvalidReplyError,
    PermissionDeniedError,
    ProviderError,
    UnavailableError,
    copied,
)
from aembed.types import Reply

logger = logging.getLogger("aembed")

REFUSED_BESIDE = "refused again and again, and so was each time what had been accepted before"


@dataclass(frozen=True, slots=True)
class Answered:
    """The vectors of these items: one row for each input, in order. `shared` says that another caller paid for them."""

    items: Sequence[Item]
    reply: Reply
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """These items fail, each with this error."""

    items: Sequence[Item]
    error: AembedError


Answer: TypeAlias = Answered | Refused
Deliver: TypeAlias = Callable[[Answer], Awaitable[None]]


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """Items whose refusal is not certain yet: the request that had them, and how many had been sent when it came."""

    items: Sequence[Item]
    error: ProviderError
    number: int
    sent: int


class Evidence:
    """What the batches of one Dispatcher have learned of its provider, for as long as that lives."""

    def __init__(self, requests: Requests, cap: Callable[[], Cap]) -> None:
        self.requests = requests
        self.admission = requests.admission
        self.cap = cap
        self.lessons = Lessons()
        self.cutting = Cutting()
        self.weight = Weight()
        self.guard = Guard()
        self.control = Control(requests)
        self._trial_over: anyio.Event | None = None
        self._told_of_cutting = False

    def within(self, cap: Cap, *, estimated: bool) -> Cap:
        """What a batch may hold. `estimated` says that the provider may not count as `cap` does."""
        return self.weight.within(self.lessons.within(cap, estimated=estimated))

    def count(self, texts: Sequence[str], tokens: float, billed: int | None) -> int:
        """Learns what a reply says of the tokens of its texts; returns how many of them the provider surely cut."""
        self.lessons.counting.observe(tokens, billed)
        cut = self.cutting.observe(texts, tokens, billed)
        if cut and not self._told_of_cutting:
            self._told_of_cutting = True
            logger.warning(
                "%s cuts texts to about %d tokens without a word, so what follows in them is not found; pass "
                "max_tokens_per_text=%d (--option max_tokens_per_text=%d) and too_long='split' or 'truncate', or "
                "smaller records",
                self.admission.waits.where,
                *[self.cutting.limit] * 3,
            )
        return cut

    async def trial(self) -> None:
        """Waits until somebody's trial of a larger size is over, or may be over."""
        self._trial_over = self._trial_over or anyio.Event()
        await self._trial_over.wait()

    def end_trial(self) -> None:
        over, self._trial_over = self._trial_over, None
        if over:
            over.set()


class Delivery:
    """Sends one batch and delivers one answer for each request."""

    def __init__(self, evidence: Evidence, batch: Sequence[Item], errand: Errand, deliver: Deliver) -> None:
        self._evidence = evidence
        self._requests = evidence.requests
        self._admission = evidence.admission
        self._guard = evidence.guard
        self._errand = errand
        self._deliver = deliver
        self._remains = Remains(batch, evidence.lessons, evidence.weight, self._requests.max_retries)
        self._held: list[_Held] = []

    async def run(self) -> None:
        """Sends the batch until nothing is left of it. Raises the error that stops the job."""
        try:
            while (part := await self._next()) or self._held:
                if part is None:
                    await self._certain()
                else:
                    await self._send(part)
                await self._let_go()
        finally:
            self._remains.leave()
            self._evidence.end_trial()
            self._guard.leave(self._remains)

    async def _next(self) -> Sequence[Item] | None:
        """The next part, once what is tried elsewhere tells how large it may be."""
        self._remains.leave()
        self._evidence.end_trial()
        if not self._errand.interactive:
            await self._errand.wait(self._guard.turn(self._remains, doubted=self._remains.doubted))
            if self._guard.doubts:
                await self._vouch()
        while self._evidence.weight.waits(self._remains):
            await self._errand.wait(self._evidence.trial())
        return self._remains.next()

    async def _send(self, part: Sequence[Item]) -> None:
        """Sends a part until it is answered, refused or failed, and does what follows."""
        tries = self._remains.tries(part)
        try:
            reply = await self._request(part, tries)
        except UnavailableError as error:
            await self._failed(part, error, tries)
        except ProviderError as error:
            await self._refused(part, error, tries)
        else:
            self._guard.accepted()
            self._evidence.control.learn(part)
            self._remains.accepted(part)
            await self._deliver(Answered(part, reply))

    async def _request(self, part: Sequence[Item], tries: Tries) -> Reply:
        # Law 12: the unit is an item of one or more inputs: the pieces of one text travel together.
        texts = [text for item in part for text in item.texts]
        tokens = sum(item.tokens for item in part)
        divisible, awaited = len(part) > 1, self._is_awaited
        reply = await self._requests.send(texts, tokens, self._errand, tries, divisible=divisible, awaited=awaited)
        self._errand.truncated += self._evidence.count(texts, tokens, reply.usage.tokens)
        return reply

    @property
    def _is_awaited(self) -> bool:
        """Whether others hold their places while they wait for what becomes of this batch."""
        return not self._guard.proven or self._evidence.weight.is_tried_by(self._remains)

    async def _refused(self, part: Sequence[Item], error: ProviderError, tries: Tries) -> None:
        """Judges a part that was refused. Raises what stops the job; a query stops nothing but its own calls."""
        # Law 5: a rejected batch is never sent again unchanged: it comes out of `next` in parts, or a text of it fails.
        interactive, sent = self._errand.interactive, self._admission.sent
        if tries.too_heavy:
            self._remains.too_heavy(part)
            return
        verdict = self._remains.refused(part, error, self._evidence.cap(), proven=self._guard.proven)
        if isinstance(verdict, FailJob) and _is_of_firewall(error):
            await self._vouch()
            verdict = self._remains.blamed(part)
        match verdict:
            case FailItems() if self._errand.cuts(part, error):
                self._remains.put_back(part)
            case FailItems() if interactive:
                await self._deliver(Refused(part, error))
            case FailItems():
                self._held.append(_Held(part, error, tries.number, sent))
            case FailJob() if interactive or not (self._guard.proven and self._remains.pardons(error)):
                raise error
            case FailJob():
                await self._vouch()
                self._remains.put_back(part)
        if not interactive:
            self._guard.refused(error, texts=len(part))

    async def _failed(self, part: Sequence[Item], error: UnavailableError, tries: Tries) -> None:
        """Judges a part that failed: nobody is to blame before something else was seen to be accepted."""
        since = self._remains.witness(part, error, tries)
        if since is None and not self._admission.gate.is_open:
            since = tries.number
        outage = False
        if since is not None and self._requests.max_retries:
            outage = not await self._evidence.control.answered(self._errand, since)
        match self._remains.failed(part, error, tries, outage=outage):
            case Again():
                self._errand.retries += 1
                if tries.rest:
                    await self._errand.rest(tries.rest, stays=self._is_awaited)
            case FailItems():
                self._requests.blamed()
                await self._deliver(Refused(part, error))

    async def _certain(self) -> None:
        """Waits until something was accepted after all that is held; where nothing is on its way, sends a control."""
        sent = max(refused.sent for refused in self._held)
        while self._admission.in_flight and self._admission.accepted <= sent:
            await self._errand.wait(self._admission.change())
        if self._admission.accepted <= sent:
            await self._vouch()

    async def _vouch(self) -> None:
        """Raises the last refusal where a good text is refused, too: the account or the server is to blame, no text."""
        # Raised only outside of `vouching`, so that whoever waits for its end can go on first.
        stopping: ProviderError | None = None
        async with self._guard.vouching():
            try:
                await self._evidence.control.accepts(self._errand, patient=self._guard.proven)
            except (BadRequestError, InvalidReplyError) as error:
                stopping = copied(self._guard.refusal or error)
        if stopping:
            raise stopping  # Not of the other one: that may quote a text, which is not known here.
        self._guard.accepted()

    async def _let_go(self) -> None:
        """Decides on what is held: what was refused before something else was accepted is refused in earnest."""
        for refused in list(self._held):
            if refused.sent < self._admission.accepted:
                self._held.remove(refused)
                if not self._evidence.control.is_void(refused.number, refused.error):
                    await self._deliver(Refused(refused.items, refused.error))
                elif self._remains.voids(refused.items):
                    self._remains.put_back(refused.items)
                else:
                    await self._deliver(Refused(refused.items, UnavailableError(f"{REFUSED_BESIDE}: {refused.error}")))


def _is_of_firewall(error: ProviderError) -> bool:
    """Whether the refusal is a web page, and no answer of the service.

    A firewall before the service then refuses what one text holds (SQL, HTML), or it refuses everything.
    """
    return isinstance(error, PermissionDeniedError) and error.body.lstrip().startswith("<")
