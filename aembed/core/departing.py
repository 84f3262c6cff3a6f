"""How a transport says that nothing of a request has left yet.

Until it has, whoever wanted the request may let go of it, and it costs nothing (law 1). A provider that says nothing of
this is taken to have sent everything at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar


class NotSent(BaseException):
    """Part of the cancellation of a request of which nothing was sent."""


not_sent_yet: ContextVar[Callable[[], AbstractContextManager[None]]] = ContextVar(
    "aembed_not_sent_yet", default=nullcontext
)
"""`with not_sent_yet.get()():` stands around the wait for a connection. It is cancelled, with NotSent, where nobody
waits any more."""
