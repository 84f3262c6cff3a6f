"""A server that answers byte for byte what a test wrote down, over real sockets."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

Writer = asyncio.StreamWriter
Answer = "bytes | Callable[[Writer], Awaitable[None]]"
"""The bytes of a reply, or what to do with the connection instead."""


@dataclass(frozen=True)
class Request:
    connection: int
    target: str
    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class RawServer:
    """Gives the answers in their order, the last one again and again. It keeps what it was sent."""

    answers: list[Any]
    scheme: str = "http"
    port: int = 0
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        connection = self.connections
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while not writer.is_closing():
                self.requests.append(await read_request(reader, connection))
                self.arrived.set()
                await self.answer(writer)
        writer.close()

    async def answer(self, writer: Writer) -> None:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
        else:
            await answer(writer)


async def read_request(reader: asyncio.StreamReader, connection: int) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(connection, first.split()[1], headers, body, first.split()[0])


class Serves(Protocol):
    port: int

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None: ...


S = TypeVar("S", bound=Serves)


@asynccontextmanager
async def listening(state: S, tls: ssl.SSLContext | None = None) -> AsyncIterator[S]:
    """On a port of this machine; connections that are left at the end are cut."""
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: Writer) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        await state.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@asynccontextmanager
async def serving(*answers: Any, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    async with listening(RawServer(list(answers), "https" if tls else "http"), tls) as state:
        yield state


def reply(
    body: bytes = b"{}", status: int = 200, headers: Mapping[str, str] | None = None, *, length: bool = True
) -> bytes:
    """An HTTP/1.1 reply. Without a length it ends where the connection does."""
    lines = [f"HTTP/1.1 {status} Said"]
    if length and "content-length" not in (headers or {}):
        lines.append(f"content-length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    return reply(json.dumps(value).encode(), status, {"content-type": "application/json", **(headers or {})})


def then_close(data: bytes = b"") -> Callable[[Writer], Awaitable[None]]:
    async def answer(writer: Writer) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    return answer


def then_reset(data: bytes = b"") -> Callable[[Writer], Awaitable[None]]:
    async def answer(writer: Writer) -> None:
        writer.write(data)
        await writer.drain()
        writer.transport.abort()

    return answer


async def never(writer: Writer) -> None:
    await asyncio.Event().wait()
