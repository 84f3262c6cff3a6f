"""Rows whose text is gone from the PATHs that were read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import anyio.to_thread

from aembed.cli._inputs import Pass
from aembed.cli._run import ask, is_interactive
from aembed.cli._streams import printable_line, say
from aembed.protocols import RemembersFiles, Store
from aembed.sources._hashes import IdHashes


@dataclass(frozen=True, slots=True)
class GoneRows:
    """Rows of one root; it had `rows` in all before. `renamed` of them have another id now: their file shares ids
    with another one now, or does no longer.
    """

    root: str
    rows: int
    ids: tuple[str, ...]
    renamed: int = 0

    def __str__(self) -> str:
        return f"{len(self.ids):,} of the {self.rows:,} rows of {printable_line(self.root)} are gone from it"


async def find_gone(store: Store, held: Mapping[str, int], reading: Pass) -> tuple[GoneRows, ...]:
    """Rows whose ids were not read. `held` is how many rows each root had before."""
    if reading.reading is None or not held:
        return ()
    if not isinstance(store, RemembersFiles):
        return await _find_gone_of(store, held, reading.ids)
    await reading.add_unread_ids()
    ids, renamed = reading.reading.ids, reading.reading.renamed
    found = []
    for root, rows in held.items():
        if gone := await _ids_missing(store, root, ids):
            new = zip(renamed.has_each(gone), ids.has_each([_id_without_file(id) for id in gone]), strict=True)
            found.append(GoneRows(root, rows, tuple(gone), sum(map(any, new))))
    return tuple(found)


async def _ids_missing(store: RemembersFiles, root: str, ids: IdHashes) -> list[str]:
    """The ids of the root's rows that are not among these. One with the hash of another one counts as being there."""
    theirs = ids.like()
    async for page in store.ids_of(root):
        for id in page:
            theirs.add(id)
    missing = set((await anyio.to_thread.run_sync(ids.missing, theirs)).tolist())
    if not missing:
        return []
    return sorted([id async for page in store.ids_of(root) for id in page if ids.hash_of(id) in missing])


async def _find_gone_of(store: Store, held: Mapping[str, int], keep: AbstractSet[str]) -> tuple[GoneRows, ...]:
    """Of a store that cannot tell its ids. `keep` are those that were read."""
    found = [(root, rows, tuple(await store.stale(root, keep))) for root, rows in held.items()]
    rests = {rest for id in keep if (rest := _id_without_file(id))} if any(ids for _, _, ids in found) else set()
    return tuple(
        GoneRows(root, rows, ids, sum(id in rests or _id_without_file(id) in keep for id in ids))
        for root, rows, ids in found
        if ids
    )


def _id_without_file(id: str) -> str:
    """`7` of `rows.csv#7`."""
    return id.partition("#")[2]


async def remove_gone(store: Store, gone: Iterable[GoneRows], *, whole: Collection[str], yes: bool) -> int:
    """Removes them and returns how many: only of roots that were read whole, and more than half of a root
    only with `yes`, or when somebody says so.
    """
    removed = 0
    for each in gone:
        # Chosen: where more than half is gone it is rather a wrong folder, or a disk that is not mounted, than texts
        # that somebody removed.
        is_most = 2 * (len(each.ids) - each.renamed) > each.rows
        if each.root not in whole:
            say(f"{each}, but not all of it could be read; they are kept")
        elif yes or not is_most or (is_interactive() and ask(f"{each}. Remove them from the store?")):
            removed += await store.delete(each.ids)
        else:
            say(f"{each}; they are kept (--yes removes them, --keep-stale keeps them without a word)")
    return removed
