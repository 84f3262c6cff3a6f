"""Stage 7 decides what follows from an error; the class of the error is the verdict (see the tree in errors.py).

Waiting and trying again (rate limits, server and network errors) is tenacity's work in aembed.dispatch; what
comes out of that is judged here. A rate limit comes out only where no request of that size is ever accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from aembed.core.sending import NotSent
from aembed.errors import (
    AembedError,
    BadRequestError,
    InputError,
    InvalidReplyError,
    ProviderError,
    RateLimitError,
    UnavailableError,
)

WAIT_AND_RETRY = (RateLimitError, UnavailableError)
"""Exactly the classes that tenacity tries again."""

# 502 and 504 are HTTP's (RFC 9110); 520 and 524 are Cloudflare's, 598 is used by some proxies for a read timeout.
LOST_ON_THE_WAY = frozenset({502, 504, 520, 524, 598})
"""Statuses of a gateway that had sent the request on, and got no whole reply in time."""


@dataclass(frozen=True, slots=True)
class Resend:
    """Send the same batch once more: its reply was broken, the batch may be good."""


@dataclass(frozen=True, slots=True)
class Split:
    """Send the batch in parts; `offender` is the position of the input that the provider blames, if it names one."""

    offender: int | None = None


@dataclass(frozen=True, slots=True)
class FailItems:
    """These texts fail with that error; the job goes on."""


@dataclass(frozen=True, slots=True)
class FailJob:
    """No further request can succeed."""


Verdict: TypeAlias = Resend | Split | FailItems | FailJob


def verdict(error: AembedError, *, items: int, broken_replies: int) -> Verdict:
    """What to do with a batch of `items` that ended in this error.

    `broken_replies` counts the invalid replies to this very batch, this one included.
    """
    # Law 5: a rejected batch is never sent again unchanged. A broken reply is no rejection, and is asked for once more.
    match error:
        case InvalidReplyError() if broken_replies == 1:
            return Resend()
        case InvalidReplyError(oversized=True):
            return FailJob()
        case RateLimitError() if items > 1:
            return Split()
        case InvalidReplyError() if items > 1:
            return Split()
        case BadRequestError() if items > 1:
            return Split(error.offender)
        case InvalidReplyError() | BadRequestError() | InputError() | UnavailableError():
            return FailItems()
        case _:
            return FailJob()


def may_be_billed(error: BaseException) -> bool:
    """Whether a request that ended in this error may be on the bill.

    A request that never left is not on it, nor one that was refused by its status. A timeout, a connection that broke,
    a reply that cannot be used and a gateway that lost the reply say nothing about what the provider did.
    """
    match error:
        case ProviderError(unsent=True):
            return False
        case ProviderError(status_code=int(status)):
            return status < 300 or status in LOST_ON_THE_WAY
        case ProviderError():
            return isinstance(error, UnavailableError | InvalidReplyError)
        case NotSent():
            return False
        case _:
            return True
