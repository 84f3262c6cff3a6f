"""This module remembers which texts a plan has come to, however many they are, in the memory of a few thousand.

It keeps 8 bytes of each fingerprint. Two texts may have those in common, among ten million once in 370,000 plans: then
the plan counts one request's share too little. The job itself asks the store, by whole fingerprints.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

if TYPE_CHECKING:
    import sqlite3

# Chosen: 6 MB. Smaller, keys come to the disk in shorter rows, and each page is written more often.
MOST_HELD = 65_536
"""So many keys are held in memory before they go to the disk."""
# Chosen: the inner pages of the tree, with ten million keys.
_CACHE_KIB = 8_192
# Measured: SQLite looks up 500 keys at once as fast, each, as 5,000; those before 3.32 take 999 at the most.
_MOST_VARIABLES = 500
_FIND = "SELECT key FROM seen WHERE key IN ({})"


def short_key(key: Any) -> int:
    """What is kept of a fingerprint: its first 8 bytes."""
    return int.from_bytes(key[:8], "little", signed=True)


class SeenKeys:
    """Keys, and whether they have been seen. What is on the disk has no name, and is gone with the process."""

    def __init__(self, most_held: int = MOST_HELD) -> None:
        self._shorten: Callable[[Any], int] = short_key
        self._most_held: float = most_held
        self._held: set[int] = set()
        self._disk: sqlite3.Connection | None = None
        self._lock = anyio.Lock()

    async def add(self, keys: Iterable[Any]) -> None:
        self._held.update(map(self._shorten, keys))
        if len(self._held) >= self._most_held:
            async with self._lock:
                held, self._held = self._held, set()
                if not await anyio.to_thread.run_sync(self._write, sorted(held)):
                    self._most_held = float("inf")
                    self._held |= held

    async def find(self, keys: Collection[Any]) -> set[Any]:
        """Those of the keys that have been seen."""
        shortened = {key: self._shorten(key) for key in keys}
        async with self._lock:
            unknown = set(shortened.values()) - self._held
            found = await anyio.to_thread.run_sync(self._read, unknown) if self._disk and unknown else set[int]()
            return {key for key, short in shortened.items() if short in found or short in self._held}

    def close(self) -> None:
        if self._disk:
            self._disk.close()

    def _write(self, keys: list[int]) -> bool:
        """False where there is no folder, or no room, for a temporary file: the memory may have some."""
        import sqlite3  # not for each program that imports aembed

        try:
            if self._disk is None:
                disk = sqlite3.connect("", isolation_level=None, check_same_thread=False)
                disk.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                disk.execute("PRAGMA journal_mode = OFF")
                disk.execute("CREATE TABLE seen (key INTEGER PRIMARY KEY)")
                self._disk = disk
            self._disk.execute("BEGIN")
            self._disk.executemany("INSERT OR IGNORE INTO seen VALUES (?)", zip(keys))
            self._disk.execute("COMMIT")
        except sqlite3.Error:
            return False
        return True

    def _read(self, keys: AbstractSet[int]) -> set[int]:
        """Nothing is found where the disk has failed: then the plan counts texts twice."""
        import sqlite3

        assert self._disk
        wanted, found = sorted(keys), set[int]()
        with suppress(sqlite3.Error):
            for start in range(0, len(wanted), _MOST_VARIABLES):
                piece = wanted[start : start + _MOST_VARIABLES]
                marks = ",".join("?" * len(piece))
                found.update(key for (key,) in self._disk.execute(_FIND.format(marks), piece))
        return found
