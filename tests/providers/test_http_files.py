"""Files over HTTP: they go out and come in a piece at a time, over every kind of client, and a cut is seen."""

from __future__ import annotations

import asyncio
import gzip
import io
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP as HTTP_POLICY
from pathlib import Path
from typing import BinaryIO

import h11
import pytest

from aembed.errors import InvalidReplyError, UnavailableError
from aembed.providers._http import HTTPReply, Incoming, Upload, multipart
from aembed.providers._http._connection import Connection
from aembed.providers._http._message import Exchange
from tests.hostile.jobs import until
from tests.providers.clients import every_client
from tests.providers.raw_server import Writer, listening, reply, serving, then_close
from tests.providers.test_http import CANARY, HEADERS, MB, http

LARGE = 40 * MB


def parts_of(content_type: str, body: bytes) -> dict[str, tuple[str | None, bytes]]:
    """By name: the file name and the content, as the standard library reads the form."""
    whole = BytesParser(policy=HTTP_POLICY).parsebytes(f"content-type: {content_type}\r\n\r\n".encode() + body)
    found = {}
    for part in whole.iter_parts():
        name = part.get_param("name", header="content-disposition")
        found[str(name)] = (part.get_filename(), part.get_payload(decode=True))
    return found


@every_client
async def test_a_form_with_a_file_goes_out(client: str) -> None:
    lines = b'{"custom_id": "1"}\n{"custom_id": "2"}\n'
    content_type, upload = multipart({"purpose": "batch", "seconds[x]": "60"}, io.BytesIO(lines), "aembed.jsonl")
    async with serving(reply(b"{}")) as server, http(client) as made:
        for _ in range(2):  # the same upload may be sent again
            await made.post(server.url, {**HEADERS, "content-type": content_type}, upload, most_bytes=MB)
    assert len(server.requests) == 2
    for sent in server.requests:
        assert int(sent.headers["content-length"]) == upload.size_bytes == len(sent.body)
        assert parts_of(sent.headers["content-type"], sent.body) == {
            "purpose": (None, b"batch"),
            "seconds[x]": (None, b"60"),
            "file": ("aembed.jsonl", lines),
        }


@dataclass
class Sink:
    """A server that keeps the size of what it is sent; or, `refusing`, answers at once and reads on to the end."""

    refusing: bool = False
    port: int = 0
    sizes: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/files"

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if self.refusing:
            writer.write(reply(b'{"error":{"message":"too large"}}', 413))
        taken = 0
        while taken < size and (data := await reader.read(1 << 16)):
            taken += len(data)
        self.sizes.append(taken)
        if not self.refusing:
            writer.write(reply(b"{}"))
            await writer.drain()
        writer.transport.abort() if self.refusing else writer.close()


@dataclass
class Closing:
    """A server that closes every connection at once."""

    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        writer.close()


@pytest.fixture
def large_file(tmp_path: Path) -> Iterator[BinaryIO]:
    with (tmp_path / "large").open("w+b") as file:
        file.truncate(LARGE)
        yield file


@pytest.mark.parametrize("client", ["own", "own, watched"])
async def test_a_large_file_is_never_whole_in_memory(client: str, large_file: BinaryIO) -> None:
    async with listening(Sink()) as server, http(client) as made:
        tracemalloc.start()
        try:
            await made.post(server.url, HEADERS, Upload(large_file), most_bytes=MB)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert server.sizes == [LARGE]
    assert peak < 8 * MB


async def test_an_upload_ends_where_the_server_refuses_it_early(large_file: BinaryIO) -> None:
    async with listening(Sink(refusing=True)) as server, http("own") as made, asyncio.timeout(10):
        got = await made.post(server.url, HEADERS, Upload(large_file), most_bytes=MB)
        assert got.status == 413
        await until(lambda: bool(server.sizes))
        assert server.sizes[0] < LARGE


@pytest.mark.parametrize("content", [b"{}", Upload(io.BytesIO(b"{}"))], ids=["bytes", "file"])
async def test_b1_nothing_is_written_on_a_connection_that_the_server_has_closed(content: bytes | Upload) -> None:
    async with listening(Closing()) as server, asyncio.timeout(10):
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, "127.0.0.1", server.port)
        await until(lambda: not connection.usable)
        exchange = Exchange("http://127.0.0.1", HEADERS, content, MB)
        with pytest.raises(ConnectionResetError):
            await connection.ask(h11.Request(method="POST", target="/", headers=[("host", "x")]), content, exchange)
        assert not exchange.sent


@every_client
async def test_what_is_asked_to_be_deleted(client: str) -> None:
    async with serving(reply(b'{"deleted":true}')) as server, http(client) as made:
        got = await made.delete(f"{server.url}/files/file-1", HEADERS, most_bytes=MB)
        assert got.body == b'{"deleted":true}'
        assert [(sent.method, sent.target) for sent in server.requests] == [("DELETE", "/v1/files/file-1")]


async def pieces_of(made_reply: HTTPReply | Incoming) -> bytes:
    assert isinstance(made_reply, Incoming)
    whole = b""
    while piece := await made_reply.read():
        whole += piece
    return whole


@every_client
@pytest.mark.parametrize("framing", ["length", "chunked", "gzip"])
async def test_a_file_comes_in_pieces(client: str, framing: str) -> None:
    body = bytes(range(256)) * 2_000
    answers = {
        "length": reply(body),
        "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        "gzip": reply(gzip.compress(body), headers={"content-encoding": "gzip"}),
    }
    async with serving(answers[framing], reply(b"next")) as server, http(client) as made, asyncio.timeout(10):
        async with made.download(f"{server.url}/files/1/content", HEADERS, most_bytes=MB) as incoming:
            assert await pieces_of(incoming) == body
        # The connection is whole again.
        assert (await made.get(server.url, HEADERS, most_bytes=MB)).body == b"next"
        assert server.connections == 1


@every_client
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_file_that_is_cut_is_an_error(client: str, framing: str) -> None:
    start = {
        "length": b"content-length: 1000\r\n\r\n" + b"x" * 400,
        "chunked": b"transfer-encoding: chunked\r\n\r\n190\r\n",
    }
    cut = b"HTTP/1.1 200 OK\r\n" + start[framing] + b"x" * 100
    async with (
        serving(then_close(cut)) as server,
        http(client) as made,
        made.download(f"{server.url}/files/1/content", HEADERS, most_bytes=MB) as incoming,
    ):
        with pytest.raises(UnavailableError, match="broke") as broken:
            await pieces_of(incoming)
    assert CANARY not in repr(broken.value)
    assert not broken.value.at_once


@every_client
async def test_a_file_that_is_refused_or_too_large(client: str) -> None:
    refusal = reply(b'{"error":{"message":"No such File object"}}', 404)
    async with serving(refusal, reply(b"x" * 2_000)) as server, http(client) as made, asyncio.timeout(10):
        async with made.download(server.url, HEADERS, most_bytes=1_000) as refused:
            assert isinstance(refused, HTTPReply)
            assert (refused.status, refused.body) == (404, b'{"error":{"message":"No such File object"}}')
        with pytest.raises(InvalidReplyError, match="larger than 1,000 bytes"):
            async with made.download(server.url, HEADERS, most_bytes=1_000) as large:
                await pieces_of(large)


async def test_a_slow_reader_holds_the_server_back() -> None:
    """What nobody reads yet stays with the server, but for what the sockets hold."""
    sent = 0

    async def pour(writer: Writer) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % LARGE)
        for _ in range(LARGE // MB):
            writer.write(b"x" * MB)
            await writer.drain()
            sent += MB

    async with (
        serving(pour) as server,
        http("own") as made,
        made.download(server.url, HEADERS, most_bytes=LARGE) as incoming,
        asyncio.timeout(20),
    ):
        assert isinstance(incoming, Incoming)
        await asyncio.sleep(0.2)
        assert sent < LARGE / 2
        size = 0
        while piece := await incoming.read():
            size += len(piece)
        assert size == LARGE


async def test_a_reader_may_leave_in_the_middle() -> None:
    async with serving(reply(b"x" * MB), reply(b"next")) as server, http("own") as made, asyncio.timeout(10):
        async with made.download(server.url, HEADERS, most_bytes=MB) as incoming:
            assert isinstance(incoming, Incoming)
            assert await incoming.read()
        assert (await made.get(server.url, HEADERS, most_bytes=MB)).body == b"next"
        assert server.connections == 2


async def test_what_a_reader_raises_is_its_own() -> None:
    async with serving(reply(b"x" * MB)) as server, http("own") as made, asyncio.timeout(10):
        with pytest.raises(FileNotFoundError, match="its own"):
            async with made.download(server.url, HEADERS, most_bytes=MB):
                raise FileNotFoundError("its own")
