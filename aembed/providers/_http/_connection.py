"""One HTTP/1.1 connection on asyncio's own transport, with the least work for each byte of a large reply."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from math import inf
from typing import cast

import h11

from aembed.providers._http._connection_limit import Caller
from aembed.providers._http._incoming_reply import MOST_HEAD_BYTES, IncomingReply
from aembed.providers._http._message import Exchange
from aembed.providers._http._upload import Upload

# Chosen: larger, more requests would go out on connections that the server closes at that moment; smaller, a job with
# slow replies would make TLS anew for each request.
KEEPALIVE_SECONDS = 30.0
# Chosen: four times the 64 KiB that anyio reads at once for httpcore, where the work for each read was 22 % of a run
# under TLS. The memory is there once for each connection.
READ_BYTES = 256 * 1024
"""Received at once at the most."""
_PARAMETER = re.compile(rb"\b(timeout|max)\s?=\s?(\d{1,6})\b", re.IGNORECASE)


class HandshakeError(ConnectionError):
    """The server is there, and TLS with it failed. Its cause says more."""


class Connection(asyncio.BufferedProtocol):
    """One request at a time. `usable` tells whether another one may follow."""

    def __init__(self) -> None:
        self.usable = True
        self.caller = Caller()
        self.when_lost: Callable[[], None] | None = None
        self._rests_until = 0.0
        self._rest_seconds = KEEPALIVE_SECONDS
        self._left: float = inf
        """How many requests more the server will take."""
        self._memory = memoryview(bytearray(READ_BYTES))
        self._transport: asyncio.Transport | None = None
        self._arriving: IncomingReply | None = None
        self._drained: asyncio.Future[None] | None = None
        """There while the server reads more slowly than we send."""

    async def start_tls(self, tls: ssl.SSLContext, host: str) -> None:
        """`host` is whom the certificate must name. Raises HandshakeError; then the connection is closed."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        transport = None
        try:
            transport = await loop.start_tls(self._transport, self, tls, server_hostname=host)
        except OSError as error:
            raise HandshakeError from error
        finally:
            if transport is None:
                self.abort()
        if transport is None:
            raise HandshakeError("the connection was closed as TLS began")
        # The new transport takes over only now: after an error above, `abort` still has the one that is open.
        self._transport = transport

    @property
    def arriving(self) -> IncomingReply:
        """The reply to what was asked."""
        assert self._arriving is not None
        return self._arriving

    async def ask(self, head: h11.Request, content: bytes | Upload, exchange: Exchange) -> None:
        """Sends that and waits for the head of the reply; when its body has been read, `finish`.

        Raises OSError or h11's ProtocolError; then the connection is not `usable`.
        """
        assert self._transport is not None
        if not self.usable or self._transport.is_closing():
            # uvloop raises RuntimeError for what is written now, where asyncio's transport drops it.
            raise ConnectionResetError("the connection was closed")
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD_BYTES)
        self._arriving = arriving = IncomingReply(http, self._transport)
        try:
            if isinstance(content, bytes):
                events = (head, h11.Data(data=content), h11.EndOfMessage())
                self._transport.writelines([http.send(event) or b"" for event in events])
                exchange.sent = True
            else:
                await self._send_pieces(http, head, content, exchange)
            await arriving.head
        except BaseException:
            exchange.answered |= arriving.began
            self._arriving = None
            self.abort()
            raise
        exchange.answered = True

    async def _send_pieces(self, http: h11.Connection, head: h11.Request, upload: Upload, exchange: Exchange) -> None:
        """As fast as the server reads; ends early where that has answered already, as a refusal does."""
        assert self._transport is not None
        arriving = self.arriving
        self._transport.write(http.send(head) or b"")
        exchange.sent = True
        async for piece in upload:
            if arriving.head.done() or self._transport.is_closing():
                return
            self._transport.write(http.send(h11.Data(data=piece)) or b"")
            if self._drained is not None:
                await asyncio.wait([self._drained, arriving.head], return_when=asyncio.FIRST_COMPLETED)
        # Its size was told, so that the end of the body is no bytes.
        http.send(h11.EndOfMessage())

    def finish(self) -> bool:
        """Nobody reads any more of the reply. Returns whether it had come to its end."""
        arriving, self._arriving = self._arriving, None
        assert arriving is not None
        assert self._transport is not None
        # What the server did not wait for is still on its way out.
        self.usable &= arriving.ended and arriving.keeps_alive and not self._transport.get_write_buffer_size()
        if self.usable:
            arriving.resume()
            # `Keep-Alive: timeout=5, max=100`: how long a server keeps a resting connection, and what it takes more.
            self._left -= 1
            for name, value in arriving.headers:
                if name == b"keep-alive":
                    said = {name.lower(): int(number) for name, number in _PARAMETER.findall(value)}
                    self._left = min(self._left, said.get(b"max", inf))
                    seconds = float(said.get(b"timeout", self._rest_seconds))
                    # It counts from when it has sent the reply, we from when we have read it.
                    self._rest_seconds = min(KEEPALIVE_SECONDS, seconds - min(1.0, 0.5 * seconds))
            self.usable &= self._left > 0 and self._rest_seconds > 0
        else:
            self.abort()
        return arriving.ended

    def keep_for_reuse(self, now: float) -> None:
        self._rests_until = now + self._rest_seconds

    def may_rest(self, now: float) -> bool:
        """Whether it still may be used for a request."""
        return self.usable and now < self._rests_until

    def abort(self) -> None:
        self.usable = False
        if self._transport:
            self._transport.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Of uvloop it has the methods, and not the class.
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._memory

    def buffer_updated(self, nbytes: int) -> None:
        self._take_data(self._memory[:nbytes])

    def eof_received(self) -> None:
        self.usable = False
        self._take_data(b"")

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained and not drained.done():
            drained.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._arriving:
            if exc is None:
                self._arriving.feed(b"")  # uvloop tells no other end of TLS, where the server does not announce it
            self._arriving.fail(exc or ConnectionResetError("the connection was closed"))
        if self.when_lost:
            self.when_lost()

    def _take_data(self, data: bytes | memoryview) -> None:
        """Bytes, or none at their end. A connection that rests has nothing to say but that it is over."""
        if self._arriving is None:
            self.abort()
        else:
            self._arriving.feed(data)
