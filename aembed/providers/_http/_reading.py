"""The body of a reply, up to a limit: decompressed and counted."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from aembed.errors import InvalidReplyError

MOST_ERROR_BYTES = 64 * 1024
_RAW_CHUNK_BYTES = 64 * 1024


async def read_body(response: Any, most_bytes: int, take: Callable[[bytes], object] | None) -> bytes:
    """The pieces of a reply that is no error go to `take`, as they come, where there is one; then this is empty."""
    if response.status_code >= 300:
        return await _read_start(response)
    declared = response.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:19]) > most_bytes:
        raise _too_large(most_bytes)
    inflate = _inflater(response.headers.get("content-encoding", ""))
    parts: list[bytes] = []
    take, room = take or parts.append, most_bytes
    async for chunk in response.aiter_raw():
        for part in inflate.pieces(chunk, room + 1) if inflate else (chunk,):
            room -= len(part)
            if room < 0:
                raise _too_large(most_bytes)
            take(part)
    if inflate and not inflate.finished:
        raise InvalidReplyError("the compressed reply was cut short")
    return b"".join(parts)


async def _read_start(response: Any) -> bytes:
    """Of an error only what is needed to tell what it is."""
    encoding = response.headers.get("content-encoding", "")
    inflate = _inflater(encoding) if encoding.strip().lower() in _Inflater.NAMES else None
    body = bytearray()
    with suppress(InvalidReplyError):
        async for chunk in response.aiter_raw():
            for part in inflate.pieces(chunk, MOST_ERROR_BYTES) if inflate else (chunk,):
                body += part[: MOST_ERROR_BYTES - len(body)]
            if len(body) >= MOST_ERROR_BYTES:
                break
    return bytes(body)


def _too_large(most_bytes: int) -> InvalidReplyError:
    return _oversized(f"the reply is larger than {most_bytes:,} bytes, the most that this request can need")


def _oversized(message: str) -> InvalidReplyError:
    error = InvalidReplyError(message)
    error.oversized = True
    return error


def _inflater(encoding: str) -> _Inflater | None:
    """Identity was asked for; one layer of gzip or deflate is read all the same, a nest of them is an attack."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in _Inflater.NAMES:
        raise _oversized(f"the reply is compressed in a way that was not asked for: {encoding[:40]!r}")
    return _Inflater()


class _Inflater:
    """Decompresses without ever holding more than was asked for."""

    NAMES = frozenset({"gzip", "x-gzip", "deflate"})

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)

    @property
    def finished(self) -> bool:
        return self._stream.eof

    def pieces(self, chunk: bytes, room: int) -> Iterator[bytes]:
        """At most `room` bytes of what that chunk says."""
        while chunk and room > 0 and not self._stream.eof:
            try:
                piece = self._stream.decompress(chunk, min(room, _RAW_CHUNK_BYTES))
            except zlib.error:
                raise InvalidReplyError("the compressed reply is broken") from None
            yield piece
            room -= len(piece)
            chunk = self._stream.unconsumed_tail
