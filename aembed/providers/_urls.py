"""Checks of the URLs that a key may be sent to."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from aembed.errors import ConfigError


def checked_base_url(url: str, name: str = "base_url") -> str:
    """That URL without a slash at its end. Raises ConfigError, which shows no part of it that may be secret.

    https, or http to this machine: a key and private texts travel to it.
    """
    parts = _split(url, name)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(f"{name} must hold no user name, password, query or fragment; a key is passed as api_key=")
    if not parts.hostname:
        raise ConfigError(f"{name} names no host; it looks like https://api.example.com/v1")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise ConfigError(
            f"{name} must be https://..., or http:// to this machine only; got the host {parts.hostname!r}"
        )
    return url.strip().rstrip("/")


def _split(url: str, name: str) -> SplitResult:
    try:
        if not re.fullmatch(r"[\x21-\x7e]+", url.strip()):
            raise ValueError
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError:
        raise ConfigError(f"{name} is not a URL; it looks like https://api.example.com/v1") from None
    return parts


def is_loopback(host: str) -> bool:
    """localhost, 127.0.0.0/8 and ::1, by what is written: nothing is looked up."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
