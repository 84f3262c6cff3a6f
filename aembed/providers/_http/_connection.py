"""One HTTP/1.1 connection on asyncio's own transport, with the least work for each byte of a large reply.

h11 reads every head, and the bodies that have no length. The bytes of a body that has one do not go through it: they
are handed on from the very memory that the socket was read into.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

import h11

from aembed.providers._http._body import Body, ErrorBody
from aembed.providers._http._message import Exchange, HTTPReply

READ_BYTES = 256 * 1024
"""Received at once at the most."""
MOST_HEAD_BYTES = 64 * 1024


class Connection(asyncio.BufferedProtocol):
    """One request at a time. `usable` tells whether another one may follow."""

    def __init__(self) -> None:
        self.usable = True
        self.rests_since = 0.0
        self._memory = memoryview(bytearray(READ_BYTES))
        self._transport: asyncio.Transport | None = None
        self._arriving: _Arriving | None = None

    async def start_tls(self, tls: ssl.SSLContext, host: str) -> None:
        """`host` is whom the certificate must name. Raises OSError; then the connection is closed."""
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        try:
            transport = await loop.start_tls(self._transport, self, tls, server_hostname=host)
        except BaseException:
            self.abort()
            raise
        if transport is None:
            raise ConnectionResetError("the connection was closed as TLS began")
        self._transport = transport

    async def exchange(self, request: h11.Request, exchange: Exchange) -> HTTPReply:
        """Raises OSError, h11's ProtocolError, or what the body raises; then the connection is not `usable`."""
        assert self._transport is not None
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD_BYTES)
        events = (request, h11.Data(data=exchange.content), h11.EndOfMessage())
        self._arriving = arriving = _Arriving(http, exchange)
        try:
            self._transport.writelines([http.send(event) or b"" for event in events])
            exchange.sent = True
            reply = await arriving.reply
        except BaseException:
            self.abort()
            raise
        finally:
            self._arriving = None
        # What the server did not wait for is still on its way out.
        self.usable &= arriving.keeps_alive and not self._transport.get_write_buffer_size()
        return reply

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
            self._arriving.fail(exc or ConnectionResetError("the connection was closed"))

    def _received(self, data: bytes | memoryview) -> None:
        """Bytes, or none at their end. A connection that rests has nothing to say but that it is over."""
        if self._arriving is None:
            self.abort()
        else:
            self._arriving.feed(data)


class _Arriving:
    """The reply to one request."""

    def __init__(self, http: h11.Connection, exchange: Exchange) -> None:
        self.reply: asyncio.Future[HTTPReply] = asyncio.get_running_loop().create_future()
        self.keeps_alive = False
        self._http = http
        self._exchange = exchange
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body: Body | ErrorBody | None = None
        self._missing: int | None = None
        """Bytes of a body whose length is known."""

    def feed(self, data: bytes | memoryview) -> None:
        try:
            if self.reply.done():
                self.keeps_alive = False
            elif self._missing is None:
                self._http.receive_data(bytes(data))
                self._follow()
            elif data:
                self._read(data)
            else:
                raise ConnectionResetError("the connection was closed within a reply")
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(error)

    def _follow(self) -> None:
        """What h11 makes of what came. Raises its RemoteProtocolError."""
        while not self.reply.done() and self._missing is None:
            match self._http.next_event():
                case h11.Response() as response:
                    self._begin(response)
                case h11.Data(data=data) if self._body:
                    self._body.feed(data)
                    self._end_if(self._body.full)
                case h11.EndOfMessage():
                    self.keeps_alive = self._http.our_state is h11.DONE and self._http.trailing_data == (b"", False)
                    self._end_if(True)
                case h11.InformationalResponse():
                    pass
                case _:
                    return

    def _begin(self, response: h11.Response) -> None:
        self._status = response.status_code
        self._headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
        self._body = self._exchange.body_of(self._status, self._headers)
        if self._has_length:
            self._missing = int(self._headers["content-length"])
            self._read(self._http.trailing_data[0])

    @property
    def _has_length(self) -> bool:
        """RFC 9112, section 6.3."""
        headers = self._headers
        return "content-length" in headers and "transfer-encoding" not in headers and self._status not in (204, 304)

    def _read(self, data: bytes | memoryview) -> None:
        """Some of a body whose length is known."""
        assert self._body is not None
        assert self._missing is not None
        self._body.feed(data[: self._missing])
        self._missing -= len(data)
        self.keeps_alive = self._missing == 0 and self._http.our_state is h11.DONE
        self._end_if(self._missing <= 0 or self._body.full)

    def _end_if(self, ended: bool) -> None:
        if ended and self._body:
            self.reply.set_result(HTTPReply(self._status, self._headers, self._body.finish()))
