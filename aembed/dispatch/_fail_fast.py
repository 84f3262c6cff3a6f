"""This module keeps refusals from being laid to texts while the account or the server may be to blame."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aembed.core.learned_limits import names_a_limit
from aembed.core.vectors import DimensionError
from aembed.dispatch._notice import Notice
from aembed.errors import BadRequestError, InvalidReplyError, ProviderError

# Chosen: one or two texts of a job may be bad by chance. Larger, a wrong account would be asked for longer, and each
# answer may be billed; smaller, two bad texts in a row would cost a control.
MOST_REFUSALS = 3
"""After so many refusals with nothing accepted between them, the texts are not blamed any more."""
# 413 is HTTP's "content too large"; servers and gateways use 429 for requests that are larger than a minute's limit.
OF_THEIR_SIZE = frozenset({413, 429})
"""Statuses of requests that are refused for their size, whatever the reply says."""


@dataclass(eq=False, repr=False)
class FailFast:
    """A refusal may be about the account or the server, and not about one text.

    While nothing was accepted yet, one batch is split at a time, nothing is started beside it, and the third text that
    is refused alone raises a doubt. Later, three refusals with nothing accepted between them do. While there is a
    doubt, nothing is sent until somebody, `vouch`, has seen a good text accepted. `proven` says that something was
    accepted. Where that was sent before the first refusal came, one batch at a time is split all the same.
    """

    proven: bool = False
    _splitting: object = None
    _vouching: bool = False
    _refused: list[int] = field(default_factory=list)
    """The numbers of the requests whose refusals count."""
    _sent_at_first_refusal: int | None = None
    """How many requests had been sent when the first refusal came; None once a later one was accepted."""
    refusal: ProviderError | None = None
    """The last refusal."""
    changed: Notice = field(default_factory=Notice)
    """Told when it may be the turn of another batch."""

    @property
    def is_doubting(self) -> bool:
        return len(self._refused) >= MOST_REFUSALS

    @property
    def splits_alone(self) -> bool:
        """Whether nothing is started beside a batch that is split."""
        return not self.proven or self._sent_at_first_refusal is not None

    def note_accepted(self, number: int) -> None:
        """The request of that number was accepted.

        It clears the account, unless it was sent before all that was refused since: an account that runs dry still
        answers what it took before.
        """
        if self._refused or self.splits_alone:
            self.proven = True
            if self._sent_at_first_refusal is not None and number > self._sent_at_first_refusal:
                self._sent_at_first_refusal = None
            if number > min(self._refused, default=0):
                self._refused.clear()
            self.refusal = self.refusal if self._refused else None
            self.changed.tell()

    def note_refusal(self, error: ProviderError, *, texts: int, number: int, sent: int) -> None:
        """The request of that number was refused, which had so many texts, when so many had been sent.

        A refusal that says which text it refuses, or how large one may be, is about the texts.

        Vectors that are all of another width are about the server, and a doubt at once.
        """
        self.refusal = error
        # Another width cannot come from a text, so the control is asked at once, before more of the job is paid for.
        if isinstance(error, DimensionError) and error.wanted:
            self._refused = [number] * MOST_REFUSALS
        elif _is_of_content(error) and not (isinstance(error, BadRequestError) and names_a_limit(error)):
            names_a_text = isinstance(error, BadRequestError) and error.offender is not None
            counts = not names_a_text if self.proven else texts == 1
            self._refused += [number] * counts
            if not (self.proven or names_a_text or self._sent_at_first_refusal is not None):
                self._sent_at_first_refusal = sent

    def takes_turn(self, batch: object, *, doubted: bool) -> bool:
        """Whether it is the turn of a batch, before each request. A batch in doubt has its turn until it leaves."""
        if self._vouching or (self.splits_alone and self._splitting not in (None, batch)):
            return False
        if doubted:
            self._splitting = batch
        return True

    @asynccontextmanager
    async def vouch(self) -> AsyncIterator[None]:
        self._vouching = True
        try:
            yield
        finally:
            self._vouching = False
            self.changed.tell()

    def leave(self, batch: object) -> None:
        if self._splitting is batch:
            self._splitting = None
            self.changed.tell()


def _is_of_content(error: ProviderError) -> bool:
    return isinstance(error, BadRequestError | InvalidReplyError) and error.status_code not in OF_THEIR_SIZE
