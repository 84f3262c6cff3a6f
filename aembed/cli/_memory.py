"""What the store remembers of the files that its rows were read from.

A file is not read again where it has the size, the times and the inode that it had when it was read, and where files
are read, and texts embedded, as they were then. That is believed of a source (a PATH) only while it has as many rows in
the store as came of its files: whoever adds or removes rows by other means makes all of it be read again. So does a run
that did not come to its end, and another one at the same time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b

from aembed.protocols import RemembersFiles
from aembed.sources import Source
from aembed.sources._files import File
from aembed.sources._hashes import IdHashes
from aembed.sources._reading import ReadFile, Reading
from aembed.sources._way import way_of
from aembed.types import FilePart, KnownFiles

# Chosen: 512 KB. Smaller, more rows of the store for a large table; larger, more memory for each.
IDS_PER_PART = 65_536
# Chosen: transactions of a few hundredths of a second. Larger, others wait for longer; smaller, more of them.
PARTS_AT_ONCE, BYTES_AT_ONCE = 5_000, 2_000_000


class FileMemory:
    """Of the PATHs of one command."""

    def __init__(self, store: RemembersFiles, known: Mapping[str, KnownFiles], believed: Iterable[str]) -> None:
        self._store = store
        self._known = known
        self._believed = set(believed)
        self._distrusted: set[File] = set()
        self._begun: dict[str, int | None] = {}

    @classmethod
    async def load(
        cls, store: RemembersFiles, roots: Iterable[str], rows: Mapping[str, int], *, reread: bool = False
    ) -> FileMemory:
        """`rows` is how many the store has of each source. `reread`: nothing of it is believed."""
        found = [(root, await store.known_files(root)) for root in roots]
        known = {root: files for root, files in found if files is not None}
        right = [root for root, files in known.items() if not files.is_open and files.rows == rows.get(root, 0)]
        return cls(store, known, () if reread else right)

    def unchanged_files(self, source: Source, kind: bytes) -> dict[File, int]:
        """The files that have not changed, with how many rows each has in the store."""
        way, found = _way(source, kind), dict[File, int]()
        known = {root: self._known[root].files for root in self._believed if self._known[root].files}
        special = self._distrusted.union(source.apart)
        for entry in source.entries if known else ():
            if not isinstance(entry, File) or entry.root not in known or entry in special:
                continue
            held = known[entry.root].get(entry.name)
            if held and entry.state and held[0] == entry.state + way:
                found[entry] = held[1]
        return found

    def distrust(self, files: Iterable[File]) -> None:
        """They are to be read."""
        self._distrusted.update(files)

    async def ids(self, files: Iterable[File]) -> AsyncIterator[tuple[File, bytes]]:
        """The hashes of the ids of these files, in parts."""
        wanted = {(file.root, file.name): file for file in files}
        for root in {root for root, _ in wanted if root}:
            async for path, hashes in self._store.file_ids(root):
                if file := wanted.get((root, path)):
                    yield file, hashes

    async def begin(self) -> None:
        """Rows are about to be written: until the end nothing is believed."""
        for root, files in self._known.items():
            if files.generation:
                await self._begin(root)

    async def _begin(self, root: str) -> int | None:
        if root not in self._begun:
            generation, anew = self._known[root].generation, root not in self._believed
            self._begun[root] = await self._store.begin_files(root, generation, anew=anew)
        return self._begun[root]

    async def keep(self, source: Source, reading: Reading, kind: bytes, rows: Mapping[str, int]) -> None:
        """Remembers what was read, all of which is in the store but for what has failed. `rows` is what the store has
        of each source by now.
        """
        way = _way(source, kind)
        for root in self._known:
            files = [read for read in reading.files if read.file.root == root]
            gone = self._gone(source, reading, root) if root in self._believed else []
            others = rows.get(root, 0) - reading.count_rows(root)
            is_same = root in self._believed and not files and not gone and others == self._known[root].others
            # Fewer rows than were read: somebody removes them meanwhile.
            if others < 0 or (is_same and root not in self._begun) or (generation := await self._begin(root)) is None:
                continue
            for parts in _portions(part for read in files for part in _parts(read, reading.ids, way)):
                await self._store.remember_files(root, generation, parts)
            if gone:
                await self._store.remember_files(root, generation, (), gone)
            await self._store.end_files(root, generation, others)

    def _gone(self, source: Source, reading: Reading, root: str) -> list[str]:
        known = self._known[root].files
        if len(source.roots) == 1 and len(reading.unchanged) == len(known):
            return []
        names = {entry.name for entry in source.entries if isinstance(entry, File) and entry.root == root}
        return [name for name in known if name not in names]


def _way(source: Source, kind: bytes) -> bytes:
    return blake2b(kind + way_of(source.fields), digest_size=16).digest()


def _parts(read: ReadFile, ids: IdHashes, way: bytes) -> Iterator[FilePart]:
    if read.failed or not read.state:
        yield FilePart(read.file.name, 0, b"", read.rows, b"")
        return
    first, end = read.first_id, read.first_id + read.items
    yield FilePart(read.file.name, 0, read.state + way, read.rows, ids.read(first, min(end, first + IDS_PER_PART)))
    for part, start in enumerate(range(first + IDS_PER_PART, end, IDS_PER_PART), start=1):
        yield FilePart(read.file.name, part, b"", 0, ids.read(start, min(end, start + IDS_PER_PART)))


def _portions(parts: Iterable[FilePart]) -> Iterator[Sequence[FilePart]]:
    portion, size_bytes = list[FilePart](), 0
    for part in parts:
        portion.append(part)
        size_bytes += len(part.ids)
        if len(portion) >= PARTS_AT_ONCE or size_bytes >= BYTES_AT_ONCE:
            yield portion
            portion, size_bytes = [], 0
    if portion:
        yield portion
