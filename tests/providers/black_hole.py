"""A port that takes no connection, and refuses none: nothing comes back to whoever dials."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def black_hole() -> Iterator[str]:
    """Its host and port. The queue of the port is full, so that Linux answers no more."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        host, port = listener.getsockname()
        for _ in range(4):
            dials = stack.enter_context(socket.socket())
            dials.setblocking(False)
            dials.connect_ex((host, port))
        yield f"{host}:{port}"
