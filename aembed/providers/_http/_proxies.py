"""The proxies that the environment names (on Windows and macOS the system, too), as httpx reads them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass

from aembed.core.addresses import address_of, is_loopback
from aembed.errors import (
    AuthenticationError,
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    ProviderError,
    UnavailableError,
)
from aembed.providers._http._names import in_ascii
from aembed.providers._urls import is_name

_PORTS = {"http": 80, "https": 443}
_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Proxy:
    """`variable` names it. Its URL may hold a password; `str` is its host and port."""

    variable: str
    host: str
    url: str = field(repr=False)

    def __str__(self) -> str:
        return f"the proxy {self.host} ({self.variable})"


def proxy_for(url: str) -> Proxy | None:
    """The proxy that requests to this URL go through. Raises ConfigError for one that cannot be used.

    None for this machine, whatever the environment says: a proxy would get the texts, and could not reach it.
    """
    parts = urlsplit(url)
    host, port = (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme, 0)
    if is_loopback(host):
        return None
    proxies = getproxies()
    kind = next((kind for kind in (parts.scheme, "all") if proxies.get(kind)), None)
    if kind is None or _is_excepted(parts.scheme, host, port, proxies.get("no", "")):
        return None
    # The exceptions of Windows and macOS hold where the environment names no proxy. NO_PROXY was read above, by httpx's
    # rules, which are not those of urllib's proxy_bypass.
    if not getproxies_environment() and proxy_bypass(host):
        return None
    names = (f"{kind}_proxy", f"{kind.upper()}_PROXY")
    variable = next((name for name in names if os.environ.get(name)), "the system's settings")
    return _check_proxy(proxies[kind], variable)


def refusal_of_proxy(proxy: Proxy | None, said: str, host: str) -> ProviderError:
    """What a proxy means that does not let a request through: `said` begins with its status, or is told by httpcore."""
    name = str(proxy) if proxy else "the proxy of the http_client"
    found = re.match(r"([1-5]\d\d)\b", said)
    status = int(found[1]) if found else None
    if status == 407 or "username" in said.lower() or "authentication" in said.lower():
        example = f"{proxy.variable}=http://USER:PASSWORD@{proxy.host}" if proxy else "httpx.Proxy(url, auth=...)"
        error: ProviderError = AuthenticationError(
            f"{name} wants a user name and a password, or refused them: {example}"
        )
    elif status == 403 or "not allowed" in said.lower():
        error = PermissionDeniedError(f"{name} lets nothing through to {host}: {said[:100]}")
    elif status is not None and 400 <= status < 500 and status not in (408, 425, 429):
        error = NotFoundError(f"{name} does not lead to {host}: {said[:100]}")
    else:
        error = UnavailableError(f"{name} has no connection to {host}: {said[:100]}")
    error.status_code = status
    return error


def _check_proxy(url: str, variable: str) -> Proxy:
    """Shows no part of the URL that may be secret."""
    url = url.strip() if "://" in url else f"http://{url.strip()}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), None
    name = parts.hostname or ""
    if not _may_be_proxy(name) or port == 0 or parts.scheme not in _SCHEMES or any(c.isspace() for c in url):
        raise ConfigError(f"{variable} names no proxy that can be used; it looks like http://proxy.example.com:3128")
    if parts.scheme.startswith("socks") and find_spec("socksio") is None:
        raise ConfigError(f"{variable} names a SOCKS proxy, for which a package is missing: pip install 'httpx[socks]'")
    host = f"[{name}]" if ":" in name else name
    return Proxy(variable, f"{host}:{port}" if port else host, url)


def _may_be_proxy(host: str) -> bool:
    if not host or address_of(host.partition("%")[0]) is not None:
        return bool(host)
    return is_name(host if host.isascii() else in_ascii(host))


def _is_excepted(scheme: str, host: str, port: int, no_proxy: str) -> bool:
    names = [name.strip().lower() for name in no_proxy.split(",")]
    return "*" in names or any(_is_named_by(name, scheme, host, port) for name in names if name)


def _is_named_by(name: str, scheme: str, host: str, port: int) -> bool:
    """Whether this part of NO_PROXY means that host: a URL's start, a host and all below it, an address, a network."""
    if "://" in name:
        named_scheme, _, name = name.partition("://")
        if named_scheme not in (scheme, "all"):
            return False
    try:
        return ip_address(host) in ip_network(name.strip("[]"), strict=False)
    except ValueError:
        pass
    named, _, named_port = name.rpartition(":")
    if named and named_port.isdecimal():
        if int(named_port) != port:
            return False
        name = named.strip("[]")
    if name.startswith("."):
        return host.endswith(name)
    return host == name or (name != "localhost" and host.endswith(f".{name}"))
