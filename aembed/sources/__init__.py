"""Files, folders and standard input -> records."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import weakref
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np

from aembed.errors import ConfigError, InputError
from aembed.sources import csv, html, jsonl, markdown, plain, rst
from aembed.sources._files import File, Unreadable, find, unreadable
from aembed.sources._rows import Fields, Item
from aembed.types import Failure, Record

Reader: TypeAlias = Callable[[File, BinaryIO, Fields], Iterator[Item]]

READERS: Mapping[str, Reader] = {
    ".md": markdown.read,
    ".markdown": markdown.read,
    ".rst": rst.read,
    ".txt": plain.read,
    ".html": html.read,
    ".htm": html.read,
    ".jsonl": jsonl.read,
    ".ndjson": jsonl.read,
    ".csv": csv.read,
    ".tsv": csv.read,
}
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Root:
    """A PATH, absolute: the `source` of its records. `whole`: all of it was read, nothing in it was broken."""

    source: str
    whole: bool


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Source:
    """What a list of PATHs stands for. Holds names only; `records()` reads, as often as it is called."""

    entries: tuple[File | Unreadable, ...]
    fields: Fields

    @property
    def roots(self) -> tuple[str, ...]:
        """The `source` of each PATH, standard input left out: it has no rows that could be gone."""
        return tuple(dict.fromkeys(entry.root for entry in self.entries if entry.root is not None))

    def records(self) -> Reading:
        return Reading(self)


class Reading(Iterator[Record | Failure]):
    """One pass over a source, in order: records, and a Failure with index -1 for each line or file that is broken."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._items = _placed(source)
        self._broken: set[str | None] = set()
        self._hashes = array("q")
        self._finished = False

    def __next__(self) -> Record | Failure:
        try:
            entry, _, item = next(self._items)
        except StopIteration:
            self._finished = True
            raise
        if isinstance(item, Failure):
            self._broken.add(entry.root)
        else:
            self._hashes.append(hash(item.id))
        return item

    @property
    def roots(self) -> tuple[Root, ...]:
        """Which PATHs were read whole; none is before the pass has ended."""
        return tuple(Root(root, self._finished and root not in self._broken) for root in self._source.roots)

    def check_ids(self) -> None:
        """Raises ConfigError if two of the records read so far have one id, naming both places.

        Keeps 8 bytes for each record; only where two hashes are equal is the source read again.
        """
        hashes = np.sort(np.array(self._hashes, dtype=np.int64))
        suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        places: dict[str, str] = {}
        for _, place, item in _placed(self._source) if suspects else ():
            if isinstance(item, Record) and hash(item.id) in suspects:
                _refuse_second(item.id, place, places)


def duplicate_ids(source: Source) -> None:
    """Reads all of it and raises ConfigError if two records have one id."""
    reading = source.records()
    for _ in reading:
        pass
    reading.check_ids()


def open_paths(
    paths: Sequence[str | Path],
    *,
    id_field: str = "id",
    text_field: str = "text",
    metadata_fields: Sequence[str] | None = None,
    stdin: BinaryIO | None = None,
) -> Source:
    """Finds what the PATHs stand for; reads no file yet, except `-`: standard input, JSON Lines, up to its end.

    A folder stands for all that it holds in the formats of READERS, each also as .gz; hidden files and folders,
    virtual environments, node_modules, __pycache__ and links that lead out of it are left out. A document is held in
    memory as a whole, a table line by line. `metadata_fields` None keeps all other fields of a row.

    Raises ConfigError where a PATH is missing, has another ending, or holds nothing to read.
    """
    if not paths:
        raise ConfigError("nothing to read: give at least one file or folder, or '-' for standard input")
    metadata = None if metadata_fields is None else tuple(metadata_fields)
    entries: list[File | Unreadable] = []
    for path in dict.fromkeys(str(path) for path in paths if str(path) != STDIN):
        entries += find(Path(path), READERS.keys())
    piped = any(str(path) == STDIN for path in paths)
    entries += [_spooled(stdin or sys.stdin.buffer)] if piped else []
    source = Source(tuple(dict.fromkeys(entries)), Fields(id_field, text_field, metadata))
    if piped:
        weakref.finalize(source, _removed, entries[-1])
    return source


def _spooled(stdin: BinaryIO) -> File:
    handle, path = tempfile.mkstemp(prefix="aembed-", suffix=".jsonl")
    with open(handle, "wb") as spool:
        shutil.copyfileobj(stdin, spool)
    return File(Path(path), "stdin", None, ".jsonl")


def _removed(spool: File | Unreadable) -> None:
    if isinstance(spool, File):
        os.unlink(spool.path)


def _placed(source: Source) -> Iterator[tuple[File | Unreadable, str, Record | Failure]]:
    for entry in source.entries:
        match entry:
            case Unreadable(name, _, error):
                yield entry, name, Failure(name, -1, error)
            case File():
                yield from ((entry, *placed) for placed in _read(entry, source.fields))


def _read(file: File, fields: Fields) -> Iterator[tuple[str, Record | Failure]]:
    line: int | None = None
    try:
        with file.open() as stream:
            for line, item in READERS[file.ending](file, stream, fields):
                place = file.path.as_posix() if line is None else f"{file.path.as_posix()}:{line}"
                yield place, item if isinstance(item, Record) else _failure(file, line, item)
    except InputError as error:
        yield file.name, _failure(file, None, error)
    except UnicodeDecodeError:
        yield file.name, _failure(file, None, InputError("it is not UTF-8; convert the file"))
    except (OSError, EOFError, zlib.error, RecursionError, MemoryError) as error:
        yield file.name, Failure(_id(file, line and line + 1), -1, unreadable(_place(file, line and line + 1), error))


def _failure(file: File, line: int | None, error: InputError) -> Failure:
    return Failure(_id(file, line), -1, InputError(f"{_place(file, line)}: {error}"))


def _id(file: File, line: int | None) -> str:
    return file.name if line is None else f"{file.name}:{line}"


def _place(file: File, line: int | None) -> str:
    return file.name if line is None else f"{file.name} line {line}"


def _refuse_second(id: str, place: str, places: dict[str, str]) -> None:
    if id in places:
        raise ConfigError(
            f"two inputs have the id {id!r}: {places[id]} and {place}; rename one of them or leave it out"
        )
    places[id] = place
