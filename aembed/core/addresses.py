"""Names of this machine, told by what is written: nothing is looked up."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """localhost and what is below it, 127.0.0.0/8 and ::1.

    RFC 6761, section 6.3: names below localhost are this machine, and are never asked for elsewhere.
    """
    address = address_of(host)
    if address is None:
        return f".{host.lower().removesuffix('.')}".endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def same_place(one: str, other: str) -> bool:
    """Whether two URLs are one: this machine has several names, a port and a path have one."""
    if one == other:
        return True
    first, second = urlsplit(one), urlsplit(other)
    if (first.scheme, first.port, first.path) != (second.scheme, second.port, second.path):
        return False
    return all(url.hostname is not None and is_loopback(url.hostname) for url in (first, second))


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
