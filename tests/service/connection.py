"""One HTTP/1.1 connection of the simulated service, as cheap as Python allows: keep-alive, Content-Length, one request
at a time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

_MAX_HEAD_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Head:
    """The start of a request. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]

    @classmethod
    def parse(cls, raw: bytes) -> Head:
        first, *lines = raw.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        return cls(method, path, {name.lower(): value.strip() for name, _, value in pairs})

    @property
    def body_bytes(self) -> int:
        return int(self.headers.get("content-length", 0))

    @property
    def keeps_alive(self) -> bool:
        return self.headers.get("connection", "").lower() != "close"


class Connection(asyncio.Protocol):
    """`on_request` gets each full request and ends it with `finish`; `on_gone` is told when the client left."""

    def __init__(
        self,
        on_request: Callable[[Connection, Head, bytes], None],
        on_gone: Callable[[Connection], None],
    ) -> None:
        self._on_request = on_request
        self._on_gone = on_gone
        self.is_made = False
        """Under TLS that is once the client has trusted the certificate."""
        self._buffer = bytearray()
        self._head: Head | None = None
        self._busy = False
        self._drained: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # of uvloop it has the methods, and not the class
        self.is_made = True
        # Written means in the kernel's hands: only then has the reply left. (At high=0 asyncio's TLS never resumes.)
        transport.set_write_buffer_limits(high=1, low=0)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._advance()

    def eof_received(self) -> None:
        self._on_gone(self)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_gone(self)
        if self._drained and not self._drained.done():
            self._drained.set_exception(ConnectionResetError("the client is gone"))

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._drained and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def _advance(self) -> None:
        if self._head is None:
            self._read_head()
        if self._head and len(self._buffer) >= (size := self._head.body_bytes):
            body, head = bytes(self._buffer[:size]), self._head
            del self._buffer[:size]
            self._busy, self._head = True, None
            self._on_request(self, head, body)

    def _read_head(self) -> None:
        end = self._buffer.find(b"\r\n\r\n", 0, _MAX_HEAD_BYTES)
        if end >= 0:
            self._head = self._parsed(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
        elif len(self._buffer) > _MAX_HEAD_BYTES:
            self.close()

    def _parsed(self, raw: bytes) -> Head | None:
        with contextlib.suppress(ValueError):
            head = Head.parse(raw)
            if head.body_bytes >= 0 and "transfer-encoding" not in head.headers:
                return head
        self.transport.write(b"HTTP/1.1 411 Length Required\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.close()
        return None

    async def write(self, data: bytes) -> None:
        """Returns when the kernel has all of it. Raises ConnectionResetError if the client is gone."""
        if self.transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self.transport.write(data)
        if self._drained:
            await self._drained

    def finish(self, *, keep_alive: bool) -> None:
        """The reply is written; the next request may come."""
        self._busy = False
        if not keep_alive:
            self.close()
        elif self._buffer and not self.transport.is_closing():
            self._advance()

    def close(self) -> None:
        self.transport.close()

    def reset(self) -> None:
        """Ends the connection with a TCP reset instead of an orderly close."""
        sock: socket.socket | None = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
