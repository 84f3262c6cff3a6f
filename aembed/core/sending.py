"""This module is how a transport says that nothing of a request has left yet.

Law 1: a request that was sent is never cancelled, for it is paid for. Until something has left, whoever wanted the
request may let go of it, and it costs nothing. A provider that says nothing of
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
"""A transport writes `with not_sent_yet.get()():` around its wait for a connection. That wait is cancelled, with
NotSent, where nobody waits for the request any more."""
