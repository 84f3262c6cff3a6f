"""The clock that all waiting is measured by."""

from __future__ import annotations

import asyncio


def now() -> float:
    """Seconds of the running event loop: a simulation replaces it, and no change of the wall clock moves it."""
    return asyncio.get_running_loop().time()
