from __future__ import annotations

import anyio

from aembed.errors import BadRequestError, InvalidReplyError, ProviderError

MOST_REFUSALS = 3
MOST_BROKEN_IN_A_ROW = 10
"""Texts that alone get broken replies, with no right reply to anything between: it is not the texts."""


class Guard:
    """While nothing was accepted yet, a refusal may be about the job and not about one text.

    So until then one batch is split at a time, nothing is started beside it, and the third text that is
    refused alone stops the job. `proven`: something was accepted.
    """

    def __init__(self) -> None:
        self.proven = False
        self._splitting: object = None
        self._refused_alone = 0
        self._broken_in_a_row = 0
        self._changed = anyio.Event()

    def accepted(self) -> None:
        self._broken_in_a_row = 0
        if not self.proven:
            self.proven = True
            self._notify()

    def stops(self, error: ProviderError) -> bool:
        """Whether this text, refused alone, stops the job."""
        self._refused_alone += isinstance(error, BadRequestError | InvalidReplyError) and not _is_too_large(error)
        self._broken_in_a_row += isinstance(error, InvalidReplyError)
        unproven = not self.proven and self._refused_alone >= MOST_REFUSALS
        return unproven or self._broken_in_a_row >= MOST_BROKEN_IN_A_ROW

    async def turn(self, batch: object, *, doubted: bool) -> None:
        """Before each request. One batch in doubt has its turn until it `leave`s."""
        while not self.proven and self._splitting not in (None, batch):
            await self._changed.wait()
        if doubted:
            self._splitting = batch

    def leave(self, batch: object) -> None:
        if self._splitting is batch:
            self._splitting = None
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _is_too_large(error: ProviderError) -> bool:
    """The refusal names a limit of tokens that this text is above: it is about the text, and not about the job."""
    return isinstance(error, BadRequestError) and bool(error.max_tokens_per_batch or error.max_tokens)
