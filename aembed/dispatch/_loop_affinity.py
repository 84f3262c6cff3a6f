"""This module knows the event loop and process in which something is used."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from aembed.errors import ConfigError


@dataclass(eq=False, repr=False)
class LoopAffinity:
    """The event loop and process that something is used in. It may move once that loop has stopped, or by a fork.

    `closed` says that it was closed in this place; in another one it is opened again.
    """

    loop: asyncio.AbstractEventLoop | None = None
    closed: bool = False
    _process: int = 0

    @property
    def running(self) -> asyncio.AbstractEventLoop | None:
        """That loop, while it runs in this process."""
        runs = self.loop is not None and self._process == os.getpid() and self.loop.is_running()
        return self.loop if runs else None

    def has_moved(self) -> bool:
        """Whether this is another place than before. Raises ConfigError where the other one is still in use."""
        loop, process = asyncio.get_running_loop(), os.getpid()
        if loop is self.loop and process == self._process:
            return False
        if self.running and not self.closed:
            raise ConfigError("this Embedder is in use in another event loop that still runs; make one for each loop")
        self.loop, self._process, self.closed = loop, process, False
        return True
