"""This module finds out whether a text or the server is to blame, by sending a short text that was accepted before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

import anyio

from aembed.core.changes import Item
from aembed.core.splitting import Tries
from aembed.dispatch._member import Member
from aembed.dispatch._request import Request
from aembed.dispatch._requests import Requests
from aembed.dispatch._sending import WORD
from aembed.dispatch._submission import Submission
from aembed.errors import BadRequestError, InvalidReplyError, ProviderError, copy_error

# Chosen: about 100 tokens, 0.000002 dollars at OpenAI's price.
# Longer texts would cost more, and may fail for their size.
MOST_CHARACTERS = 400
"""A text of more characters is not used as a control."""
# Chosen: 3.5 seconds in all, in which an account may be filled or a router recover, and a person still waits.
PAUSES = (1.0, 2.5)
"""A control that was refused is sent again after so many seconds, once for each of these."""


@dataclass(eq=False, repr=False)
class Control:
    """Finds out whose fault it is: sends a short text that was accepted before (WORD while there is none), one at a
    time.

    Where that is accepted the server and the account are well, and what failed or was refused is to blame itself.
    """

    _requests: Requests
    _text: str = ""
    _lock: anyio.Lock = field(default_factory=lambda: anyio.Lock(fast_acquire=True))
    _failed_at: int = 0
    _refused_at: int = 0
    _rejected_at: int = 0
    stopping: list[ProviderError] = field(default_factory=list)
    """The last refusal of each control that was refused to the end. What had begun before sends nothing more."""

    def learn(self, batch: Sequence[Item]) -> None:
        """Keeps the last text of a batch that was accepted, which is the shortest one of it.

        It is another text each time, so that no text is bought often.
        """
        text = batch[-1].texts[-1]
        if len(text) <= MOST_CHARACTERS:
            self._text = text

    async def wait_for_witness(self, submission: Submission, number: int) -> bool:
        """Returns once a request that was sent after that one was accepted; False if an outage had to end first.

        Raises OutageError, or what the provider refuses the control with.
        """
        await submission.wait(self._lock.acquire())
        try:
            if self._requests.pool:
                await submission.wait(self._requests.pool.wait_for_accepted(number))
            if self._requests.admission.accepted <= number:
                await self._send_until_accepted(submission, number, patient=True)
        finally:
            self._lock.release()
        return self._failed_at <= number

    async def is_accepting_others(self, submission: Submission, *, patient: bool) -> bool:
        """Whether what was refused until now is to blame itself.

        It is False if everything was refused, and is not any more. Raises the last refusal of the control where the
        control is refused to the end.
        """
        asked, stops = self._requests.admission.sent, len(self.stopping)
        await submission.wait(self._lock.acquire())
        try:
            if self.stopping[stops:]:
                raise copy_error(self.stopping[-1])
            if self._requests.admission.accepted <= asked:
                await self._send_until_accepted(submission, asked, patient)
        finally:
            self._lock.release()
        return self._refused_at <= asked

    def is_void(self, number: int, error: ProviderError, address: object = None) -> bool:
        """Whether the refusal of that request says nothing about its texts, as good ones were refused then, too.

        A single broken reply to a good one says nothing about what was refused for its content.
        """
        if isinstance(address, Member) and number <= address.void_until:
            return True
        return number <= (self._refused_at if isinstance(error, InvalidReplyError) else self._rejected_at)

    async def _send_until_accepted(self, submission: Submission, number: int, patient: bool) -> None:
        """Sends the control until it is accepted; raises its last refusal once the pauses are used up.

        Broken replies to it are chance where a request that was sent after that number is accepted beside it.
        """
        pauses, refusals = list(PAUSES), list[ProviderError]()
        while True:
            try:
                await self._send(submission)
                break
            except (BadRequestError, InvalidReplyError) as error:
                refusals.append(error)
                if isinstance(error, InvalidReplyError) and self._requests.admission.accepted > number:
                    break
                # A broken reply is nothing: two in a row were seen by chance.
                if not patient and isinstance(error, BadRequestError):
                    pauses.clear()
                patient = True
                if not pauses:
                    self.stopping.append(error)
                    raise
                await submission.wait(anyio.sleep(pauses.pop(0)))
            except ProviderError as error:
                # Whoever waits for an answer need not ask for it again.
                self.stopping.append(error)
                raise
        if refusals:
            self._refused_at = self._requests.admission.sent
        if len(refusals) > 1 or any(isinstance(error, BadRequestError) for error in refusals):
            self._rejected_at = self._refused_at

    async def _send(self, submission: Submission) -> None:
        tries = Tries(most=inf, most_billed=inf, control=True)
        # Tokens are estimated as OpenAI does it for its limits, by a fourth of the bytes (of the characters here).
        text = self._text or WORD
        try:
            request = Request(self._requests, submission, [text], len(text) / 4, tries, divisible=False, awaited=True)
            reply = await request.send()
        finally:
            if tries.failures:
                self._failed_at = self._requests.admission.sent
        submission.lost_tokens += reply.usage.tokens or 1
