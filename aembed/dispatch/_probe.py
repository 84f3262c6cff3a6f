"""This module asks an address of a pool that is away whether it is back: by one short text, beside the work.

The work goes on at the other addresses meanwhile. A request of its own would be held up where the address hangs, and
would be bought once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from aembed.core.gate import pause_seconds
from aembed.dispatch._admission import Permit
from aembed.dispatch._member import Member
from aembed.dispatch._requests import Requests
from aembed.dispatch._route import PROBE_TOKENS, is_of_address
from aembed.dispatch._sending import WORD, send_promptly
from aembed.dispatch._submission import Submission
from aembed.errors import AembedError, ProviderError, RateLimitError, UnavailableError
from aembed.types import Reply

# Chosen: as the usual first wait of a request; the gate makes it longer from probe to probe.
FIRST_PAUSE = 1.0
"""After a probe that failed the next one comes in so many seconds at least, or as the server asks."""


@dataclass(eq=False, repr=False)
class Probe:
    """Asks for a submission, which pays for it, and counts it as lost."""

    _requests: Requests
    _submission: Submission

    @property
    def is_possible(self) -> bool:
        """Whether anything can be asked: not where the budget has nothing left."""
        return self._submission.may_probe

    def start(self, permit: Permit) -> None:
        self._requests.start_probe(self._run(permit))

    async def _run(self, permit: Permit) -> None:
        """One try. What follows is told to the address, and to nobody else."""
        member, submission = permit.admission, self._submission
        assert isinstance(member, Member)
        # A job may have ended before the answer comes, so it counts from the first.
        submission.lost_tokens += ceil(PROBE_TOKENS)
        try:
            reply = await self._send(member)
        except (RateLimitError, UnavailableError) as error:
            closes = member.note_throttled(permit, error).closes
            hint = error.hints.retry_after if error.hints else None
            wait = pause_seconds(FIRST_PAUSE, hint, self._requests.random)
            member.note_failure(permit, error, wait=wait, hinted=hint is not None, closes=closes)
        except ProviderError as error:
            member.note_throttled(permit, error)
            if is_of_address(error):
                member.put_out(error, permit.gate_pass)
        except AembedError as error:
            # The budget has nothing left, its store is away, or it is another model: a request of work says so.
            submission.may_probe = False
            member.note_throttled(permit, error)
        except BaseException as error:
            member.note_throttled(permit, error)
            raise
        else:
            member.note_success(permit, reply.hints)
            submission.lost_tokens += reply.usage.tokens or 1
        finally:
            submission.lost_tokens -= ceil(PROBE_TOKENS)

    async def _send(self, member: Member) -> Reply:
        submission, telling = self._submission, self._requests.tell_of(self._submission, 1, PROBE_TOKENS)
        try:
            return await send_promptly(
                self._requests, submission, [WORD], PROBE_TOKENS, member, urgent=True, telling=telling
            )
        except BaseException as error:
            if telling:
                telling.ended(error)
            raise
