"""The body of a reply, up to a limit: decompressed, counted, in one piece."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from aembed.errors import InvalidReplyError

MOST_ERROR_BYTES = 64 * 1024
_RAW_CHUNK_BYTES = 64 * 1024


async def read_body(response: Any, most_bytes: int) -> bytes | bytearray:
    if response.status_code >= 300:
        return await _read_start(response)
    declared = _declared_bytes(response)
    if declared is not None and declared > most_bytes:
        raise _too_large(most_bytes)
    inflate = _inflater(response.headers.get("content-encoding", ""))
    if inflate or declared is None or "transfer-encoding" in response.headers:
        return await _read_growing(response, most_bytes, inflate)
    return await _read_declared(response, declared)


def _declared_bytes(response: Any) -> int | None:
    declared = response.headers.get("content-length", "")
    return int(declared[:19]) if declared.isdecimal() else None


async def _read_declared(response: Any, size: int) -> bytearray:
    """A large reply in one piece, without a second copy of it."""
    body, at = bytearray(size), 0
    with memoryview(body) as room:
        async for chunk in response.aiter_raw():
            end = at + len(chunk)
            if end > size:
                break
            room[at:end] = chunk
            at = end
    if at != size:
        raise InvalidReplyError("the reply is not as long as it says")
    return body


async def _read_growing(response: Any, most_bytes: int, inflate: _Inflater | None) -> bytes:
    parts, room = [], most_bytes
    async for chunk in response.aiter_raw():
        for part in inflate.pieces(chunk, room + 1) if inflate else (chunk,):
            room -= len(part)
            if room < 0:
                raise _too_large(most_bytes)
            parts.append(part)
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
