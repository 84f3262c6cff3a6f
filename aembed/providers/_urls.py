"""Checks of the URLs that a key may be sent to."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from aembed.core.addresses import address_of, is_loopback
from aembed.errors import ConfigError

_IN_BOTH_SPELLINGS = "open_provider(..., allow_http=True), or --option allow_http=true"
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
# RFC 1035, section 2.3.4: 255 bytes as DNS writes a name, with a length before each label and a 0 at the end.
_MOST_NAME = 253


def check_base_url(url: str, name: str = "base_url", *, allow_http: bool = False) -> str:
    """That URL, its host in ASCII, without a slash at its end. Raises ConfigError, which shows nothing secret.

    https, or http to this machine: a key and private texts travel to it. With `allow_http` any http.
    """
    url = url.strip()
    try:
        if not url.isprintable() or any(map(str.isspace, url)):
            raise ValueError
        parts = urlsplit(url)
        if not (parts.path + parts.query + parts.fragment).isascii():
            raise ValueError
        _ = parts.port
    except ValueError:
        raise ConfigError(f"{name} is not a URL; it looks like https://api.example.com/v1") from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(f"{name} must hold no user name, password, query or fragment; a key is passed as api_key=")
    if not parts.hostname:
        raise ConfigError(f"{name} names no host; it looks like https://api.example.com/v1")
    host = _check_host(parts.hostname, name)
    if parts.scheme == "http" and not allow_http and not is_loopback(host):
        raise _in_clear_error(host, name)
    if parts.scheme not in ("https", "http"):
        raise ConfigError(f"{name} must be https://..., or http:// to this machine; got the host {host!r}")
    if not url.isascii():
        # As it stands in the URL: urlsplit has it in lower case.
        start = parts.netloc.lower().find(parts.hostname)
        url = url.replace(parts.netloc[start : start + len(parts.hostname)], host, 1)
    return url.rstrip("/")


def is_nearby(host: str) -> bool:
    """A private or link-local address, or a name that one's own network alone knows (one label, .local, .internal)."""
    address = address_of(host)
    if address is not None:
        return address.is_private or address.is_link_local
    host = host.lower().removesuffix(".")
    return "." not in host or host.endswith((".local", ".internal", ".lan", ".home.arpa"))


def _check_host(host: str, name: str) -> str:
    """In ASCII. RFC 1035, section 2.3.4: labels of 1 to 63 characters, 253 in all."""
    if address_of(host.partition("%")[0]) is not None:
        return host
    encoded = host
    if not host.isascii():
        from aembed.providers._http._names import in_ascii

        encoded = in_ascii(host)  # as IDNA has it; empty where it has no such name
    if not is_name(encoded):
        raise ConfigError(
            f"{name} names a host that cannot be: {host[:80]!r}; it looks like https://api.example.com/v1"
        )
    return encoded


def is_name(host: str) -> bool:
    """Whether there can be a host of this name, in ASCII."""
    return len(host) <= _MOST_NAME and all(map(_LABEL.fullmatch, host.removesuffix(".").split(".")))


def _in_clear_error(host: str, name: str) -> ConfigError:
    if is_nearby(host):
        return ConfigError(
            f"{name}: {host} is in a network of your own, and http:// to it is not encrypted; "
            f"to send key and texts there all the same: {_IN_BOTH_SPELLINGS}"
        )
    return ConfigError(
        f"{name} must be https://..., or http:// to this machine only; got the host {host!r}, which would get key and "
        f"texts unencrypted, by way of strangers. If that is what you want: {_IN_BOTH_SPELLINGS}"
    )
