"""This module tells which hosts and URLs mean this machine, by how they are written: nothing is looked up."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether the host is localhost, a name below it, or an address in 127.0.0.0/8 or ::1.

    RFC 6761, section 6.3: names below localhost are this machine, and are never asked for elsewhere.
    """
    address = address_of(host)
    if address is None:
        return f".{host.lower().removesuffix('.')}".endswith(".localhost")
    # ::ffff:127.0.0.1 is this machine too, and is_loopback of older Pythons does not say so.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def is_same_place(one: str, other: str) -> bool:
    """Whether two URLs mean one server: this machine has several names, while a port and a path have one."""
    if one == other:
        return True
    first, second = urlsplit(one), urlsplit(other)
    if (first.scheme, first.port, first.path) != (second.scheme, second.port, second.path):
        return False
    return all(url.hostname is not None and is_loopback(url.hostname) for url in (first, second))


def address_of(host: str) -> IPv4Address | IPv6Address | None:
    """The address that a host is written as; None where it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None
