"""What TLS makes of a wrong setting (rows E1, E9): real handshakes, on both event loops, looked at or not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from aembed import AuthenticationError, ConfigError, NotFoundError, ProviderError, UnavailableError
from aembed.providers._http import HTTP
from tests.hostile.jobs import at, embed, numbers
from tests.providers.clients import every_client, http_client
from tests.providers.raw_server import RawServer, Writer, reply, serving, then_close

CERTIFICATES = Path(__file__).parent / "certificates"
MB = 1_000_000


@pytest.fixture(autouse=True)
def _trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "authority.pem"))


def on_uvloop(job: Coroutine[Any, Any, None]) -> None:
    pytest.importorskip("uvloop").run(job)


Run = Callable[[Coroutine[Any, Any, None]], None]
every_loop = pytest.mark.parametrize("run", [asyncio.run, on_uvloop], ids=["asyncio", "uvloop"])


def certified(name: str = "server", *, client: bool = False, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(CERTIFICATES / f"{name}.pem")
    if client:
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(CERTIFICATES / "authority.pem")
    if newest:
        tls.maximum_version = newest
    return tls


@asynccontextmanager
async def saying(data: bytes) -> AsyncIterator[RawServer]:
    """A server that answers whatever comes first with these bytes, and closes."""
    state = RawServer([])

    async def answer(reader: asyncio.StreamReader, writer: Writer) -> None:
        state.connections += 1
        await reader.read(4096)
        writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    state.port = server.sockets[0].getsockname()[1]
    async with server:
        yield state


async def post(url: str, client: Any = None) -> bytes:
    made = HTTP(concurrency=2, http_client=client, connect_timeout=5.0)
    try:
        return (await made.post(f"{url}/embeddings", {"authorization": "Bearer x"}, b"{}", most_bytes=MB)).body
    finally:
        await made.aclose()


async def refusal(url: str, client: Any = None) -> ProviderError:
    with pytest.raises(ProviderError) as raised:
        await post(url, client)
    return raised.value


def alert(number: int) -> bytes:
    """RFC 8446, section 6: a fatal one."""
    return bytes([21, 3, 3, 0, 2, 2, number])


# the certificates of this machine


@pytest.mark.parametrize(
    ("variable", "names", "says"),
    [
        ("SSL_CERT_FILE", "nothing.pem", "it names no file"),
        ("SSL_CERT_FILE", ".", "it names a folder"),
        ("SSL_CERT_FILE", "junk.pem", "NO_CERTIFICATE_OR_CRL_FOUND|no start line|PEM"),
        ("SSL_CERT_FILE", "empty.pem", "NO_CERTIFICATE_OR_CRL_FOUND|no start line|PEM"),
        ("SSL_CERT_DIR", "nothing", "it names no folder"),
        ("SSL_CERT_DIR", "junk.pem", "it names no folder"),
    ],
)
async def test_e1_certificates_that_cannot_be_read_are_a_mistake_of_the_environment(
    variable: str, names: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "junk.pem").write_text("-----BEGIN CERTIFICATE-----\nnot base64\n")
    (tmp_path / "empty.pem").write_text("")
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.setenv(variable, str(tmp_path / names))
    async with serving(reply(), tls=certified()) as server:
        async with at(server) as embedder:
            outcome = await embed(embedder, numbers(30))
        assert isinstance(outcome.error, ConfigError)
        assert variable in str(outcome.error)
        with pytest.raises(ConfigError, match=f"{variable}=.*(?:{says})"):
            await post(server.url)
        assert (outcome.report.pending, server.connections) == (30, 0)


# ports that speak something else


@every_client
@pytest.mark.parametrize("said", [reply(b"bad", 400), b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00" * 40])
async def test_e1_https_to_a_port_that_speaks_no_tls(client: str, said: bytes) -> None:
    async with saying(said) as server, http_client(client) as given:
        error = await refusal(server.url.replace("http:", "https:"), given)
    assert type(error) is NotFoundError
    assert error.unsent
    assert f"127.0.0.1:{server.port} does not answer in TLS: this port speaks plain http" in str(error)


GO = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
NGINX = reply(b"<html><h1>400</h1><center>The plain HTTP request was sent to HTTPS port</center></html>", 400)
APACHE = reply(b"Reason: You're speaking plain HTTP to an SSL-enabled server port.", 400)
TOMCAT = reply(b"Bad Request\nThis combination of host and port requires TLS.\n", 400)


@pytest.mark.parametrize(
    "said", [GO, NGINX, APACHE, TOMCAT, alert(70), None], ids=["go", "nginx", "apache", "tomcat", "alert", "close"]
)
async def test_e1_http_to_a_port_that_speaks_tls_stops_the_job(said: bytes | None) -> None:
    serves = saying(said) if said else serving(reply(), tls=certified())
    async with serves as server:
        server.scheme = "http"
        async with at(server, concurrency=1, max_batch_size=10) as embedder:
            outcome = await embed(embedder, numbers(50))
        assert type(outcome.error) is NotFoundError
        assert "TLS" in str(outcome.error) or "HTTPS" in str(outcome.error) or "SSL" in str(outcome.error)
        assert (outcome.report.failed, outcome.report.pending) == (0, 50)
        assert server.connections <= 2


async def test_e1_a_server_that_closes_plain_http_and_knows_no_tls_is_waited_for() -> None:
    async with serving(then_close()) as server:
        assert type(await refusal(server.url)) is UnavailableError


async def test_e1_a_server_that_has_answered_plain_http_is_not_asked_for_tls() -> None:
    async with serving(reply(b"1", headers={"connection": "close"}), then_close()) as server:
        made = HTTP(concurrency=1)
        await made.post(server.url, {}, b"{}", most_bytes=MB)
        with pytest.raises(UnavailableError):
            await made.post(server.url, {}, b"{}", most_bytes=MB)
        await made.aclose()
        assert server.connections == 2


# handshakes that never succeed


@every_loop
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("client", ["own", "own, watched"])
def test_e1_a_client_certificate_that_is_wanted(run: Run, version: ssl.TLSVersion, client: str) -> None:
    async def job() -> None:
        async with serving(reply(b"fine"), tls=certified(client=True, newest=version)) as server:
            async with http_client(client) as given:
                error = await refusal(server.url, given)
            assert type(error) in (AuthenticationError, NotFoundError)
            assert error.unsent
            assert "wants a client certificate" in str(error)
            assert "http_client=" in str(error)
            assert server.requests == []
            tls = ssl.create_default_context(cafile=CERTIFICATES / "authority.pem")
            tls.load_cert_chain(CERTIFICATES / "client.pem")
            async with httpx.AsyncClient(verify=tls) as given:
                assert await post(server.url, given) == b"fine"

    run(job())


@every_client
@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (70, NotFoundError, "no version of TLS in common"),
        (71, NotFoundError, "no version of TLS in common"),
        (40, NotFoundError, "no cipher in common, or it wants a client certificate"),
        (42, AuthenticationError, "refused the client certificate"),
        (48, AuthenticationError, "refused the client certificate"),
        (112, NotFoundError, "does not know that name"),
        (116, AuthenticationError, "wants a client certificate"),
        (80, UnavailableError, "no connection"),
        (50, UnavailableError, "no connection"),
    ],
)
async def test_e1_what_an_alert_means(client: str, number: int, kind: type[ProviderError], says: str) -> None:
    async with saying(alert(number)) as server, http_client(client) as given:
        error = await refusal(server.url.replace("http:", "https:"), given)
    assert type(error) is kind
    assert says in str(error)
    assert error.unsent


@every_client
async def test_e1_a_handshake_that_is_cut_is_waited_for(client: str) -> None:
    async with saying(b"") as server, http_client(client) as given:
        assert type(await refusal(server.url.replace("http:", "https:"), given)) is UnavailableError


# certificates that prove nothing


@every_loop
@pytest.mark.parametrize(
    ("certificate", "advice"),
    [
        ("expired", "it has expired: whoever runs that server has to renew it"),
        ("future", "it is not valid yet: look at the clock of this machine"),
        ("elsewhere", "it is for another address: write the name that it names in base_url"),
        ("server", "for a private authority: export SSL_CERT_FILE="),
    ],
)
def test_e9_the_advice_fits_the_certificate(
    run: Run, certificate: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def job() -> None:
        async with serving(reply(), tls=certified(certificate)) as server:
            error = await refusal(server.url)
            assert type(error) is NotFoundError
            assert error.unsent
            assert f"the certificate of 127.0.0.1:{server.port} cannot be trusted: " in str(error)
            assert advice in str(error)

    if certificate == "server":
        monkeypatch.delenv("SSL_CERT_FILE")
    run(job())


async def test_e9_the_name_that_was_asked_for_is_not_that_of_the_certificate() -> None:
    async with serving(reply(), tls=certified("elsewhere")) as server:
        error = await refusal(f"https://localhost:{server.port}/v1")
    assert "it is for another host: write the name that it names in base_url" in str(error)
