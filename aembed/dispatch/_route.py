"""This module is the way of one request through a pool: which addresses it leaves alone, and what their words mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from aembed.core.retrying import FailJob, verdict
from aembed.dispatch._admission import Admission, Permit
from aembed.dispatch._member import Member
from aembed.errors import BadRequestError, InvalidReplyError, ProviderError

PROBE_TOKENS = 1.0
"""What the text costs that asks an address whether it is back."""


class Asks(Protocol):
    """Asks an address that is away whether it is back, beside the work."""

    @property
    def is_possible(self) -> bool: ...
    def start(self, permit: Permit) -> None: ...


@dataclass(slots=True, eq=False)
class Route:
    """Where one request goes next. Those that are away are left to the `probe`, if it is possible."""

    probe: Asks | None = None
    not_before: dict[Member, float] = field(default_factory=dict)
    """Until when it leaves addresses alone that have failed it."""
    refused_by: dict[Member, ProviderError] = field(default_factory=dict)
    """Those that refused it without a reason, and how."""
    failed_at: list[Admission] = field(default_factory=list)
    """Those that failed it, or another part of its batch."""

    def avoids(self, member: Member, members: Sequence[Member]) -> bool:
        """Whether others are asked before that one: what an address does is not laid to the text while there are any.

        One that refuses it says more than one that fails, if it is known to accept others.
        """
        rank = self._rank(member)
        return rank > 0 and any(each.is_there and self._rank(each) < rank for each in members)

    def most_telling(self, permit: Permit, error: BaseException) -> BaseException:
        """What is said of the request in the end: an address that has accepted nothing goes by what others said."""
        is_refusal = isinstance(error, BadRequestError | InvalidReplyError)
        if permit.admission.pacer.accepted_requests or not is_refusal:
            return error
        return next((said for member, said in self.refused_by.items() if member.has_accepted), error)

    def _rank(self, member: Member) -> int:
        if member in self.refused_by:
            return 1 if member.has_accepted else 4
        if member in self.failed_at:
            return 3 if member.failed_in_a_row > 1 else 2
        return 0


def is_of_address(error: ProviderError) -> bool:
    """Whether no request can succeed there: its key, its quota, its model. A firewall's page may be about a text."""
    of_firewall = error.body.lstrip().startswith("<")
    return isinstance(verdict(error, items=1, broken_replies=2), FailJob) and not of_firewall


def says_why(error: ProviderError) -> bool:
    """Whether the refusal names the text, or how much a request may hold."""
    named = ("offender", "max_batch_size", "max_tokens_per_batch", "max_tokens")
    return any(getattr(error, name, None) is not None for name in named)
