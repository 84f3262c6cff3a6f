"""The only importer of httpx: one POST, its reply read up to a limit, every fault a typed error.

Read from the environment, as httpx does: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and
SSL_CERT_DIR. Pass an `http_client` with `trust_env=False` where that is not wanted.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies

import anyio

from aembed.errors import NotFoundError, ProviderError, UnavailableError
from aembed.providers._http._body import MOST_ERROR_BYTES, Take
from aembed.providers._http._direct import DirectClient
from aembed.providers._http._given import GivenClient, HTTPClient, proxied
from aembed.providers._http._message import Exchange, HTTPReply
from aembed.providers._secrets import Secret
from aembed.providers._threads import run_in_thread

__all__ = ["HTTP", "MOST_ERROR_BYTES", "HTTPClient", "HTTPReply", "most_reply_bytes"]

_NEVER_CLEARS = frozenset({"UnsupportedProtocol", "LocalProtocolError", "InvalidURL", "StreamError"})
_HTTP_ERRORS = _NEVER_CLEARS | {"HTTPError", "ProtocolError", "NetworkError", "TimeoutException", "ConnectError"}


def most_reply_bytes(inputs: int, dimensions: int | None) -> int:
    """What a reply to that many inputs may weigh: 32 bytes a number, and 1 MB around them."""
    return inputs * (dimensions or 16_000) * 32 + 1_000_000


class HTTP:
    """Sends requests over at most `concurrency` kept connections, or through the user's `http_client`.

    Its own client belongs to the running event loop: it is made at the first request, made anew in another
    loop, and closed by `aclose`, which must run in the same loop, or else as that loop ends. The user's client is
    never changed or closed.
    """

    def __init__(
        self, *, concurrency: int, http_client: HTTPClient | None = None, connect_timeout: float = 5.0
    ) -> None:
        self._concurrency = concurrency
        self._connect_timeout = connect_timeout
        self._given = GivenClient(http_client, connect_timeout=connect_timeout) if http_client is not None else None
        self._own: DirectClient | GivenClient | None = None
        self._lifetime: AsyncGenerator[None] | None = None
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
        exchange = Exchange(url, headers, content, most_bytes, take)
        outcome = await self._outcome(exchange)
        if isinstance(outcome, ProviderError):
            outcome.at_once = exchange.stale and isinstance(outcome, UnavailableError)
            raise outcome
        return outcome

    async def aclose(self) -> None:
        """Closes the connections that were made here, if they belong to this loop."""
        lifetime, self._lifetime, self._own = self._lifetime, None, None
        if lifetime is not None and self._loop is asyncio.get_running_loop():
            await lifetime.aclose()

    async def _client(self) -> DirectClient | GivenClient:
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        if self._own is None or self._loop is not loop:
            async with self._making:
                if self._own is None or self._loop is not loop:
                    client = await self._new_client()
                    self._lifetime = _lifetime(client)
                    await anext(self._lifetime)
                    self._own, self._loop = client, loop
        return self._own

    async def _new_client(self) -> DirectClient | GivenClient:
        # The environment (on Windows and macOS the system, too) may name a proxy.
        if getproxies():
            return await run_in_thread(proxied, self._concurrency, self._connect_timeout)
        return DirectClient(self._concurrency, self._connect_timeout)

    async def _outcome(self, exchange: Exchange) -> HTTPReply | ProviderError:
        """The error is returned, without the frames it came through: they hold the key, as does what caused it."""
        try:
            return await (await self._client()).post(exchange)
        except ProviderError as error:
            return error.with_traceback(None)
        except Exception as error:
            if not isinstance(error, OSError) and not _names(error) & _HTTP_ERRORS:
                raise
            return _typed(error, urlsplit(exchange.url).netloc)


async def _lifetime(client: DirectClient | GivenClient) -> AsyncGenerator[None]:
    """As an event loop ends, asyncio closes the generators that were left open in it, and this one the connections."""
    try:
        yield
    finally:
        await client.aclose()


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
