"""One event loop in a thread of its own, for callers that are not asynchronous. After a fork there is a new one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from threading import Lock, Thread
from typing import Any, TypeVar

T = TypeVar("T")

_lock = Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}
"""By the process."""


def run_in_background(coroutine: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns, from any thread, also one whose own loop runs: that one stands still meanwhile."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _loop() -> asyncio.AbstractEventLoop:
    with _lock:
        loop = _loops.get(os.getpid())
        if loop is None:
            _loops.clear()
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            Thread(target=loop.run_forever, name="aembed", daemon=True).start()
        return loop
