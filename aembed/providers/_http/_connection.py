"""One HTTP/1.1 connection on asyncio's own transport, with the least work for each byte of a large reply."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

import h11

from aembed.providers._http._arriving import MOST_HEAD_BYTES, Arriving
from aembed.providers._http._message import Exchange

READ_BYTES = 256 * 1024
"""Received at once at the most."""


class HandshakeError(ConnectionError):
    """The server is there, and TLS with it failed. Its cause says more."""


class Connection(asyncio.BufferedProtocol):
    """One request at a time. `usable` tells whether another one may follow."""

    def __init__(self) -> None:
        self.usable = True
        self.rests_since = 0.0
        self._memory = memoryview(bytearray(READ_BYTES))
        self._transport: asyncio.Transport | None = None
        self._arriving: Arriving | None = None

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
        self._transport = transport

    @property
    def arriving(self) -> Arriving:
        """The reply to what was asked."""
        assert self._arriving is not None
        return self._arriving

    async def ask(self, head: h11.Request, content: bytes, exchange: Exchange) -> None:
        """Sends that and waits for the head of the reply; when its body has been read, `finish`.

        Raises OSError or h11's ProtocolError; then the connection is not `usable`.
        """
        assert self._transport is not None
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD_BYTES)
        events = (head, h11.Data(data=content), h11.EndOfMessage())
        self._arriving = arriving = Arriving(http, self._transport)
        try:
            self._transport.writelines([http.send(event) or b"" for event in events])
            exchange.sent = True
            await arriving.head
        except BaseException:
            exchange.answered |= arriving.began
            self._arriving = None
            self.abort()
            raise
        exchange.answered = True

    def finish(self) -> None:
        """Nobody reads any more of the reply."""
        arriving, self._arriving = self._arriving, None
        assert arriving is not None
        assert self._transport is not None
        # What the server did not wait for is still on its way out.
        self.usable &= arriving.ended and arriving.keeps_alive and not self._transport.get_write_buffer_size()
        if self.usable:
            arriving.resume()
        else:
            self.abort()

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
        self._received(self._memory[:nbytes])

    def eof_received(self) -> None:
        self.usable = False
        self._received(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._arriving:
            if exc is None:
                self._arriving.feed(b"")  # uvloop tells no other end of TLS, where the server does not announce it
            self._arriving.fail(exc or ConnectionResetError("the connection was closed"))

    def _received(self, data: bytes | memoryview) -> None:
        """Bytes, or none at their end. A connection that rests has nothing to say but that it is over."""
        if self._arriving is None:
            self.abort()
        else:
            self._arriving.feed(data)
