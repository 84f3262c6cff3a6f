"""One pass over a source: which files are read, and what came of each of them."""

from __future__ import annotations

import time
import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TypeAlias

from aembed.results import Failure
from aembed.sources._files import File, Unreadable
from aembed.sources._hashes import IdHashes, hash_id
from aembed.sources._ids import IdClashes
from aembed.sources._rows import NothingToRead
from aembed.sources._states import UNKNOWN, is_settled
from aembed.types import Record, Unread

Items: TypeAlias = Generator[tuple[int | None, Record | Failure | NothingToRead], None, bytes]
"""What a file holds, each with the line on which it stands; None: a section of a document. Returns the file's state
where that is what it was before, and nothing went wrong; else UNKNOWN."""


@dataclass(frozen=True, slots=True)
class Root:
    """A PATH, absolute: the `source` of its records. `whole`: all of it was read, nothing in it was broken."""

    source: str
    whole: bool


@dataclass(slots=True)
class ReadFile:
    """What came of a file: `items`, records and failures, from position `first` on; its ids from number `first_id` on.

    `state` is UNKNOWN where the file may not be taken for unchanged later on.
    """

    file: File
    first: int
    first_id: int
    items: int = 0
    failed: int = 0
    state: bytes = UNKNOWN

    @property
    def rows(self) -> int:
        """How many of its records are in the store, once the job has ended well."""
        return self.items - self.failed


@dataclass(frozen=True, slots=True, weakref_slot=True)
class FileList:
    """The files of a Source.

    `roots` are the `source` of each PATH, standard input left out: it has no rows that could be gone. `skipped` counts
    the files that are not read, by their ending. `apart` are the files whose names make their ids different: found by
    `Reading.check_ids`, and heeded by each reading that begins afterwards. By the `clock` (nanoseconds since 1970)
    files are too young to be remembered.
    """

    entries: tuple[File | Unreadable, ...]
    roots: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    apart: dict[File, File] = field(default_factory=dict)
    clock: Callable[[], int] = time.time_ns

    def named(self, file: File) -> File:
        return self.apart.get(file, file) if self.apart else file


class Reading(Iterator[Record | Failure | Unread]):
    """One pass over a source, in order: records, and a Failure with index -1 for each line or file that is broken.

    `unchanged` are the files that are not read, with how many rows each has: they come as Unread.
    """

    def __init__(
        self,
        source: FileList,
        read: Callable[[File], Items],
        close: Callable[[], None],
        unchanged: Mapping[File, int],
        hash_id: Callable[[str], bytes] = hash_id,
    ) -> None:
        self._source = source
        self._read = read
        self._close = close
        self.unchanged = unchanged
        self._unread_rows = Counter[str | None]()
        self._began_ns = source.clock()
        # Nothing that is held here refers to this object: what is given up half way is closed at once.
        self._entries = iter(source.entries)
        self._next: File | Unreadable | None = None
        self._items: Items | None = None
        weakref.finalize(self, close)
        self._broken: set[str | None] = set()
        self._finished = False
        self.position = 0
        self.ids = IdHashes(hash_id)
        self.renamed = IdHashes(hash_id)
        """The ids without their files, of rows that had to be told apart."""
        self.files: list[ReadFile] = []
        self.skipped = Counter(source.skipped)

    def __next__(self) -> Record | Failure | Unread:
        while True:
            if self._items is None:
                if (begun := self._begin_next()) is not None:
                    return begun
                continue
            try:
                _, item = next(self._items)
            except StopIteration as end:
                self._items = None
                read = self.files[-1]
                if is_settled(end.value, self._began_ns) and not self._source.named(read.file).apart:
                    read.state = end.value
                continue
            if not isinstance(item, NothingToRead):
                return self._note(item)
            self.skipped[self.files[-1].file.ending] += 1

    @property
    def roots(self) -> tuple[Root, ...]:
        """Which PATHs were read whole; none is before the pass has ended."""
        return tuple(Root(root, self._finished and root not in self._broken) for root in self._source.roots)

    def note_failure(self, index: int) -> None:
        """The input at that position has failed, while it was read or later."""
        number = bisect_right(self.files, index, key=lambda read: read.first) - 1
        if number >= 0 and index < self.files[number].first + self.files[number].items:
            self.files[number].failed += 1

    def count_rows(self, root: str) -> int:
        """How many records of the PATH are in the store, once a job has ended well."""
        return self._unread_rows[root] + sum(each.rows for each in self.files if each.file.root == root)

    def check_ids(self, unread: AbstractSet[File] = frozenset()) -> bool:
        """Whether files had to be told apart, because records of two of them have one id: all is to be read again.

        Raises ConfigError if two records of one file have one id, naming both places. Keeps 8 bytes for each record, on
        disk where they are many; only where two hashes are equal is the source read again, and of the unchanged files
        those that are in `unread`.
        """
        suspects = set(self.ids.repeated().tolist())
        clashes = IdClashes(self._source.apart)
        try:
            for entry in self._source.entries if suspects else ():
                if isinstance(entry, Unreadable) or (entry in self.unchanged and entry not in unread):
                    continue
                for line, item in self._read(self._source.named(entry)):
                    if isinstance(item, Record) and self.ids.hash_of(item.id) in suspects:
                        clashes.add(entry, _place(entry, line), item.id)
        finally:
            self._close()
        self._source.apart.update(clashes.apart)
        return bool(clashes.apart)

    def _begin_next(self) -> Failure | Unread | None:
        """Begins with the next file that is to be read. Those that are not, and follow each other, come as one."""
        if self._next is None and (unread := self._skip_unchanged()):
            self.position += unread
            return Unread(unread)
        following, self._next = self._next, None
        if following is None:
            self._finished = True
            self._close()
            raise StopIteration
        if isinstance(following, File):
            self.files.append(ReadFile(following, self.position, len(self.ids)))
            self._items = self._read(self._source.named(following))
            return None
        self._broken.add(following.root)
        self.position += 1
        return Failure(following.name, -1, following.error)

    def _skip_unchanged(self) -> int:
        """Goes on to the next file that is to be read. Returns how many rows those before it have."""
        unread, unchanged, by_root = 0, self.unchanged, self._unread_rows
        for entry in self._entries:
            rows = unchanged.get(entry) if isinstance(entry, File) else None
            if rows is None:
                self._next = entry
                break
            by_root[entry.root] += rows
            unread += rows
        return unread

    def _note(self, item: Record | Failure) -> Record | Failure:
        read = self.files[-1]
        self.position += 1
        read.items += 1
        if isinstance(item, Failure):
            self._broken.add(read.file.root)
            return item
        self.ids.add(item.id)
        if self._source.apart and self._source.named(read.file).apart:
            self.renamed.add(item.id.partition("#")[2])
        return item


def _place(file: File, line: int | None) -> str:
    path = file.path.as_posix()
    return path if line is None else f"{path}:{line}"
