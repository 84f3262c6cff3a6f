"""A small real HTTP proxy: CONNECT for https, forwarding for http. Whatever host is asked for, it leads to `target`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.providers.raw_server import listening


@dataclass
class Tunnel:
    """`status` other than 200 is its answer to all; with `user` it wants that user's password."""

    target: int
    status: int = 200
    user: str = ""
    port: int = 0
    asked: list[str] = field(default_factory=list)
    seen: bytearray = field(default_factory=bytearray, repr=False)
    """What went through it in clear."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = await reader.readexactly(1)
        if not start.isalpha():
            await self._say(writer, 400)  # that is no HTTP
            return
        head = start + await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        self.asked.append(f"{method} {target}")
        expected = base64.b64encode(self.user.encode()).decode()
        if self.user and f"proxy-authorization: basic {expected}".lower() not in [line.lower() for line in lines]:
            await self._say(writer, 407)
        elif self.status != 200:
            await self._say(writer, self.status)
        elif method == "CONNECT":
            await self._join(reader, writer, b"", b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = "/" + target.split("/", 3)[3]
            self.seen += head
            await self._join(reader, writer, head.replace(target.encode(), path.encode(), 1), b"")

    async def _say(self, writer: asyncio.StreamWriter, status: int) -> None:
        writer.write(f"HTTP/1.1 {status} Said by the proxy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()

    async def _join(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes, greeting: bytes
    ) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            await self._say(writer, 502)
            return
        writer.write(greeting)
        far_writer.write(first)
        lanes = [asyncio.create_task(_carry(reader, far_writer)), asyncio.create_task(_carry(far_reader, writer))]
        try:
            await asyncio.wait(lanes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
            far_writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def tunnel(target: int, **options: object) -> AsyncIterator[Tunnel]:
    async with listening(Tunnel(target, **options)) as state:  # type: ignore[arg-type]
        yield state
