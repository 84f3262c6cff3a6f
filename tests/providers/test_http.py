from __future__ import annotations

import asyncio
import gzip
import logging
import pickle
import socket
import ssl
import traceback
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from aembed.errors import ConfigError, InvalidReplyError, NotFoundError, ProviderError, UnavailableError
from aembed.providers._http import HTTP, HTTPReply, most_reply_bytes
from aembed.providers._secrets import Secret, check_key
from tests.providers.clients import every_client, http_client
from tests.providers.raw_server import RawServer, Writer, never, reply, serving, then_close, then_reset

MB = 1_000_000
CANARY = "sk-canary-5up3rs3cr3t-0123456789"
HEADERS: dict[str, str | Secret] = {"content-type": "application/json", "authorization": Secret(CANARY).bearer()}
SELF_SIGNED = Path(__file__).parent / "self_signed.pem"


@asynccontextmanager
async def http(client: str, connect_timeout: float = 5.0) -> AsyncIterator[HTTP]:
    async with http_client(client) as given:
        made = HTTP(concurrency=4, http_client=given, connect_timeout=connect_timeout)
        try:
            yield made
        finally:
            await made.aclose()


async def post(made: HTTP, server: RawServer, content: bytes = b"{}", most_bytes: int = MB) -> HTTPReply:
    async with asyncio.timeout(20):
        return await made.post(f"{server.url}/embeddings", HEADERS, content, most_bytes=most_bytes)


def own_certificate() -> ssl.SSLContext:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(SELF_SIGNED)
    return tls


@every_client
async def test_a_request_and_its_reply(client: str) -> None:
    async with serving(reply(b"hello", 201, {"X-Request-Id": "r1"})) as server, http(client) as made:
        got = await post(made, server, b"content")
        assert (got.status, got.body, got.headers["x-request-id"]) == (201, b"hello", "r1")
        sent = server.requests[0]
        assert (sent.target, sent.body) == ("/v1/embeddings", b"content")
        assert sent.headers["authorization"] == f"Bearer {CANARY}"


@every_client
async def test_n1_a_refused_connection_is_unavailable(client: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1/embeddings"
        async with http(client) as made:
            with pytest.raises(UnavailableError, match=r"no connection to 127\.0\.0\.1:\d+: ") as raised:
                await made.post(url, HEADERS, b"{}", most_bytes=MB)
            assert raised.value.unsent


@every_client
async def test_n1_a_host_that_does_not_exist_is_unavailable(client: str) -> None:
    async with http(client) as made:
        with pytest.raises(UnavailableError, match=r"no connection to nowhere\.invalid"):
            await made.post("http://nowhere.invalid/v1/embeddings", HEADERS, b"{}", most_bytes=MB)


@every_client
async def test_n1_a_certificate_that_proves_nothing_stops_the_job(client: str) -> None:
    async with serving(reply(), tls=own_certificate()) as server, http(client) as made:
        with pytest.raises(NotFoundError, match=r"certificate of 127\.0\.0\.1:\d+ cannot be trusted: self[- ]signed"):
            await post(made, server)
        assert server.requests == []


@every_client
@pytest.mark.parametrize("end", [then_close(), then_reset()], ids=["closed", "reset"])
async def test_n2_a_request_on_a_kept_connection_that_ends_may_be_sent_again_at_once(client: str, end: bytes) -> None:
    async with serving(reply(b"1"), end, reply(b"2")) as server, http(client) as made:
        assert (await post(made, server)).body == b"1"
        with pytest.raises(UnavailableError) as raised:
            await post(made, server)
        assert (raised.value.at_once, raised.value.unsent) == (True, False)
        assert (await post(made, server)).body == b"2"
        assert [request.connection for request in server.requests] == [1, 1, 2]


@every_client
async def test_n2_on_a_new_connection_it_is_an_outage(client: str) -> None:
    async with serving(then_close()) as server, http(client) as made:
        with pytest.raises(UnavailableError) as raised:
            await post(made, server)
        assert not raised.value.at_once
        assert len(server.requests) == 1


@every_client
async def test_n2_a_reply_that_began_is_not_asked_for_again_at_once(client: str) -> None:
    cut = then_close(reply(b"", headers={"content-length": "9"}) + b"half")
    async with serving(reply(b"1"), cut) as server, http(client) as made:
        await post(made, server)
        with pytest.raises(UnavailableError) as raised:
            await post(made, server)
        assert not raised.value.at_once
        assert len(server.requests) == 2


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CUT = {
    "in the status line": b"HTTP/1.1 2",
    "in the headers": b"HTTP/1.1 200 OK\r\ncontent-le",
    "before the body": reply(headers={"content-length": "100"})[:-2],
    "in the body": reply(b"x" * 50, headers={"content-length": "100"}),
    "before the last byte": reply(b"x" * 99, headers={"content-length": "100"}),
    "in a chunk's length": CHUNKED + b"5\r\nhello\r\n1",
    "in a chunk": CHUNKED + b"5\r\nhel",
    "before the last chunk": CHUNKED + b"5\r\nhello\r\n",
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
}


@every_client
@pytest.mark.parametrize("how", [then_close, then_reset])
@pytest.mark.parametrize("data", CUT.values(), ids=CUT)
async def test_n3_a_reply_that_is_cut_is_unavailable(client: str, how: object, data: bytes) -> None:
    assert callable(how)
    async with serving(how(data)) as server, http(client) as made:
        with pytest.raises(UnavailableError, match="broke"):
            await post(made, server)


CUT_GZIP = gzip.compress(b'{"data": []}' * 100, mtime=0)[:-9]


@every_client
async def test_n4_a_reply_that_is_whole_and_holds_a_cut_gzip_stream_is_invalid(client: str) -> None:
    async with serving(reply(CUT_GZIP, headers={"content-encoding": "gzip"})) as server, http(client) as made:
        with pytest.raises(InvalidReplyError, match="cut short"):
            await post(made, server)


@every_client
async def test_e8_a_gzip_stream_that_ends_early_with_its_connection_is_a_broken_connection(client: str) -> None:
    cut = then_close(reply(CUT_GZIP, headers={"content-encoding": "gzip"}, length=False))
    async with serving(cut) as server, http(client) as made:
        with pytest.raises(UnavailableError, match="the connection broke within a reply"):
            await post(made, server)


@every_client
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP"])
async def test_a_reply_that_is_compressed_all_the_same_is_read(client: str, encoding: str) -> None:
    said = reply(gzip.compress(b"a" * 300_000, mtime=0), headers={"content-encoding": encoding})
    async with serving(said) as server, http(client) as made:
        assert (await post(made, server)).body == b"a" * 300_000


@every_client
@pytest.mark.parametrize("encoding", ["utf-8", "none", "gzip", "deflate, identity"])
async def test_n4_a_header_of_a_compression_that_is_not_there_is_passed_over(client: str, encoding: str) -> None:
    """It is a charset, or what a proxy that has decompressed the reply has left."""
    said = reply(b' {"data": []}', headers={"content-encoding": encoding})
    async with serving(said) as server, http(client) as made:
        assert (await post(made, server)).body == b' {"data": []}'


@every_client
async def test_n4_deflate_without_its_header_is_read(client: str) -> None:
    said = reply(zlib.compress(b'{"data": []}' * 9_000, wbits=-15), headers={"content-encoding": "deflate"})
    async with serving(said) as server, http(client) as made:
        assert (await post(made, server)).body == b'{"data": []}' * 9_000


def bomb(layers: int) -> bytes:
    data = bytes(100 * MB)
    for _ in range(layers):
        data = gzip.compress(data, mtime=0)
    return data


async def endless(writer: Writer) -> None:
    writer.write(CHUNKED)
    for _ in range(1_000):
        writer.write(b"f4240\r\n" + b" " * MB + b"\r\n")
        await writer.drain()


async def endless_headers(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(1_000_000):
        writer.write(b"x-%d: %s\r\n" % (number, b"y" * 1_000))
        await writer.drain()


HUGE: dict[str, Callable[[], Any]] = {
    "two layers of gzip": lambda: reply(bomb(2), headers={"content-encoding": "gzip, gzip"}),
    "gzip": lambda: reply(bomb(1), headers={"content-encoding": "gzip"}),
    "a layer not named": lambda: reply(bomb(2), headers={"content-encoding": "gzip"}),
    "br": lambda: reply(b"\x0b", headers={"content-encoding": "br"}),
    "a length of 1 GB": lambda: reply(b"x", headers={"content-length": "1000000000"}),
    "chunks of 1 GB": lambda: endless,
    "endless headers": lambda: endless_headers,
}


@every_client
@pytest.mark.parametrize("name", HUGE)
async def test_n9_a_reply_that_would_fill_the_memory_is_a_typed_error(client: str, name: str) -> None:
    answer = HUGE[name]()
    async with serving(answer) as server, http(client) as made:
        await warm(made)
        tracemalloc.start()
        try:
            if name == "a layer not named":
                assert len((await post(made, server, most_bytes=most_reply_bytes(16, None))).body) < MB
            else:
                with pytest.raises(InvalidReplyError if name != "endless headers" else UnavailableError):
                    await post(made, server, most_bytes=most_reply_bytes(16, None))
            assert tracemalloc.get_traced_memory()[1] < 32 * MB
        finally:
            tracemalloc.stop()


async def warm(made: HTTP) -> None:
    async with serving(reply()) as server:
        await post(made, server)


@every_client
async def test_n9_of_a_huge_error_only_the_start_is_read(client: str) -> None:
    async with serving(reply(b"e" * 5 * MB, 500), reply(b"fine")) as server, http(client) as made:
        got = await post(made, server)
        assert (got.status, got.body) == (500, b"e" * 65_536)
        assert (await post(made, server)).body == b"fine"


@every_client
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_n10_redirects_are_not_followed(client: str, status: int) -> None:
    async with serving(reply(b"", status, {"location": "/elsewhere"})) as server, http(client) as made:
        assert (await post(made, server)).status == status
        assert len(server.requests) == 1


async def test_n10_not_even_where_the_given_client_follows_them() -> None:
    async with serving(reply(b"", 307, {"location": "/v1/there"})) as server:
        async with httpx.AsyncClient(follow_redirects=True) as given:
            made = HTTP(concurrency=1, http_client=given)
            assert (await post(made, server)).status == 307
        assert len(server.requests) == 1


@every_client
async def test_a_cancelled_request_leaves_the_client_usable(client: str) -> None:
    async with serving(never, reply(b"fine")) as server, http(client) as made:
        task = asyncio.create_task(post(made, server))
        await server.arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await post(made, server)).body == b"fine"


@pytest.mark.parametrize("client", ["httpx", "httpx2"])
async def test_a_given_client_is_not_changed_and_not_closed(client: str) -> None:
    async with serving(reply(b"fine")) as server, http_client(client) as given:
        before = dict(given.headers)
        made = HTTP(concurrency=1, http_client=given)
        await post(made, server)
        await made.aclose()
        assert not given.is_closed
        assert dict(given.headers) == before


@pytest.mark.parametrize("client", ["httpx", "httpx2"])
async def test_the_short_timeout_of_a_given_client_is_not_ours(client: str) -> None:
    async def late(writer: Writer) -> None:
        await asyncio.sleep(0.3)
        writer.write(reply(b"late"))

    async with serving(late) as server, http_client(client) as given:
        given.timeout = 0.05
        assert (await post(HTTP(concurrency=1, http_client=given), server)).body == b"late"


async def test_a_given_client_that_is_closed_says_so() -> None:
    given = httpx.AsyncClient()
    await given.aclose()
    with pytest.raises(ProviderError, match="http_client is closed"):
        await HTTP(concurrency=1, http_client=given).post("http://127.0.0.1:1/", {}, b"", most_bytes=1)


def test_x7_one_client_for_each_event_loop() -> None:
    made = HTTP(concurrency=2)

    async def once() -> bytes:
        async with serving(reply(b"fine", headers={"connection": "close"})) as server:
            return (await post(made, server)).body

    assert asyncio.run(once()) == b"fine"
    assert asyncio.run(once()) == b"fine"


@every_client
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_large_reply_arrives_whole(
    client: str, tls: bool, framing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = bytes(range(256)) * 20_000
    chunks = [body[start : start + 100_000] for start in range(0, len(body), 100_000)]
    said = {
        "length": reply(body),
        "chunked": CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""]),
        "close": then_close(reply(body, length=False)),
    }
    monkeypatch.setenv("SSL_CERT_FILE", str(SELF_SIGNED))
    async with serving(said[framing], tls=own_certificate() if tls else None) as server, http(client) as made:
        got = await asyncio.gather(*(post(made, server, b"x" * 3 * MB, most_bytes=6 * MB) for _ in range(6)))
        assert all(each.body == body for each in got)
        assert [request.body for request in server.requests] == [b"x" * 3 * MB] * 6


@every_client
@pytest.mark.parametrize("how", [then_close, then_reset])
async def test_n3_a_reply_that_is_cut_under_tls_is_unavailable(
    client: str, how: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(SELF_SIGNED))
    cut = how(reply(b"x" * 500_000, headers={"content-length": "1000000"}))
    async with serving(cut, tls=own_certificate()) as server, http(client) as made:
        with pytest.raises(UnavailableError, match="broke"):
            await post(made, server)


@every_client
async def test_n1_a_server_that_does_not_speak_tls_is_unavailable(client: str) -> None:
    async with serving(reply(b"fine")) as server, http(client, connect_timeout=0.5) as made:
        server.scheme = "https"
        with pytest.raises(UnavailableError, match="no connection"):
            await post(made, server)


async def test_a_connection_that_the_server_closes_while_it_rests_is_not_used_again() -> None:
    async with serving(then_close(reply(b"1")), reply(b"2")) as server, http("own") as made:
        assert (await post(made, server)).body == b"1"
        await asyncio.sleep(0.05)
        assert (await post(made, server)).body == b"2"
        assert [request.connection for request in server.requests] == [1, 2]


@every_client
async def test_replies_before_the_reply_are_passed_over(client: str) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    async with serving(early * 2 + reply(b"1"), reply(b"2")) as server, http(client) as made:
        assert [(await post(made, server)).body for _ in range(2)] == [b"1", b"2"]
        assert server.connections == 1


@every_client
@pytest.mark.parametrize("status", [204, 304])
async def test_a_reply_that_has_no_body_ends_with_its_head(client: str, status: int) -> None:
    said = reply(b"", status, {"content-length": "5"})
    async with serving(said, reply(b"2")) as server, http(client) as made:
        assert [(await post(made, server)).body for _ in range(2)] == [b"", b"2"]


@every_client
async def test_n4_a_204_is_whole_though_it_has_no_length(client: str) -> None:
    """It is no connection that broke, which would be waited for."""
    async with serving(reply(b"", 204, length=False)) as server, http(client) as made:
        assert (await post(made, server)).framed


ONCE = {
    "it says so": reply(b"1", headers={"connection": "close"}),
    "an old server": reply(b"1").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "more than a reply": reply(b"1") + b"HTTP/1.1 200 OK",
    "more than a chunked reply": CHUNKED + b"1\r\n1\r\n0\r\n\r\n" + b"HTTP/1.1 200 OK",
}


@pytest.mark.parametrize("said", ONCE.values(), ids=ONCE)
async def test_a_connection_that_cannot_be_trusted_is_not_used_again(said: bytes) -> None:
    async with serving(said, reply(b"2")) as server, http("own") as made:
        assert [(await post(made, server)).body for _ in range(2)] == [b"1", b"2"]
        assert [request.connection for request in server.requests] == [1, 2]


async def test_a_connection_that_speaks_while_it_rests_is_not_used_again() -> None:
    async def twice(writer: Writer) -> None:
        writer.write(reply(b"1"))
        await asyncio.sleep(0.05)
        writer.write(reply(b"not asked for"))

    async with serving(twice, reply(b"2")) as server, http("own") as made:
        assert (await post(made, server)).body == b"1"
        await asyncio.sleep(0.1)
        assert (await post(made, server)).body == b"2"
        assert [request.connection for request in server.requests] == [1, 2]


async def test_a_reply_that_does_not_wait_for_the_request_ends_the_connection() -> None:
    read, ended = asyncio.Event(), asyncio.Event()
    connections = 0

    async def refuse(reader: asyncio.StreamReader, writer: Writer) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply(b"too much", 413))
        await read.wait()
        writer.transport.abort()
        ended.set()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/embeddings"
    async with server, http("own") as made:
        for number in (1, 2):
            got = await made.post(url, HEADERS, bytes(50 * MB), most_bytes=MB)
            assert (got.status, got.body, connections) == (413, b"too much", number)
        read.set()
        await ended.wait()


async def test_a_connection_rests_for_half_a_minute_at_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aembed.providers._http._connection.KEEPALIVE_SECONDS", 0.02)
    async with serving(reply(b"fine")) as server, http("own") as made:
        for pause in (0.0, 0.05):
            await asyncio.sleep(pause)
            await post(made, server)
        assert server.connections == 2


async def test_each_service_has_its_own_connections() -> None:
    async with serving(reply(b"here")) as here, serving(reply(b"there")) as there, http("own") as made:
        for _ in range(2):
            assert (await post(made, here)).body == b"here"
            assert (await post(made, there)).body == b"there"
        assert here.connections == there.connections == 1


async def test_many_requests_share_the_connections() -> None:
    async with serving(reply(b"fine")) as server, http("own") as made:
        replies = await asyncio.gather(*(post(made, server) for _ in range(40)))
        assert all(got.body == b"fine" for got in replies)
        assert server.connections <= 4


@pytest.mark.parametrize("key", ["sk-a\nb", "sk-a b", "sk-“smart”", "sk-\x00", "", "  ", "sk-é"])
def test_z1_a_key_that_no_header_can_carry_is_refused_unseen(key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_key(key, "api_key")
    assert "sk-" not in str(raised.value)


def test_z1_white_space_around_a_key_is_dropped() -> None:
    assert check_key(f" {CANARY}\r\n", "api_key").reveal() == CANARY


def test_z1_a_secret_shows_itself_nowhere() -> None:
    secret = Secret(CANARY)
    assert "canary" not in f"{secret} {secret!r} {[secret]} {secret.bearer()}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)


@pytest.mark.parametrize(
    "echo",
    [
        CANARY,
        f"Incorrect API key provided: {CANARY}. You can find",
        f"Incorrect API key provided: {CANARY[:7]}***{CANARY[-4:]}.",
        f"Incorrect API key provided: {CANARY[:12]}********.",
        f"key={CANARY[5:20]}&x=1",
        f'{{"authorization":"Bearer {CANARY}"}}',
    ],
)
def test_z1_an_echo_of_the_key_is_cut_out(echo: str) -> None:
    shown = Secret(CANARY).redact(echo)
    assert "[redacted]" in shown
    assert "canary" not in shown
    assert CANARY[-4:] not in shown


def test_z1_words_that_are_not_the_key_stay() -> None:
    text = "Rate limit reached for text-embedding-3-small on tokens per min (TPM): Limit 1000000... try again in 510ms."
    assert Secret(CANARY).redact(text) == text


@every_client
async def test_z1_no_fault_of_the_network_shows_the_key(client: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown = []
    async with serving(*(then_close(data) for data in CUT.values())) as server, http(client) as made:
        for _ in CUT:
            with pytest.raises(ProviderError) as raised:
                await post(made, server)
            error = raised.value
            assert error.__context__ is None
            assert error.__cause__ is None
            shown.append("".join(traceback.format_exception(error)) + repr(error) + repr(vars(error)))
    text = "".join(shown) + caplog.text + repr(made)
    assert len(shown) == len(CUT)
    assert "canary" not in text


@every_client
async def test_z2_no_frame_of_ours_holds_the_key_in_the_open(client: str) -> None:
    async with serving(then_close(CUT["in the body"])) as server, http(client) as made:
        with pytest.raises(UnavailableError) as raised:
            await post(made, server)
    frames = [frame for frame, _ in traceback.walk_tb(raised.value.__traceback__)]
    ours = [repr(frame.f_locals) for frame in frames if "aembed" in frame.f_code.co_filename]
    assert ours
    assert not [text for text in ours if "canary" in text]
