"""A column of a SQLite table that several jobs fill at once: what each is about to send is leased, by fingerprint.

The leases are those of a SQLite store, in the same two tables. A column keeps no fingerprints beside its vectors, so
that a lease says nothing of rows which are filled: whoever gets one, or waits for one, looks at the row itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from hashlib import blake2b
from sqlite3 import Connection

from aembed.stores._sqlite import _bookkeeping as books
from aembed.stores._sqlite import _leases as leases
from aembed.stores._sqlite._columns import native, read_layout
from aembed.stores._sqlite._opened import OpenedColumn
from aembed.stores._sqlite._rows import vector
from aembed.types import Vector

# Computed: among a million columns the chance that two have the same 64 bits is one in 37 million. Then one of two jobs
# would wait for the other without need, and nothing would be lost.
PREFIX_BYTES = 8


class SharedColumn(OpenedColumn):
    """The methods of `Shares`. Workers of all columns of a file, and of a store in it, know of each other."""

    async def join(self, seconds: float) -> tuple[int, bool] | None:
        """A new worker: its token, and whether it is alone. It lives so many seconds without `lease`. See Leases."""
        return await self._database.write_lightly(partial(leases.join, seconds))

    async def others(self, token: int) -> bool:
        """Whether a worker with another token lives."""
        return await self._database.read(partial(leases.others, token), False)

    async def lease(
        self, token: int, wanted: Collection[bytes], *, done: Collection[bytes] = (), seconds: float
    ) -> AbstractSet[bytes]:
        """Kept in `aembed_leases`, under names that no other column has."""
        prefix = blake2b(repr(self._target).encode(), digest_size=PREFIX_BYTES).digest()
        names, given_up = [prefix + each for each in wanted], [prefix + each for each in done]
        lease = partial(leases.lease, token, names, given_up, seconds, None)
        return {name[PREFIX_BYTES:] for name in await self._database.write_lightly(lease)}

    async def leave(self, token: int) -> None:
        await self._database.write_lightly(partial(leases.leave, token))

    async def settled(self, texts: Mapping[str, str]) -> Mapping[str, Vector | None]:
        """Those of these ids whose row is not pending with that text: its vector, or None where it has another text by
        now, or is gone."""
        return await self._database.read(lambda connection: dict(self._settled(texts, connection)), {})

    def _settled(self, texts: Mapping[str, str], connection: Connection) -> Iterator[tuple[str, Vector | None]]:
        held = books.space(self._target, connection)
        size_bytes = (held.dimensions or 0) * 4 if held else 0
        look = read_layout(self._names, connection, held).select_settled()
        for id, text in texts.items():
            row = connection.execute(look, (text, *native(id))).fetchone()
            if row is None:
                yield id, None
                continue
            is_same, is_filled, blob = row
            if is_same and is_filled and isinstance(blob, bytes) and len(blob) == size_bytes:
                yield id, vector(blob)
            elif is_filled or not is_same:
                yield id, None
