"""Notifications of the server (LISTEN), on a connection that is held for them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

import asyncpg

from aembed.errors import ConfigError
from aembed.stores._postgresql._database import Connection, PostgresDatabase
from aembed.stores._postgresql._errors import Refused
from aembed.stores._postgresql._noticing import CHANNEL, NOTIFY

# Chosen: a notification takes milliseconds; what does not come in this time is taken for a pooler that passes none.
PROOF_SECONDS = 2.0


class Listener:
    """`told` is set by each notification. It is believed once one that we sent ourselves has come."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._held = AsyncExitStack()
        self._connection: Connection | None = None
        self.told = asyncio.Event()

    @property
    def is_there(self) -> bool:
        try:
            return self._connection is not None and not self._connection.is_closed()
        except asyncpg.InterfaceError:  # It was lost, and its pool has taken it back.
            return False

    async def start(self) -> bool:
        """Whether notifications come. Not through a pooler in transaction mode, nor where a pool of the user's has one
        connection only."""
        await self.stop()
        try:
            await self._database.check_direct()
            if not await self._database.has_room():
                return False
            connection = await self._held.enter_async_context(self._database.session())
            self._connection = connection
            await connection.add_listener(CHANNEL, self._hear)
            # A connection that is lost wakes up whoever waits, and the next look makes another one.
            connection.add_termination_listener(self._hear)
            self.told.clear()
            await self._database.run_once(_notify)
            async with asyncio.timeout(PROOF_SECONDS):
                await self.told.wait()
        except ConfigError:
            return False
        except Refused:
            await self.stop()
            return False
        return True

    async def stop(self) -> None:
        """Gives the connection back as it was."""
        is_there = self.is_there
        connection, self._connection = self._connection, None
        with suppress(*Refused):
            if connection is not None and is_there:
                connection.remove_termination_listener(self._hear)
                await connection.remove_listener(CHANNEL, self._hear)
        with suppress(*Refused):
            await self._held.aclose()

    def _hear(self, *_: Any) -> None:
        self.told.set()


async def _notify(connection: Connection) -> None:
    await connection.execute(NOTIFY)
