"""Proxies that the environment names (rows E1, E2, N11): real ones, real TLS behind them."""

from __future__ import annotations

import os
import socket
import ssl
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import httpx
import pytest

from aembed import (
    AuthenticationError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    UnavailableError,
    open_provider,
)
from aembed.providers._http import HTTP
from aembed.providers._http._proxies import proxy_for
from tests.hostile.jobs import at, embed, numbers
from tests.providers.raw_server import reply, serving
from tests.providers.tunnel import Tunnel, tunnel
from tests.service.server import Server

CERTIFICATES = Path(__file__).parent / "certificates"
MB = 1_000_000
PASSWORD = "canary-5ecr3t"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "authority.pem"))


def certified() -> ssl.SSLContext:
    """For 127.0.0.1, localhost and api.test."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(CERTIFICATES / "server.pem")
    return tls


@asynccontextmanager
async def far_away(**options: object) -> AsyncIterator[tuple[Server, Tunnel]]:
    """A service at https://api.test that is reached through a proxy only."""
    async with Server(tls=certified()) as server, tunnel(server.port, **options) as proxy:
        yield server, proxy


def embedder_of_far_away(**options: object) -> object:
    return at(type("Far", (), {"url": "https://api.test/v1"}), **options)


async def post(url: str, **options: object) -> bytes:
    made = HTTP(concurrency=2, connect_timeout=2.0)
    try:
        return (await made.post(url, {"authorization": "Bearer sk-x"}, b"{}", most_bytes=MB)).body
    finally:
        await made.aclose()


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
async def test_n11_requests_go_by_the_proxy_that_the_environment_names(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with far_away() as (server, proxy):
        monkeypatch.setenv(variable, proxy.url)
        async with embedder_of_far_away(max_batch_size=50) as embedder:  # type: ignore[attr-defined]
            assert (await embed(embedder, numbers(200))).report.stored == 200
        assert set(proxy.asked) == {"CONNECT api.test:443"}
        assert server.ledger.accepted == 4


async def test_n11_a_client_of_ones_own_ignores_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(reply(b"fine")) as server, tunnel(server.port) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        async with httpx.AsyncClient(trust_env=False) as client:
            made = HTTP(concurrency=1, http_client=client)
            assert (await made.post(f"{server.url}/x", {}, b"{}", most_bytes=MB)).body == b"fine"
        assert proxy.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "127.9.9.9", "localhost.", "llama.localhost"])
async def test_e2_this_machine_is_never_asked_by_way_of_a_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server(host="0.0.0.0") as server, tunnel(server.port) as proxy:
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(variable.lower() if host == "localhost" else variable, proxy.url)
        monkeypatch.setenv("NO_PROXY", "example.com")
        async with at(type("Here", (), {"url": f"http://{host}:{server.port}/v1"})) as embedder:
            assert (await embed(embedder, numbers(20))).report.stored == 20
        assert (proxy.asked, bytes(proxy.seen)) == ([], b"")


async def test_e2_a_server_of_ones_own_network_still_goes_by_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server() as server, tunnel(server.port) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        provider = open_provider(
            "openai:text-embedding-3-small", api_key="sk-x", base_url="http://infinity:7997/v1", allow_http=True
        )
        await provider.embed(["text"], input_type="query")
        await provider.aclose()
        assert proxy.asked == ["POST http://infinity:7997/v1/embeddings"]


@pytest.mark.parametrize(
    ("url", "no_proxy", "proxied"),
    [
        ("https://api.example.com/v1", "", True),
        ("https://api.example.com/v1", "*", False),
        ("https://api.example.com/v1", "example.com", False),
        ("https://example.com/v1", "example.com", False),
        ("https://example.com/v1", ".example.com", True),
        ("https://api.example.com/v1", " other.com , .Example.com ", False),
        ("https://notexample.com/v1", "example.com", True),
        ("https://api.example.com:8443/v1", "example.com:8443", False),
        ("https://api.example.com/v1", "example.com:8443", True),
        ("https://10.1.2.3/v1", "10.0.0.0/8", False),
        ("https://10.1.2.3/v1", "10.1.2.3", False),
        ("https://11.1.2.3/v1", "10.0.0.0/8", True),
        ("https://[fd00::1]/v1", "[fd00::1]", False),
        ("https://[fd00::1]/v1", "fd00::/8", False),
        ("https://api.example.com/v1", "http://example.com", True),
        ("https://example.com/v1", "https://example.com", False),
        ("https://localhost.example.com/v1", "localhost", True),
        ("http://127.0.0.1:8080/v1", "", False),
        ("http://[::1]:8080/v1", "", False),
        ("http://[::ffff:127.0.0.1]:8080/v1", "", False),
        ("http://a.localhost/v1", "", False),
    ],
)
def test_e2_whom_no_proxy_means(url: str, no_proxy: str, proxied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert bool(proxy_for(url)) == proxied


def test_e2_a_list_of_exceptions_without_a_proxy_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "example.com,10.0.0.0/8,,*.x:y")
    assert proxy_for("https://api.example.com/v1") is None


@pytest.mark.parametrize(
    ("proxy", "says"),
    [
        (f"http://me:{PASSWORD}@proxy.example:99999", "HTTPS_PROXY names no proxy"),
        (f"ftp://me:{PASSWORD}@proxy.example:3128", "HTTPS_PROXY names no proxy"),
        (f"http://me:{PASSWORD}@", "HTTPS_PROXY names no proxy"),
        (f"http://me:{PASSWORD}@proxy .example", "HTTPS_PROXY names no proxy"),
        (
            f"socks5://me:{PASSWORD}@proxy.example:1080",
            r"HTTPS_PROXY names a SOCKS proxy.*pip install 'httpx\[socks\]'",
        ),
    ],
)
async def test_e1_a_proxy_that_cannot_be_used_is_a_mistake_of_the_environment(
    proxy: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.setattr("aembed.providers._http._proxies.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=says) as raised:
        await post("https://api.test/v1/embeddings")
    assert PASSWORD not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("way", ["environment", "client"])
@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"user": "me:right"}, AuthenticationError, "wants a user name and a password"),
        ({"status": 407}, AuthenticationError, "wants a user name and a password"),
        ({"status": 403}, PermissionDeniedError, "lets nothing through to api.test: 403"),
        ({"status": 405}, NotFoundError, "does not lead to api.test: 405"),
        ({"status": 502}, UnavailableError, "has no connection to api.test: 502"),
        ({"status": 503}, UnavailableError, "has no connection to api.test: 503"),
    ],
)
async def test_e1_what_a_proxy_refuses_is_told_as_the_proxys(
    options: dict[str, object], kind: type[ProviderError], says: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with far_away(**options) as (server, proxy):
        url = proxy.url.replace("//", f"//me:{PASSWORD}@")
        given = httpx.AsyncClient(proxy=url) if way == "client" else None
        if way == "environment":
            monkeypatch.setenv("HTTPS_PROXY", url)
        made = HTTP(concurrency=1, http_client=given)
        with pytest.raises(ProviderError, match=says) as raised:
            await made.post("https://api.test/v1/embeddings", {}, b"{}", most_bytes=MB)
        error = raised.value
        assert type(error) is kind
        assert error.unsent
        name = f"the proxy 127.0.0.1:{proxy.port} (HTTPS_PROXY)"
        assert (name if way == "environment" else "the proxy of the http_client") in str(error)
        assert PASSWORD not in "".join(traceback.format_exception(error)) + repr(vars(error))
        assert (len(proxy.asked), server.ledger.requests) == (1, 0)
        await made.aclose()
        if given:
            await given.aclose()


async def test_e1_the_user_of_a_proxy_is_told_to_it_and_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    async with far_away(user=f"me:{PASSWORD}") as (server, proxy):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", f"//me:{PASSWORD}@"))
        async with embedder_of_far_away() as embedder:  # type: ignore[attr-defined]
            assert (await embed(embedder, numbers(5))).report.stored == 5
            assert PASSWORD not in repr(embedder)
        assert server.ledger.accepted == 1


@pytest.mark.parametrize("status", [407, 403])
async def test_e1_a_refusal_by_the_proxy_stops_a_job_at_once(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with far_away(status=status) as (_, proxy):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with embedder_of_far_away(concurrency=1) as embedder:  # type: ignore[attr-defined]
            outcome = await embed(embedder, numbers(50))
        assert isinstance(outcome.error, AuthenticationError if status == 407 else PermissionDeniedError)
        assert (outcome.report.failed, outcome.report.pending, len(proxy.asked)) == (0, 50, 1)


async def test_e1_a_407_to_a_plain_request_is_the_proxys_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(reply()) as server, tunnel(server.port, status=407) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with pytest.raises(AuthenticationError, match=r"the proxy .* wants a user name") as raised:
            await post("http://infinity:7997/v1/embeddings")
        assert raised.value.status_code == 407


async def test_e1_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        monkeypatch.setenv("ALL_PROXY", f"http://me:{PASSWORD}@127.0.0.1:{port}")
        with pytest.raises(
            UnavailableError, match=rf"no connection to the proxy 127\.0\.0\.1:{port} \(ALL_PROXY\)"
        ) as raised:
            await post("https://api.test/v1/embeddings")
    assert PASSWORD not in str(raised.value)
    assert raised.value.unsent


async def test_e1_a_certificate_behind_a_proxy_is_told_with_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    async with far_away() as (_, proxy):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(NotFoundError, match=r"certificate of api\.test by way of the proxy .* cannot be trusted"):
            await post("https://api.test/v1/embeddings")


async def test_e1_https_to_a_proxy_that_speaks_plain_http_says_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    async with far_away() as (_, proxy):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http:", "https:"))
        with pytest.raises(NotFoundError, match="may speak plain http; write http:// in it"):
            await post("https://api.test/v1/embeddings")


@pytest.mark.parametrize("proxy", ["http://proxy.example:99999", "proxy:0", "http://a..b:1", "http://%", "x" * 300])
@pytest.mark.parametrize("variable", ["ALL_PROXY", "https_proxy"])
async def test_d6_a_proxy_that_cannot_be_is_told_with_its_variable(
    proxy: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, proxy)
    with pytest.raises(ConfigError, match=f"^{variable} names no proxy that can be used"):
        await post("https://api.test/v1/embeddings")


@pytest.mark.skipif(find_spec("socksio") is not None, reason="httpx[socks] is installed")
@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS5"])
async def test_d6_a_socks_proxy_without_its_package_names_variable_and_package(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:1080")
    with pytest.raises(ConfigError, match=r"^ALL_PROXY names a SOCKS proxy.*pip install 'httpx\[socks\]'"):
        await post("https://api.test/v1/embeddings")


async def test_d6_a_proxy_that_hangs_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def hang_up() -> None:
            listener.accept()[0].close()

        hung_up = Thread(target=hang_up)
        hung_up.start()
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{port}")
        with pytest.raises(UnavailableError, match=rf"the proxy 127\.0\.0\.1:{port} \(ALL_PROXY\)"):
            await post("https://api.test/v1/embeddings")
        hung_up.join()


async def test_d6_exceptions_without_a_proxy_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1,::1,.internal,10.0.0.0/8")
    async with serving(reply()) as server:
        assert await post(f"http://127.0.0.1:{server.port}/v1/embeddings")
