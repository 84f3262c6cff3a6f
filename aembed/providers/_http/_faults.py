"""What a request that got no reply means: an error that says which host, and what happened, in our words.

httpx's own words may hold a header. What never clears stops the job at once; all else is waited for.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from aembed.errors import ProviderError, UnavailableError
from aembed.providers._http._connection import HandshakeError
from aembed.providers._http._incoming_reply import SpeaksTLSError
from aembed.providers._http._proxies import Proxy, refusal_of_proxy
from aembed.providers._http._tls import error_of_tls, speaks_tls_error

_NEVER_CLEARS = frozenset({"UnsupportedProtocol", "LocalProtocolError", "InvalidURL", "StreamError"})
_HTTP_ERRORS = _NEVER_CLEARS | {"HTTPError", "ProtocolError", "NetworkError", "TimeoutException", "ProxyError"}


def is_of_http(error: Exception) -> bool:
    return isinstance(error, OSError) or bool(_class_names(error) & _HTTP_ERRORS)


def _class_names(error: BaseException) -> set[str]:
    """By name, because httpx and httpx2 have each their own tree, and only one of them need be installed."""
    return {cls.__name__ for cls in type(error).__mro__}


def error_of_fault(error: Exception, url: str, proxy: Proxy | None = None) -> ProviderError:
    names, host = _class_names(error), urlsplit(url).netloc
    if "ProxyError" in names:
        return unsent_error(refusal_of_proxy(proxy, str(error), host))
    way = f" by way of {proxy}" if proxy else ""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError) and (verdict := error_of_tls(cause, f"{host}{way}", proxy)):
            return unsent_error(verdict)
        if isinstance(cause, SpeaksTLSError):
            return unsent_error(speaks_tls_error(host))
    if names & _NEVER_CLEARS:
        return unsent_error(ProviderError(f"the request to {host} could not be built: {type(error).__name__}"))
    if "ConnectTimeout" in names or "ConnectError" in names:
        tls = any(isinstance(cause, ssl.SSLError) for cause in _causes(error))
        return unsent_error(
            UnavailableError(f"no connection to {proxy if proxy and not tls else host}: {_reason(error)}")
        )
    return UnavailableError(f"the connection to {host}{way} broke: {_reason(error)}")


def is_connection_taken(error: Exception) -> bool:
    """Whether the server took the connection, and TLS on it failed."""
    return any(isinstance(cause, HandshakeError) for cause in _causes(error))


def unsent_error(error: ProviderError) -> ProviderError:
    error.unsent = True
    return error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    # Chosen: causes may lead in a circle, and a chain of httpx, httpcore, anyio and ssl is shorter than ten.
    for _ in range(10):
        if error is None:
            return
        if not isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError):  # the state of things, no error
            yield error
        error = error.__cause__ or error.__context__


def _reason(error: Exception) -> str:
    """The operating system's words where there are some, else the class."""
    if "ConnectTimeout" in _class_names(error):
        return "it timed out"
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return re.sub(r" \(_ssl\.c:\d+\)", "", str(cause.strerror))[:200]
    return type(error).__name__
