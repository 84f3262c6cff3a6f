"""The body of a reply as it comes: counted up to a limit, decompressed, handed on or kept."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from aembed.errors import InvalidReplyError, UnavailableError

_BEGINS_JSON, _BEGINS_GZIP = frozenset(b"{[ \t\r\n\xef"), 0x1F

Take: TypeAlias = Callable[[bytes | memoryview], object]
"""It keeps nothing of the memory that it is given: that is used again for the next bytes."""

# Chosen: an error that repeats some texts still fits. Smaller, its JSON would be cut before the reason; larger, 2,048
# texts of a 422 would be read for nothing.
MOST_ERROR_BYTES = 64 * 1024
# Chosen: a piece is inflated to no more than that at a time, since 558 bytes of gzip in gzip become 100 MB.
_RAW_CHUNK_BYTES = 64 * 1024


class Body:
    """`feed` it what comes until it is `full` or the reply ends; then `finish`."""

    full = False

    def __init__(self, headers: Mapping[str, str], most_bytes: int, take: Take | None, *, framed: bool = True) -> None:
        """The pieces go to `take`, or else to what `finish` gives. Raises InvalidReplyError, as `feed` does.

        `framed`: the reply says where it ends. One that does not ends where the connection does, or breaks.
        """
        declared = headers.get("content-length", "")
        # Nineteen digits hold every length there is; int() refuses more than 4,300 of them with a ValueError.
        if declared.isdecimal() and int(declared[:19]) > most_bytes:
            raise _too_large_error(most_bytes)
        self._inflate = _make_inflater(headers.get("content-encoding", ""))
        self._most = self._room = most_bytes
        self._parts: list[bytes] = []
        self._take = take or self._keep
        self._framed = framed

    def feed(self, data: bytes | memoryview) -> None:
        for part in self._inflate.pieces(data, self._room + 1) if self._inflate else (data,):
            self._room -= len(part)
            if self._room < 0:
                raise _too_large_error(self._most)
            self._take(part)

    def finish(self) -> bytes:
        if self._inflate and not self._inflate.finished:
            if not self._framed:
                raise cut_short()
            raise InvalidReplyError("the compressed reply was cut short")
        return b"".join(self._parts)

    def _keep(self, part: bytes | memoryview) -> None:
        self._parts.append(bytes(part))


class ErrorBody:
    """Of an error only what is needed to tell what it is: 64 KiB, less where it is compressed wrongly."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        encoding = headers.get("content-encoding", "")
        self._inflate = _make_inflater(encoding) if encoding.strip().lower() in _Inflater.NAMES else None
        self._start = bytearray()
        self.full = False

    def feed(self, data: bytes | memoryview) -> None:
        try:
            for part in self._inflate.pieces(data, MOST_ERROR_BYTES) if self._inflate else (data,):
                self._start += part[: MOST_ERROR_BYTES - len(self._start)]
        except InvalidReplyError:
            self.full = True
        self.full |= len(self._start) >= MOST_ERROR_BYTES

    def finish(self) -> bytes:
        return bytes(self._start)


def body_of(
    status: int, headers: Mapping[str, str], most_bytes: int, take: Take | None, *, framed: bool
) -> Body | ErrorBody:
    return ErrorBody(headers) if status >= 300 else Body(headers, most_bytes, take, framed=framed)


def is_framed(status: int, headers: Mapping[str, str]) -> bool:
    """RFC 9112, section 6.3: a 204 ends with its headers. Names are in lower case."""
    return status == 204 or "content-length" in headers or "transfer-encoding" in headers


def cut_short() -> UnavailableError:
    """A reply that ends where its connection does, and before it is whole."""
    return UnavailableError("the connection broke within a reply that does not say how long it is")


def _too_large_error(most_bytes: int) -> InvalidReplyError:
    return _oversized_error(f"the reply is larger than {most_bytes:,} bytes, the most that this request can need")


def _oversized_error(message: str) -> InvalidReplyError:
    error = InvalidReplyError(message)
    error.oversized = True
    return error


def _make_inflater(encoding: str) -> _Inflater | None:
    """Identity was asked for; one layer of gzip or deflate is read all the same, a nest of them is an attack."""
    names = [name for part in encoding.lower().split(",") if (name := part.strip()) not in _NO_COMPRESSION]
    if not names:
        return None
    if len(names) > 1 or names[0] not in _Inflater.NAMES:
        raise _oversized_error(f"the reply is compressed in a way that was not asked for: {encoding[:40]!r}")
    return _Inflater()


# Charsets and the like are written there by mistake.
_NO_COMPRESSION = frozenset({"", "identity", "none", "utf-8", "utf8", "binary", "8bit", "chunked", "aws-chunked"})


class _Inflater:
    """Decompresses without ever holding more than was asked for.

    A proxy that has decompressed a reply may leave the header as it was: what begins as JSON does is passed on.
    """

    NAMES = frozenset({"gzip", "x-gzip", "deflate"})

    def __init__(self) -> None:
        # With 32 added zlib finds out by itself whether it is gzip's form or zlib's, which is meant by deflate.
        self._stream = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._is_begun = self._is_plain = False

    @property
    def finished(self) -> bool:
        return self._is_plain or self._stream.eof

    def _begin(self, first: int) -> None:
        self._is_begun, self._is_plain = True, first in _BEGINS_JSON
        if first != _BEGINS_GZIP and first & 0x0F != zlib.DEFLATED and not self._is_plain:
            self._stream = zlib.decompressobj(-zlib.MAX_WBITS)  # deflate without zlib's header, as IIS writes it

    def pieces(self, chunk: bytes | memoryview, room: int) -> Iterator[bytes | memoryview]:
        """At most `room` bytes of what that chunk says."""
        if chunk and not self._is_begun:
            self._begin(chunk[0])
        if self._is_plain:
            yield chunk[:room]
            return
        while chunk and room > 0 and not self._stream.eof:
            try:
                piece = self._stream.decompress(chunk, min(room, _RAW_CHUNK_BYTES))
            except zlib.error:
                raise InvalidReplyError("the compressed reply is broken") from None
            yield piece
            room -= len(piece)
            chunk = self._stream.unconsumed_tail
