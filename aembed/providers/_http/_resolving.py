"""Names of hosts become addresses in daemon threads of our own.

A lookup may take a minute where DNS is out of order. In the event loop's default executor it would hold up the
program's own threads, and the end of `asyncio.run`, which waits for them; here it holds up nothing.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import TypeAlias

from aembed.core.addresses import is_loopback


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect to, in numbers."""

    ipv6: bool
    host: str
    port: int


_LookupAnswer: TypeAlias = "list[Address] | OSError"


@dataclass(eq=False, repr=False)
class Resolver:
    """One lookup for each host at a time, shared by all who ask meanwhile. Belongs to one event loop."""

    _under_way: dict[tuple[str, int], asyncio.Future[_LookupAnswer]] = field(default_factory=dict)

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Those of the host, the preferred one first; never none. Raises OSError."""
        with suppress(socket.gaierror):
            # An address in numbers needs no lookup, and so no thread.
            return _addresses(host, port, socket.AI_NUMERICHOST)
        lookup = self._under_way.get((host, port)) or self._begin(host, port)
        # Whoever is cancelled leaves the lookup to the others.
        found = await asyncio.shield(lookup)
        if isinstance(found, OSError):
            raise found
        return found

    def _begin(self, host: str, port: int) -> asyncio.Future[_LookupAnswer]:
        loop = asyncio.get_running_loop()
        lookup: asyncio.Future[_LookupAnswer] = loop.create_future()
        self._under_way[host, port] = lookup
        lookup.add_done_callback(lambda _: self._under_way.pop((host, port), None))
        Thread(target=_look_up, args=(host, port, loop, lookup), name=f"aembed-dns {host}", daemon=True).start()
        return lookup


def _look_up(host: str, port: int, loop: asyncio.AbstractEventLoop, lookup: asyncio.Future[_LookupAnswer]) -> None:
    found: _LookupAnswer
    try:
        found = _addresses(host, port)
    except OSError as error:
        found = error
    # The loop may have been closed meanwhile: then nobody waits any more.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_tell, lookup, found)


def _tell(lookup: asyncio.Future[_LookupAnswer], found: _LookupAnswer) -> None:
    if not lookup.done():
        lookup.set_result(found)


def _addresses(host: str, port: int, flags: int = 0) -> list[Address]:
    # RFC 6761, section 6.3: names below localhost are this machine, which not every resolver knows.
    name = "localhost" if not flags and is_loopback(host) else host
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, "that is no name of a host") from error
    return [_address(family, *place) for family, _, _, _, place in found]


def _address(family: int, host: str | int, port: str | int, _flow: int = 0, scope: int = 0) -> Address:
    """A scope is the number of the network interface that a link-local address belongs to."""
    return Address(family == socket.AF_INET6, f"{host}%{scope}" if scope else str(host), int(port))
