"""Whether anybody looks on as httpx works: an instrumentation, a recorder, a mock, which patch its classes.

A lone query takes half a millisecond more where httpx is asked: so a client of our own is asked only where that can be
seen by anybody.
"""

from __future__ import annotations

from operator import is_
from types import FunctionType
from typing import Any

import httpcore
import httpx


def _parts() -> tuple[Any, ...]:
    """What a request of an AsyncClient passes through, and what is patched in practice."""
    client, transport = httpx.AsyncClient, httpx.AsyncHTTPTransport
    return (
        client,
        transport,
        client.__init__,
        client.send,
        # Private names, which some instrumentations patch and a later httpx may not have.
        getattr(client, "_send_single_request", None),
        getattr(client, "_transport_for_url", None),
        transport.handle_async_request,
        httpcore.AsyncConnectionPool.handle_async_request,
    )


def is_original(part: Any) -> bool:
    """By `type` and not by `isinstance`: the wrappers of instrumentations say that they are what they wrap."""
    if type(part) is FunctionType:
        home = str(part.__globals__.get("__name__"))
        return home.startswith(("httpx.", "httpcore.")) and not hasattr(part, "__wrapped__")
    return type(part) is type and part.__module__ == "httpx"


_ORIGINALS: list[tuple[Any, ...]] = []
"""The parts as httpx made them, once they were seen so: to compare is faster than to look into them."""


def is_watched() -> bool:
    parts = _parts()
    if _ORIGINALS and all(map(is_, parts, _ORIGINALS[0])):
        return False
    if not all(map(is_original, parts)):
        return True
    _ORIGINALS[:] = [parts]
    return False
