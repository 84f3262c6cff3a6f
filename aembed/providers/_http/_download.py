"""A body that is read a piece at a time, as fast as its reader likes: what has no reader yet stays with the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from aembed.providers._http._body import Body


class Download:
    """The reply to a GET that is no error. `read` until it gives b""."""

    def __init__(
        self, headers: Mapping[str, str], pieces: AsyncIterator[bytes], most_bytes: int, *, framed: bool
    ) -> None:
        """Raises InvalidReplyError for a length above `most_bytes`, or a compression that was not asked for."""
        self._pieces = pieces
        self._ready: list[bytes] = []
        self._body = Body(headers, most_bytes, self._keep, framed=framed)

    async def read(self) -> bytes:
        """The next bytes; none at the end of a body that came whole.

        Raises OSError, errors of httpx and h11, InvalidReplyError, UnavailableError.
        """
        while not self._ready:
            piece = await anext(self._pieces, None)
            if piece is None:
                self._body.finish()
                return b""
            self._body.feed(piece)
        ready, self._ready = self._ready, []
        return b"".join(ready)

    def _keep(self, piece: bytes | memoryview) -> None:
        if piece:
            self._ready.append(bytes(piece))
