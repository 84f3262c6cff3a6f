"""What the bytes cost: no client library, each vector found by its key, one pybase64 pass over all of a reply."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

import msgspec
import numpy as np
import pybase64
from numpy.typing import NDArray

from benchmarks.beside.peers.job import DIMENSIONS, MODEL, Embed, Job, Rows, batches

_CHARACTERS = DIMENSIONS * 4 // 3 * 4
_KEY = b'"embedding":"'
_MOST_HEAD_BYTES = 65_536


def request_of(job: Job, texts: Sequence[str]) -> bytes:
    body = msgspec.json.encode({"model": MODEL, "input": texts, "encoding_format": "base64"})
    head = f"POST {urlsplit(job.url).path}/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {job.key}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def body_bytes(head: bytes) -> int:
    assert head.startswith(b"HTTP/1.1 200 "), head[:100]
    return int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])


def decode_into(rows: NDArray[np.float32], body: bytearray) -> None:
    parts, at, view = [], 0, memoryview(body)
    for _ in range(len(rows)):
        at = body.index(_KEY, at) + len(_KEY)
        parts.append(view[at : at + _CHARACTERS])
        at += _CHARACTERS
    rows[:] = np.frombuffer(pybase64.b64decode(b"".join(parts), validate=True), "<f4").reshape(rows.shape)


def _tls(url: SplitResult) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE")) if url.scheme == "https" else None


def blocking(job: Job) -> Embed:
    """One connection, one request at a time."""
    url = urlsplit(job.url)
    connection = socket.create_connection((url.hostname, url.port))
    if context := _tls(url):
        connection = context.wrap_socket(connection, server_hostname=url.hostname)

    def exchange(rows: NDArray[np.float32], batch: Sequence[str]) -> None:
        connection.sendall(request_of(job, batch))
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += connection.recv(_MOST_HEAD_BYTES)
        body = bytearray(body_bytes(bytes(received[:end])))
        filled = len(received) - end - 4
        body[:filled] = received[end + 4 :]
        view = memoryview(body)
        while filled < len(body):
            filled += connection.recv_into(view[filled:])
        decode_into(rows, body)

    def work(texts: Sequence[str]) -> Rows:
        matrix, at = np.empty((len(texts), DIMENSIONS), np.float32), 0
        for batch in batches(texts, job.max_texts, job.max_tokens):
            exchange(matrix[at : at + len(batch)], batch)
            at += len(batch)
        return matrix

    async def embed(texts: Sequence[str]) -> Rows:
        return await asyncio.to_thread(work, texts)

    return embed


class _Reply(asyncio.BufferedProtocol):
    """One keep-alive connection; each reply is read straight into its body."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._head, self._room = bytearray(), bytearray(_MOST_HEAD_BYTES)
        self._body: bytearray | None = None

    async def exchange(self, request: bytes) -> bytearray:
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._done

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._room) if self._body is None else self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._body is not None:
            self._filled += nbytes
        else:
            self._head += memoryview(self._room)[:nbytes]
            if (end := self._head.find(b"\r\n\r\n")) < 0:
                return
            self._body = bytearray(body_bytes(bytes(self._head[:end])))
            self._view, self._filled = memoryview(self._body), len(self._head) - end - 4
            self._view[: self._filled] = self._head[end + 4 :]
            self._head.clear()
        if self._filled == len(self._body):
            body, self._body = self._body, None
            self._done.set_result(body)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionResetError())


def raw_asyncio(job: Job) -> Embed:
    """As many connections as the job allows."""
    url = urlsplit(job.url)
    idle: list[_Reply] = []

    async def one(slots: asyncio.Semaphore, rows: NDArray[np.float32], batch: Sequence[str]) -> None:
        async with slots:
            if idle:
                connection = idle.pop()
            else:
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(_Reply, url.hostname, url.port, ssl=_tls(url))
            decode_into(rows, await connection.exchange(request_of(job, batch)))
            idle.append(connection)

    async def embed(texts: Sequence[str]) -> Rows:
        matrix, at = np.empty((len(texts), DIMENSIONS), np.float32), 0
        slots = asyncio.Semaphore(job.concurrency)
        async with asyncio.TaskGroup() as group:
            for batch in batches(texts, job.max_texts, job.max_tokens):
                group.create_task(one(slots, matrix[at : at + len(batch)], batch))
                at += len(batch)
        return matrix

    return embed
