"""Law 6 for a store's own table: a row is written the way a job will write it, looked at, and taken back."""

from __future__ import annotations

from functools import partial

from aembed.errors import StoreError
from aembed.stores._postgresql import _rows as sql
from aembed.stores._postgresql._database import Connection
from aembed.stores._postgresql._hooks import Hook, name_hooks
from aembed.stores._postgresql._parts import DroppedError
from aembed.stores._postgresql._proof import try_write
from aembed.stores._postgresql._tables import StoreLayout
from aembed.stores._rules import probe_ids, probe_matrix
from aembed.types import Rows

ADVICE = "write the names in a trigger's function with their schema, or ALTER FUNCTION ... SET search_path = ..."
"""Rows are written with a search path of the server's own names only."""
ONE = "SELECT id, fingerprint, digest FROM {rows} LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED"


async def check(place: str, hooks: tuple[Hook, ...], layout: StoreLayout, connection: Connection) -> None:
    """Raises StoreError where neither a row of ours is kept nor one that is there already.

    A new row that is refused for what it is proves nothing while the table is empty: the job's may be others.
    """
    if rules := tuple(hook for hook in hooks if hook.kind == "rule"):
        raise StoreError(
            f"{place} cannot be written: INSERT ... ON CONFLICT knows no rules; DROP the {name_hooks(rules)}"
        )
    found, there = await connection.fetchrow(layout.sql(ONE)), None
    if found is not None:
        # What forbids updates, and not for what a row is, is raised: a publication, say.
        id, fingerprint, digest = found
        there = await _try_row(id, fingerprint, digest, hooks, place, layout, connection)
    for id in probe_ids():
        new = await _try_row(id, b"", b"", hooks, place, layout, connection)
        if new is None:
            return
    if found is None and isinstance(new, DroppedError):
        raise new from None
    if there is not None:
        raise there from None


async def _try_row(
    id: str,
    fingerprint: bytes,
    digest: bytes,
    hooks: tuple[Hook, ...],
    place: str,
    layout: StoreLayout,
    connection: Connection,
) -> StoreError | None:
    """Why a row with that id is not kept."""
    matrix = probe_matrix(layout.dimensions or 1)
    row = Rows([id], ["a row that is taken back"], [None], [None], [fingerprint], [digest], matrix)
    write = partial(sql.upsert, row, [0], True, hooks, None, None, layout, connection)
    return await try_write(write, place, connection, advice=ADVICE)
