"""The barest HTTP/1.1 client: one keep-alive connection on asyncio streams, with the replies as they came."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

_BUFFER_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class WireReply:
    """Header names are in lower case; of a name that came twice the last stands."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Wire:
    """`async with Wire(server.url) as wire: reply = await wire.embed(["a"])`."""

    def __init__(self, url: str, *, key: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._tls = parts.hostname or "127.0.0.1", parts.port or 80, tls
        self._authorization = f"authorization: Bearer {key}\r\n" if key else ""

    async def __aenter__(self) -> Wire:
        self.reader, self.writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._tls, limit=_BUFFER_BYTES
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()

    async def embed(
        self,
        inputs: Sequence[str] | str,
        *,
        model: str = "text-embedding-3-small",
        encoding_format: str = "base64",
        **fields: Any,
    ) -> WireReply:
        values = {"model": model, "input": inputs, "encoding_format": encoding_format} | fields
        return await self.request("POST", "/v1/embeddings", msgspec.json.encode(values))

    async def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> WireReply:
        await self.send(method, path, body, headers)
        return await self.receive()

    async def send(self, method: str, path: str, body: bytes = b"", headers: str = "") -> None:
        """`headers` are whole lines, each with its CRLF."""
        start = f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-length: {len(body)}\r\n"
        self.writer.write(f"{start}{self._authorization}{headers}\r\n".encode() + body)
        await self.writer.drain()

    async def receive(self) -> WireReply:
        """Raises EOFError or OSError where the reply does not come whole."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines[1:-2])
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        return WireReply(int(lines[0].split(" ")[1]), headers, await self._body(headers))

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") != "chunked":
            return await self.reader.read()
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return body
