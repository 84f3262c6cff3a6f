"""This module is how tasks wait for each other: until something has changed, whatever that is."""

from __future__ import annotations

import asyncio


class Notice:
    """Something that is told again and again: each time it wakes all that wait by then, who look for themselves."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    def tell(self) -> None:
        self._event.set()
        self._event = asyncio.Event()
