"""The only importer of httpx: one POST, its reply read up to a limit, every fault a typed error.

Read from the environment, as httpx does: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and
SSL_CERT_DIR. Pass an `http_client` with `trust_env=False` where that is not wanted.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies

import anyio
import httpx

from aembed.errors import NotFoundError, ProviderError, UnavailableError
from aembed.providers._http._asyncio import DirectTransport
from aembed.providers._http._reading import MOST_ERROR_BYTES, read_body
from aembed.providers._secrets import Secret
from aembed.providers._threads import run_in_thread

__all__ = ["HTTP", "MOST_ERROR_BYTES", "HTTPClient", "HTTPReply", "most_reply_bytes"]

HTTPClient: TypeAlias = Any
"""An `AsyncClient` of httpx or of httpx2."""

Take: TypeAlias = Callable[[bytes], object]

KEEPALIVE_SECONDS = 30.0
_NEVER_CLEARS = frozenset({"UnsupportedProtocol", "LocalProtocolError", "InvalidURL", "StreamError"})
_HTTP_ERRORS = _NEVER_CLEARS | {"HTTPError", "ProtocolError", "NetworkError", "TimeoutException"}


@dataclass(frozen=True, slots=True)
class HTTPReply:
    """Header names are in lower case. The body of an error may be cut short."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


def most_reply_bytes(inputs: int, dimensions: int | None) -> int:
    """What a reply to that many inputs may weigh: 32 bytes a number, and 1 MB around them."""
    return inputs * (dimensions or 16_000) * 32 + 1_000_000


class HTTP:
    """Sends requests over at most `concurrency` kept connections, or through the user's `http_client`.

    Its own client belongs to the running event loop: it is made at the first request, made anew in another
    loop, and closed by `aclose`, which must run in the same loop. The user's client is never changed or closed.
    """

    def __init__(
        self, *, concurrency: int, http_client: HTTPClient | None = None, connect_timeout: float = 5.0
    ) -> None:
        self._concurrency = concurrency
        self._given = http_client
        self._connect_timeout = connect_timeout
        self._own: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._making = anyio.Lock()

    async def post(
        self,
        url: str,
        headers: Mapping[str, str | Secret],
        content: bytes,
        *,
        most_bytes: int,
        take: Take | None = None,
    ) -> HTTPReply:
        """One request; there is no time limit but that for connecting. Raises ProviderError.

        With `take`, the body of a reply that is no error goes there piece by piece, as it comes.
        A kept connection that the server closed as we sent is no answer: the error says that it may be sent `at_once`.
        """
        trace = _Trace()
        outcome = await self._outcome(url, headers, content, most_bytes, take, trace)
        if isinstance(outcome, ProviderError):
            outcome.at_once = trace.stale and isinstance(outcome, UnavailableError)
            raise outcome
        return outcome

    async def aclose(self) -> None:
        """Closes the connections that were made here, if they belong to this loop."""
        client, self._own = self._own, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.aclose()

    async def _client(self) -> HTTPClient:
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        async with self._making:
            if self._own is None or self._loop is not loop:
                # Reading the certificates takes 20 to 100 ms: in a thread (law 11).
                self._own, self._loop = await run_in_thread(self._new_client), loop
        return self._own

    def _new_client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(
            max_connections=self._concurrency,
            max_keepalive_connections=self._concurrency,
            keepalive_expiry=KEEPALIVE_SECONDS,
        )
        # httpx's own transport where the environment (on Windows and macOS the system, too) may name a proxy.
        return httpx.AsyncClient(limits=limits, transport=None if getproxies() else DirectTransport(limits))

    async def _outcome(
        self,
        url: str,
        headers: Mapping[str, str | Secret],
        content: bytes,
        most_bytes: int,
        take: Take | None,
        trace: _Trace,
    ) -> HTTPReply | ProviderError:
        """The error is returned: raised here, it would carry httpx's own, and with that the key, as its context."""
        try:
            return await self._exchange(url, headers, content, most_bytes, take, trace)
        except ProviderError as error:
            return error
        except Exception as error:
            if not isinstance(error, OSError) and not _names(error) & _HTTP_ERRORS:
                raise
            return _typed(error, urlsplit(url).netloc)

    async def _exchange(
        self,
        url: str,
        headers: Mapping[str, str | Secret],
        content: bytes,
        most_bytes: int,
        take: Take | None,
        trace: _Trace,
    ) -> HTTPReply:
        client = await self._client()
        if client.is_closed:
            raise ProviderError("the http_client is closed; pass one that is open for as long as the embedder")
        request = client.build_request(
            "POST",
            url,
            headers=[(name, value.reveal() if isinstance(value, Secret) else value) for name, value in headers.items()],
            content=content,
            extensions={"trace": trace, "timeout": _timeouts(self._connect_timeout)},
        )
        response = await client.send(request, stream=True, follow_redirects=False)
        try:
            body = await read_body(response, most_bytes, take)
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()
        return HTTPReply(response.status_code, {k.lower(): v for k, v in response.headers.items()}, body)


def _timeouts(connect: float) -> dict[str, float | None]:
    """The read timeout is per chunk and proves nothing; the pool is never waited for. The caller has a deadline."""
    return {"connect": connect, "read": None, "write": None, "pool": None}


class _Trace:
    """What the transport did for one request: httpcore calls it at each step."""

    __slots__ = ("_answered", "_connected", "_sent")

    def __init__(self) -> None:
        self._answered = self._connected = self._sent = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        step = event.partition(".")[2]
        self._connected |= step.startswith("connect_")
        self._sent |= step == "send_request_headers.started"
        self._answered |= step == "receive_response_headers.complete"

    @property
    def stale(self) -> bool:
        """The request went out on a kept connection and no reply began."""
        return self._sent and not self._connected and not self._answered


def _names(error: BaseException) -> set[str]:
    """By name, because httpx and httpx2 have each their own tree, and only one of them need be installed."""
    return {cls.__name__ for cls in type(error).__mro__}


def _typed(error: Exception, host: str) -> ProviderError:
    """Says which host and what happened in our words: httpx's own may hold a header."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _unsent(
                NotFoundError(
                    f"the certificate of {host} cannot be trusted: {cause.verify_message}. "
                    "For a private authority: export SSL_CERT_FILE=/path/to/ca.pem"
                )
            )
    names = _names(error)
    if names & _NEVER_CLEARS:
        return _unsent(ProviderError(f"the request to {host} could not be built: {type(error).__name__}"))
    if "ConnectTimeout" in names or "ConnectError" in names:
        return _unsent(UnavailableError(f"no connection to {host}: {_reason(error)}"))
    return UnavailableError(f"the connection to {host} broke: {_reason(error)}")


def _unsent(error: ProviderError) -> ProviderError:
    error.unsent = True
    return error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: Exception) -> str:
    """The operating system's words where there are some, else the class."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return str(cause.strerror)[:200]
    return type(error).__name__
