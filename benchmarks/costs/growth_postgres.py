"""PostgreSQL as `benchmarks.growth` writes to it, and what it uses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import asyncpg
import psutil

from tests.stage.postgres import Server, create_database, drop_database

SETTINGS = {"fsync": "on", "shared_buffers": "128MB"}
"""As PostgreSQL has them by default; the tests' server has others."""
USED = """SELECT pg_current_wal_lsn() - '0/0'::pg_lsn, (SELECT sum(coalesce(write_bytes, 0) + coalesce(extend_bytes, 0))
    FROM pg_stat_io WHERE context <> 'init')"""
_STATISTICS_AFTER = 1.5
"""Seconds. A process of the server tells what it wrote once a second."""


class Postgres:
    """The tests' server, with the settings that a server has. Started with its first use."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._admin: asyncpg.Connection | None = None
        self._cpu = 0.0

    async def database(self, name: str) -> str:
        """A new one."""
        server = self._server = self._server or await asyncio.to_thread(_started)
        await asyncio.to_thread(drop_database, server.url, name)
        url = await asyncio.to_thread(create_database, server.url, name)
        self._admin = self._admin or await asyncpg.connect(server.url)
        return url

    async def used(self) -> Mapping[str, float]:
        """What the server used since its start.

        Bytes are not those of /proc: the kernel counts whole folios, which are 1 MB for a segment of the log.
        """
        assert self._server is not None
        assert self._admin is not None
        wal, written = await self._admin.fetchrow(USED)
        first = psutil.Process(int((self._server.data / "postmaster.pid").read_text().split()[0]))
        cpu = 0.0
        for process in [first, *first.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                cpu += sum(process.cpu_times()[:4])
        # What a process used that has just ended is its parent's a moment later.
        self._cpu = max(self._cpu, cpu)
        return {"wal": int(wal), "written": int(written), "cpu": self._cpu}

    async def settle(self) -> None:
        """Waits until what was committed is in the files, and counted. Does nothing without a server."""
        if self._admin is not None:
            await self._admin.execute("CHECKPOINT")
            await asyncio.sleep(_STATISTICS_AFTER)

    async def stop(self) -> None:
        if self._admin is not None:
            await self._admin.close()
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)


def _started() -> Server:
    server = Server()
    with (server.data / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
    server.halt("fast")
    server.start()
    return server
