"""A connection to a host: its addresses tried side by side, TLS on the one that answers first.

Done here and not by the event loop: uvloop tries one address after another, and both look names up in the default
executor.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, zip_longest

from aembed.providers._http._connection import Connection, HandshakeError
from aembed.providers._http._resolving import Address

HAPPY_EYEBALLS_SECONDS = 0.25
"""RFC 8305, section 5: how long one address of a host may take before the next one is tried beside it."""

_CERTIFICATE_REQUEST = 13
"""RFC 8446, section 4."""


async def connect_first(addresses: Sequence[Address], tls: ssl.SSLContext | None, host: str) -> Connection:
    """`host` is whom the certificate must name. Raises OSError: that of the preferred address."""
    connection = await _dial_in_turn(_interleave(addresses))
    if tls is not None:
        await connection.start_tls(tls, host)
    return connection


@dataclass(frozen=True, slots=True)
class ServerProtocol:
    """What a handshake of TLS shows of a server."""

    tls: bool
    wants_certificate: bool


async def find_protocol(addresses: Sequence[Address], host: str) -> ServerProtocol:
    """Trusts anybody, sends no request, and closes. Raises OSError where nobody is there."""
    wanted = []

    def note(_: object, __: object, ___: object, ____: object, kind: int, _____: object) -> None:
        if kind == _CERTIFICATE_REQUEST:
            wanted.append(kind)

    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    # The ssl module tells of a CertificateRequest nowhere else.
    with suppress(AttributeError):  # what CPython has for debugging; elsewhere nothing is noted
        object.__setattr__(anybody, "_msg_callback", note)
    connection = await _dial_in_turn(_interleave(addresses))
    try:
        await connection.start_tls(anybody, host)
    except HandshakeError as error:
        alert = isinstance(error.__cause__, ssl.SSLError) and "ALERT" in (error.__cause__.reason or "")
        return ServerProtocol(alert or bool(wanted), bool(wanted))
    finally:
        connection.abort()
    return ServerProtocol(True, bool(wanted))


def _interleave(addresses: Sequence[Address]) -> list[Address]:
    """RFC 8305, section 4: the families take turns, the preferred one begins."""
    first = [address for address in addresses if address.ipv6 == addresses[0].ipv6]
    other = [address for address in addresses if address.ipv6 != addresses[0].ipv6]
    return [address for address in chain.from_iterable(zip_longest(first, other)) if address]


async def _dial_in_turn(addresses: Sequence[Address]) -> Connection:
    """The first connection that stands. The attempts that it beats are ended."""
    if len(addresses) == 1:
        return await _attempt(addresses[0])
    untried, attempts = list(addresses), list[asyncio.Task[Connection]]()
    waiting: set[asyncio.Task[Connection]] = set()
    try:
        while untried or waiting:
            if untried:
                attempts.append(asyncio.create_task(_attempt(untried.pop(0))))
                waiting.add(attempts[-1])
            seconds = HAPPY_EYEBALLS_SECONDS if untried else None
            done, waiting = await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if stands := next((attempt for attempt in done if not attempt.exception()), None):
                # The one that stands is taken off the list first, as all that is left on it is cancelled below.
                attempts.remove(stands)
                return stands.result()
        return await attempts.pop(0)
    finally:
        for attempt in attempts:
            attempt.add_done_callback(_abandon)
            attempt.cancel()


def _abandon(attempt: asyncio.Task[Connection]) -> None:
    if not attempt.cancelled() and not attempt.exception():
        attempt.result().abort()


async def _attempt(address: Address) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, address.host, address.port)
    return connection
