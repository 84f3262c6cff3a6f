from __future__ import annotations

import anyio

from aembed.errors import BadRequestError, InvalidReplyError, ProviderError

MOST_REFUSALS = 3


class Guard:
    """While nothing was accepted yet, a refusal may be about the job and not about one text.

    So until then one batch is split at a time, nothing is started beside it, and the third text that is
    refused alone stops the job.
    """

    def __init__(self) -> None:
        self._proven = False
        self._splitting = False
        self._refused_alone = 0
        self._changed = anyio.Event()

    def accepted(self) -> None:
        self._proven = True
        self._notify()

    def stops(self, error: ProviderError) -> bool:
        """Whether this text, refused alone, stops the job."""
        self._refused_alone += isinstance(error, BadRequestError | InvalidReplyError)
        return not self._proven and self._refused_alone >= MOST_REFUSALS

    async def pass_by(self) -> None:
        """Before a batch is sent that is not the one being split."""
        while self._splitting and not self._proven:
            await self._changed.wait()

    async def split(self) -> None:
        await self.pass_by()
        self._splitting = True

    def split_over(self) -> None:
        self._splitting = False
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
