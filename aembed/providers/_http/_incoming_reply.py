"""The reply to one request over a connection of our own, from its first byte on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

import h11

# Chosen: a short reply is there whole before anybody reads it. Larger, a reader that is slow costs so much more memory
# for each connection.
MOST_KEPT_BYTES = 1024 * 1024
"""Of a body that nobody reads yet; then the server has to wait."""
# Chosen: h11 takes 16 KiB by default, and gateways add cookies and policies of their own. Without a bound, headers that
# never end would fill the memory.
MOST_HEAD_BYTES = 64 * 1024


# RFC 8446, section 5.1: a record of type 21, an alert, and the 3 with which each version of TLS begins.
_TLS_ALERT = b"\x15\x03"


class SpeaksTLSError(ConnectionError):
    """A server that was asked in plain http answered in TLS."""


class BodySink(Protocol):
    """Takes a body as it comes, until it is `full`. It keeps nothing of the memory that it is given."""

    full: bool

    def feed(self, data: bytes | memoryview) -> None: ...


class IncomingReply:
    """`head` is done when the status and headers are there; then the body is `read`, or iterated over.

    h11 reads the head, and a body that has no length. The bytes of a body that has one do not go through it: they are
    handed on from the very memory that the socket was read into.
    """

    def __init__(self, http: h11.Connection, transport: asyncio.Transport) -> None:
        self.head: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.began = self.ended = self.keeps_alive = False
        self._http = http
        self._transport = transport
        self._missing: int | None = None
        """Bytes of a body whose length is known."""
        self._sink: BodySink | None = None
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._paused = False
        self._error: Exception | None = None
        self._changed: asyncio.Future[None] | None = None

    # the connection's side

    def feed(self, data: bytes | memoryview) -> None:
        """Bytes, or none at their end."""
        try:
            if not self.began and data[:2] == _TLS_ALERT:
                raise SpeaksTLSError
            self.began |= bool(data)
            if self.ended:
                self.keeps_alive = False
            elif self._missing is None:
                head, rest = (data, b"") if self.status else _split(data)
                self._http.receive_data(bytes(head))
                self._follow()
                if rest:
                    self.feed(rest)
            elif data:
                self._take(data)
            else:
                raise ConnectionResetError("the connection was closed within a reply")
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        if not self.ended and self._error is None:
            self._error = error
            self._tell()

    def _follow(self) -> None:
        """What h11 makes of what came. Raises its RemoteProtocolError."""
        while not self.ended and self._missing is None:
            match self._http.next_event():
                case h11.Response() as response:
                    self.status, self.headers = response.status_code, list(response.headers)
                    named = dict(self.headers)
                    # RFC 9112, section 6.3.
                    if (
                        b"content-length" in named
                        and b"transfer-encoding" not in named
                        and self.status not in (204, 304)
                    ):
                        self._missing = int(named[b"content-length"])
                        # There is none, but where the end of the head came in two pieces.
                        self._take(self._http.trailing_data[0])
                    self._tell()
                case h11.Data(data=data):
                    self._pass_on(data)
                case h11.EndOfMessage():
                    self.keeps_alive = self._http.our_state is h11.DONE and self._http.trailing_data == (b"", False)
                    self._end()
                case h11.InformationalResponse():
                    pass
                case _:
                    return

    def _take(self, data: bytes | memoryview) -> None:
        """Some of a body whose length is known."""
        assert self._missing is not None
        self._pass_on(data[: self._missing])
        self._missing -= len(data)
        self.keeps_alive = self._missing == 0 and self._http.our_state is h11.DONE
        if self._missing <= 0:
            self._end()

    def _pass_on(self, data: bytes | memoryview) -> None:
        if self._sink is None:
            self._kept.append(bytes(data))
            self._kept_bytes += len(data)
            if self._kept_bytes > MOST_KEPT_BYTES:
                self._transport.pause_reading()
                self._paused = True
            self._tell()
        else:
            if not self._sink.full:
                self._sink.feed(data)
            if self._is_over:
                self._tell()

    def _end(self) -> None:
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        """Whoever waits looks again."""
        if not self.head.done():
            if self._error is not None:
                self.head.set_exception(self._error)
            elif self.status:
                self.head.set_result(None)
        if self._changed and not self._changed.done() and (self._sink is None or self._is_over):
            self._changed.set_result(None)

    # the reader's side

    @property
    def _is_over(self) -> bool:
        return self.ended or self._error is not None or (self._sink is not None and self._sink.full)

    async def read(self, sink: BodySink) -> None:
        """The body, as much as the sink takes. Raises OSError, h11's ProtocolError, or what the sink raises."""
        for part in self._take_pieces():
            if not sink.full:
                sink.feed(part)
        self._sink = sink
        while not self._is_over:
            await self._change()
        if self._error is not None:
            raise self._error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """For all who read a reply as httpx does: an event hook, a client's auth, an instrumentation."""
        while True:
            for part in self._take_pieces():
                yield part
            if self._error is not None:
                raise self._error
            if self.ended and not self._kept:
                return
            if not self._kept:
                await self._change()

    def _take_pieces(self) -> list[bytes]:
        parts, self._kept, self._kept_bytes = self._kept, [], 0
        return parts

    async def _change(self) -> None:
        self.resume()
        self._changed = asyncio.get_running_loop().create_future()
        await self._changed

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()


def _split(data: bytes | memoryview) -> tuple[bytes, bytes | memoryview]:
    """A head, and what follows it: h11 copies what it is given, which need not be the start of a large body."""
    start = bytes(data[:MOST_HEAD_BYTES])
    end = start.find(b"\r\n\r\n") + 4
    return (start[:end], data[end:]) if end >= 4 else (start, data[len(start) :])
