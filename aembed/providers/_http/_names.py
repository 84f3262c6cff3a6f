"""Names of hosts in other alphabets."""

from __future__ import annotations

import httpx


def in_ascii(host: str) -> str:
    """As IDNA 2008 has it (`xn--...`); empty where it has no such name."""
    try:
        return httpx.URL(scheme="https", host=host).raw_host.decode("ascii")
    except httpx.InvalidURL:
        return ""
