"""One event loop in a thread of its own, for callers that have none, or several. After a fork there is a new one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from threading import Lock, Thread
from typing import Any, TypeVar

from aembed.errors import ConfigError

T = TypeVar("T")

_lock = Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The one of this process; it begins with the first call."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            Thread(target=_loop.run_forever, name="aembed", daemon=True).start()
        return _loop


def wait_for(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """What the coroutine returns, which runs in that loop; this thread stands still meanwhile.

    Raises ConfigError in the thread of that loop, where both would wait for each other.
    """
    if loop is _running_loop():
        coroutine.close()
        raise ConfigError(
            "this call would stop the event loop that its Embedder is open in; await the async method, "
            "or name the model in the place of the Embedder"
        )
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def await_in(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    """The same for a caller that awaits it, in whatever loop. Cancelled, it cancels the coroutine."""
    if loop is asyncio.get_running_loop():
        return await coroutine
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _begin_anew() -> None:
    """In the child of a fork: its copy of the loop has no thread, and its copy of the lock may be held for ever."""
    global _lock, _loop
    _lock, _loop = Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
