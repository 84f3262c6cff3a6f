"""This module sends one batch until nothing of it is left: in parts where it is refused, and finds out who is to blame.

For each part:  next -> send -+- answered: delivered
                              +- refused:  more parts (core/splitting.py), or a single text is held
                              +- failed:   again, more parts, or the text fails
                              +- no request can succeed: the error stops the job

A text that was refused is held until something else was accepted after it: then it is to blame, and fails. If good
texts are refused too, the account or the server is to blame, and that stops the job or is waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio

from aembed.core.changes import Item
from aembed.core.learned_limits import LearnedLimits
from aembed.core.packing import Cap
from aembed.core.retrying import FailItems, FailJob, Resend
from aembed.core.splitting import Bisection, Tries
from aembed.core.truncation import Truncation
from aembed.core.vectors import DimensionError
from aembed.core.weighing import Weight
from aembed.dispatch._control import Control
from aembed.dispatch._fail_fast import FailFast
from aembed.dispatch._request import Request
from aembed.dispatch._requests import CHANCE_MEMORY, Requests
from aembed.dispatch._submission import Submission
from aembed.errors import (
    AembedError,
    BadRequestError,
    InvalidReplyError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    UnavailableError,
    copy_error,
)
from aembed.types import Reply

logger = logging.getLogger("aembed")

# Chosen: by chance, as from one of several servers behind an address, it comes once.
MOST_WRONG_WIDTHS = 1
"""Queries are sent again after so many replies of another width."""
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


@dataclass(frozen=True, slots=True)
class PutAside:
    """These items are not sent now: they go out in a batch, or there is no room for them in one."""

    items: Sequence[Item]
    is_out: bool = True


Answer: TypeAlias = Answered | Refused | PutAside
Deliver: TypeAlias = Callable[[Answer], Awaitable[None]]


@dataclass(frozen=True, slots=True, eq=False)
class _HeldRefusal:
    """Items whose refusal is not certain yet: the request that had them, and how many had been sent when it came."""

    items: Sequence[Item]
    error: ProviderError
    number: int
    sent: int
    address: object


class Evidence:
    """What the batches of one Dispatcher have learned of its provider, for as long as that lives."""

    def __init__(self, requests: Requests, cap: Callable[[], Cap]) -> None:
        self.requests = requests
        self.admission = requests.admission
        self.cap = cap
        self.learned_limits = LearnedLimits()
        self.truncation = Truncation()
        self.weight = Weight()
        self.fail_fast = FailFast()
        self.control = Control(requests)
        self._trial_over: anyio.Event | None = None
        self._told_of_cutting = False

    def count(self, texts: Sequence[str], tokens: float, billed: int | None) -> int:
        """Learns what a reply says of the tokens of its texts; returns how many of them the provider surely cut."""
        self.learned_limits.counting.observe(tokens, billed)
        cut = self.truncation.observe(texts, tokens, billed)
        if cut and not self._told_of_cutting:
            self._told_of_cutting = True
            logger.warning(
                "%s cuts texts to about %d tokens without a word, so what follows in them is not found; pass "
                "max_tokens_per_text=%d (--option max_tokens_per_text=%d) and too_long='split' or 'truncate', or "
                "smaller records",
                self.admission.wait_report.where,
                *[self.truncation.limit] * 3,
            )
        return cut

    async def wait_for_trial(self) -> None:
        """Waits until somebody's trial of a larger size is over, or may be over."""
        self._trial_over = self._trial_over or anyio.Event()
        await self._trial_over.wait()

    def end_trial(self, sender: object) -> None:
        """Ends the trial of this sender, if it has one. Whoever waits looks whether there is another one."""
        if self.weight.trial is sender:
            self.weight.trial = None
        over, self._trial_over = self._trial_over, None
        if over:
            over.set()


class Delivery:
    """Sends one batch and delivers one answer for each request."""

    def __init__(self, evidence: Evidence, batch: Sequence[Item], submission: Submission, deliver: Deliver) -> None:
        self._evidence = evidence
        self._requests = evidence.requests
        self._admission = evidence.admission
        self._fail_fast = evidence.fail_fast
        self._submission = submission
        self._deliver = deliver
        self._bisection = Bisection(batch, evidence.learned_limits, evidence.weight, self._requests.max_retries)
        self._held: list[_HeldRefusal] = []
        self._failed_at: list[Any] = []
        self._wrong_widths = 0
        self._stops = len(evidence.control.stopping)

    async def run(self) -> None:
        """Sends the batch until nothing is left of it. Raises the error that stops the job."""
        try:
            while (part := await self._next_part()) or self._held:
                if part is None:
                    # Certain is what was held once something that was sent later was accepted; where nothing is on its
                    # way, that is a control.
                    sent = max(refused.sent for refused in self._held)
                    while self._admission.in_flight and self._admission.accepted <= sent:
                        await self._submission.wait(self._admission.changed.wait())
                    if self._admission.accepted <= sent:
                        await self._vouch()
                else:
                    await self._send(part)
                await self._let_go()
        finally:
            self._evidence.end_trial(self._bisection)
            self._fail_fast.leave(self._bisection)

    async def _next_part(self) -> Sequence[Item] | None:
        """The next part, once what is tried elsewhere tells how large it may be."""
        self._evidence.end_trial(self._bisection)
        if not self._submission.interactive:
            while not self._fail_fast.takes_turn(self._bisection, doubted=self._bisection.doubted):
                await self._submission.wait(self._fail_fast.changed.wait())
            if self._submission.dropped:
                raise asyncio.CancelledError
            if stopping := self._evidence.control.stopping[self._stops :]:
                raise copy_error(self._fail_fast.refusal or stopping[-1])
            if self._fail_fast.is_doubting:
                await self._vouch()
        while self._evidence.weight.trial and self._evidence.weight.has_to_wait(self._bisection):
            await self._submission.wait(self._evidence.wait_for_trial())
        return self._bisection.next_part()

    async def _send(self, part: Sequence[Item]) -> None:
        """Sends a part until it is answered, refused or failed, and does what follows."""
        tries = self._bisection.tries_of(part)
        tries.failed_at = self._failed_at
        try:
            reply = await self._request(part, tries)
        except UnavailableError as error:
            await self._handle_failure(part, error, tries)
        except ProviderError as error:
            await self._handle_refusal(part, error, tries)
        else:
            self._fail_fast.note_accepted(tries.number)
            self._evidence.control.learn(part)
            self._bisection.note_accepted(part)
            await self._deliver(Answered(part, reply))

    async def _request(self, part: Sequence[Item], tries: Tries) -> Reply:
        # Law 12: the unit is an item of one or more inputs: the pieces of one text travel together.
        texts = [text for item in part for text in item.texts]
        tokens = sum(item.tokens for item in part)
        divisible, awaited = len(part) > 1, self._is_awaited
        reply = await Request(self._requests, self._submission, texts, tokens, tries, divisible, awaited).send()
        self._submission.truncated += self._evidence.count(texts, tokens, reply.usage.tokens)
        return reply

    @property
    def _is_awaited(self) -> bool:
        """Whether others hold their places while they wait for what becomes of this batch."""
        return self._fail_fast.splits_alone or self._evidence.weight.trial is self._bisection

    async def _handle_refusal(self, part: Sequence[Item], error: ProviderError, tries: Tries) -> None:
        """Judges a part that was refused. Raises what stops the job; a query stops nothing but its own calls."""
        # Law 5: a rejected batch is never sent again unchanged: it comes out of `next_part` in parts, or a text of it
        # fails.
        interactive, sent = self._submission.interactive, self._admission.sent
        if tries.too_heavy:
            # No wait helps it: the server refuses what is too large for it as if it came too soon.
            self._bisection.divide(part)
            return
        if tries.outgrown:
            self._bisection.cut(part)
            return
        if interactive and isinstance(error, DimensionError) and error.wanted:
            # Another width cannot come from a text: no part of a query is better than the whole.
            self._wrong_widths += 1
            if self._wrong_widths > MOST_WRONG_WIDTHS:
                await self._deliver(Refused(part, error))
                return
        cap, proven = self._evidence.cap(), self._fail_fast.proven
        verdict = self._bisection.note_refusal(part, error, cap, proven=proven, number=tries.number)
        if isinstance(verdict, FailJob) and await self._may_be_of_firewall(error):
            await self._vouch()
            error.args = (f"{error}; others are accepted, so this is about what the text holds",)
            verdict = self._bisection.blame_part(part)
        match verdict:
            case FailItems() if self._submission.has_shortened(part, error):
                self._bisection.put_back(part)
            case FailItems() if interactive:
                await self._deliver(Refused(part, error))
            case FailItems():
                first = self._bisection.number_of_first(error, tries.number)
                self._held.append(_HeldRefusal(part, error, first, sent, tries.address))
            case FailJob() if interactive or not (self._fail_fast.proven and self._bisection.may_pardon(error)):
                raise error
            case FailJob():
                await self._vouch()
                self._bisection.put_back(part)
        if not interactive:
            self._fail_fast.note_refusal(error, texts=len(part), number=tries.number, sent=sent)

    async def _may_be_of_firewall(self, error: ProviderError) -> bool:
        """Whether what stands before the service may refuse what one text holds (SQL, HTML) as if it were everything.

        A web page is no answer of the service. A 404 or a 501 that is one may also be a wrong address, unless others
        are accepted there: until one is, the requests beside this one are waited for.
        """
        if not isinstance(error, PermissionDeniedError | NotFoundError) or not error.body.lstrip().startswith("<"):
            return False
        if isinstance(error, PermissionDeniedError):
            return True
        while self._admission.in_flight and not self._fail_fast.proven:
            await self._submission.wait(self._admission.changed.wait())
        return self._fail_fast.proven

    async def _handle_failure(self, part: Sequence[Item], error: UnavailableError, tries: Tries) -> None:
        """Judges a part that failed: nobody is to blame before something else was seen to be accepted."""
        since = self._bisection.witness_number(part, error, tries)
        if since is None and not self._admission.is_open:
            since = tries.number
        outage = False
        if since is not None and self._requests.max_retries:
            outage = not await self._evidence.control.wait_for_witness(self._submission, since)
        match self._bisection.note_failure(part, error, tries, outage=outage):
            case Resend():
                self._submission.retries += 1
                if tries.rest:
                    await self._submission.rest(tries.rest, stays=self._is_awaited)
            case FailItems():
                # A part that had failed went on to fail, so that was no chance.
                self._requests.chance -= CHANCE_MEMORY * self._requests.chance
                await self._deliver(Refused(part, error))

    async def _vouch(self) -> None:
        """Raises the last refusal where a good text is refused, too: the account or the server is to blame, no text."""
        # Raised only outside of `vouch`, so that whoever waits for its end can go on first.
        stopping: ProviderError | None = None
        async with self._fail_fast.vouch():
            try:
                await self._evidence.control.is_accepting_others(self._submission, patient=self._fail_fast.proven)
            except (BadRequestError, InvalidReplyError) as error:
                stopping = copy_error(self._fail_fast.refusal or error)
        if stopping:
            raise stopping  # Not of the other one: that may quote a text, which is not known here.
        self._fail_fast.note_accepted(self._admission.accepted)

    async def _let_go(self) -> None:
        """Decides on what is held: what was refused before something else was accepted is refused in earnest."""
        for refused in list(self._held):
            if refused.sent < self._admission.accepted or self._bisection.is_confirmed:
                self._held.remove(refused)
                if self._bisection.may_confirm(refused.items, refused.error):
                    self._bisection.put_back(refused.items)
                elif not self._evidence.control.is_void(refused.number, refused.error, refused.address):
                    await self._deliver(Refused(refused.items, refused.error))
                elif self._bisection.voids(refused.items):
                    self._bisection.put_back(refused.items)
                else:
                    await self._deliver(Refused(refused.items, UnavailableError(f"{REFUSED_BESIDE}: {refused.error}")))
