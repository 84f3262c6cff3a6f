"""This module calls `on_event`, and tells of outages; `_request_telling` tells of requests by it.

Where nobody listens there is no Teller, and whoever would tell something has None in its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import Context
from typing import NamedTuple
from urllib.parse import urlsplit

from aembed.errors import ProviderError
from aembed.events import Event, OnEvent, OutageBegan, OutageEnded
from aembed.protocols import HasAddresses, Provider

logger = logging.getLogger("aembed")


class Origin(NamedTuple):
    """Where something happens: what all events begin with."""

    provider: str
    model: str
    address: str = ""
    port: int | None = None


def origin_of(provider: Provider) -> Origin:
    """Host and port, and nothing else of a URL; without an address for several of them."""
    space = provider.space
    if isinstance(provider, HasAddresses):
        return Origin(space.provider, space.model)
    try:
        parts = urlsplit(str(getattr(provider, "base_url", "") or space.endpoint))
        host, port = parts.hostname, parts.port
    except ValueError:  # a Provider of somebody's own may have anything there
        host = port = None
    if not host:
        return Origin(space.provider, space.model)
    return Origin(space.provider, space.model, host, port or {"https": 443, "http": 80}.get(parts.scheme))


class Teller:
    """Calls `on_event`. What that raises touches nothing, and is logged once."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._has_complained = False

    def __call__(self, event: Event, context: Context | None = None) -> None:
        """Tells it in the context of the caller for whom it happened, where that is another one."""
        try:
            # A context in which nothing was set is empty, and so it is false.
            result = self._on_event(event) if context is None else context.run(self._on_event, event)
        except (Exception, asyncio.CancelledError):
            if not self._has_complained:
                logger.exception("%r raised, for a %s; the work goes on", self._on_event, type(event).__name__)
            self._has_complained = True
            return
        if result is not None and isinstance(result, Coroutine):
            result.close()
            if not self._has_complained:
                logger.error("%r gave a coroutine, which nobody awaits: on_event is a plain function", self._on_event)
            self._has_complained = True


class OutageTeller:
    """Tells of the outages of one address, or of all of several: each once, however often it is tried meanwhile."""

    def __init__(self, tell: Teller, origin: Origin) -> None:
        self._tell, self._origin = tell, origin
        self._error: str = ""
        self._status: int | None = None
        self._since: float | None = None

    def note_failure(self, error: BaseException) -> None:
        self._error, self._status = type(error).__name__, status_of(error)

    def began(self, now: float, pause: float) -> None:
        if self._since is None:
            self._since = now
            self._tell(OutageBegan(*self._origin, self._error, self._status, max(0.0, pause)))

    def ended(self, now: float) -> None:
        if self._since is not None:
            seconds, self._since = now - self._since, None
            self._tell(OutageEnded(*self._origin, seconds))


def status_of(error: BaseException) -> int | None:
    return error.status_code if isinstance(error, ProviderError) else None
