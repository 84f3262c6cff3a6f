"""Files, folders and standard input -> records."""

from __future__ import annotations

import weakref
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np

from aembed.errors import ConfigError, InputError
from aembed.results import Failure
from aembed.sources import csv, documents, html, json, jsonl, markdown, plain, rst
from aembed.sources._files import File, Unreadable, find, unreadable_error
from aembed.sources._ids import IdClashes
from aembed.sources._rows import Fields, NothingToRead, NumberedRecord
from aembed.sources._stdin import spool_stdin
from aembed.types import Record

Reader: TypeAlias = Callable[[File, BinaryIO, Fields], Iterator[NumberedRecord]]
Placed: TypeAlias = Record | Failure | NothingToRead

READERS: Mapping[str, Reader] = {
    ".md": markdown.read,
    ".markdown": markdown.read,
    ".rst": rst.read,
    ".txt": plain.read,
    ".html": html.read,
    ".htm": html.read,
    ".jsonl": jsonl.read,
    ".ndjson": jsonl.read,
    ".json": json.read,
    ".csv": csv.read,
    ".tsv": csv.read,
    **dict.fromkeys(documents.TYPES, documents.read),
}
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Root:
    """A PATH, absolute: the `source` of its records. `whole`: all of it was read, nothing in it was broken."""

    source: str
    whole: bool


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Source:
    """What a list of PATHs stands for. Holds names only; `records()` reads, as often as it is called.

    `roots` are the `source` of each PATH, standard input left out: it has no rows that could be gone. `skipped` counts
    the files that are not read, by their ending. `apart` are the files whose names make their ids different: found by
    `Reading.check_ids`, and heeded by each reading that begins afterwards.
    """

    entries: tuple[File | Unreadable, ...]
    fields: Fields
    roots: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    apart: dict[File, File] = field(default_factory=dict)

    def records(self) -> Reading:
        return Reading(self)


class Reading(Iterator[Record | Failure]):
    """One pass over a source, in order: records, and a Failure with index -1 for each line or file that is broken."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._items = _place_items(source)
        self._broken: set[str | None] = set()
        self._hashes = array("q")
        self._finished = False
        self.skipped = Counter(source.skipped)

    def __next__(self) -> Record | Failure:
        for entry, _, item in self._items:
            match item:
                case NothingToRead():
                    self.skipped[entry.ending if isinstance(entry, File) else ""] += 1
                case Failure():
                    self._broken.add(entry.root)
                    return item
                case Record():
                    self._hashes.append(hash(item.id))
                    return item
        self._finished = True
        raise StopIteration

    @property
    def roots(self) -> tuple[Root, ...]:
        """Which PATHs were read whole; none is before the pass has ended."""
        return tuple(Root(root, self._finished and root not in self._broken) for root in self._source.roots)

    def check_ids(self) -> bool:
        """Whether files had to be told apart, because records of two of them have one id: all is to be read again.

        Raises ConfigError if two records of one file have one id, naming both places. Keeps 8 bytes for each record;
        only where two hashes are equal is the source read again.
        """
        hashes = np.sort(np.array(self._hashes, dtype=np.int64))
        suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        clashes = IdClashes(self._source.apart)
        for entry, place, item in _place_items(self._source) if suspects else ():
            if isinstance(item, Record) and hash(item.id) in suspects:
                clashes.add(entry, place, item.id)
        self._source.apart.update(clashes.apart)
        return bool(clashes.apart)


def open_paths(
    paths: Sequence[str | Path],
    *,
    id_field: str | None = None,
    text_field: str = "text",
    metadata_fields: Sequence[str] | None = None,
    delimiter: str | None = None,
    held: Collection[str] = (),
    stdin: BinaryIO | None = None,
) -> Source:
    """Finds what the PATHs stand for; reads no file yet, except `-`: standard input, JSON Lines, up to its end.

    A folder stands for all that it holds in the formats of READERS, each also as .gz; hidden files and folders,
    virtual environments, node_modules, __pycache__ and links that lead out of it are left out. A document is held in
    memory as a whole, a table line by line. Rows are named by `id_field`; None: by the field "id", where there is none
    by their file and line. `metadata_fields` None keeps all other fields of a row; `delimiter` None finds that of a CSV
    by its header. `held` are the PATHs, absolute, that rows are held of: such a folder may be empty meanwhile.

    Raises ConfigError where a PATH is missing, has another ending, or holds nothing to read.
    """
    if not paths:
        raise ConfigError("nothing to read: give at least one file or folder, or '-' for standard input")
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise ConfigError(f"the delimiter {delimiter!r} is not one character, such as ';'")
    fields = Fields(id_field, text_field, None if metadata_fields is None else tuple(metadata_fields), delimiter)
    names = dict.fromkeys(str(path) for path in paths)
    piped = names.pop(STDIN, STDIN) is None
    missing = documents.missing_endings()
    endings = READERS.keys() - set(missing)
    found = [find(Path(name), endings, held=held, missing=missing) for name in names]
    entries: list[File | Unreadable] = [entry for each in found for entry in each.entries]
    spool = spool_stdin(stdin) if piped else None
    entries += [spool] if spool else []
    skipped = sum((each.skipped for each in found), Counter[str]())
    roots = dict.fromkeys(each.root for each in found)
    source = Source(tuple(dict.fromkeys(entries)), fields, tuple(roots), skipped)
    if spool:
        weakref.finalize(source, spool.held.close)
    return source


def _place_items(source: Source) -> Iterator[tuple[File | Unreadable, str, Placed]]:
    try:
        for entry in source.entries:
            match entry:
                case Unreadable(name, _, error):
                    yield entry, name, Failure(name, -1, error)
                case File():
                    named = source.apart.get(entry, entry)
                    yield from ((entry, *placed) for placed in _read(named, source.fields))
    finally:
        documents.OFFICE.close()


def _read(file: File, fields: Fields) -> Iterator[tuple[str, Placed]]:
    line: int | None = None
    try:
        with file.open() as stream:
            for line, item in READERS[file.ending](file, stream, fields):
                place = file.path.as_posix() if line is None else f"{file.path.as_posix()}:{line}"
                yield place, item if isinstance(item, Record) else _make_failure(file, line, item)
    except NothingToRead as error:
        yield file.name, _make_failure(file, None, error) if file.is_given else error
    except InputError as error:
        yield file.name, _make_failure(file, None, error)
    except UnicodeDecodeError:
        yield file.name, _make_failure(file, None, InputError("it is not UTF-8; convert the file"))
    # gzip raises EOFError for a stream that is cut short, and zlib.error for one that is broken.
    except (OSError, EOFError, zlib.error, RecursionError, MemoryError) as error:
        yield (
            file.name,
            Failure(_id(file, line and line + 1), -1, unreadable_error(_place(file, line and line + 1), error)),
        )


def _make_failure(file: File, line: int | None, error: InputError) -> Failure:
    return Failure(_id(file, line), -1, InputError(f"{_place(file, line)}: {error}"))


def _id(file: File, line: int | None) -> str:
    return file.name if line is None else f"{file.name}:{line}"


def _place(file: File, line: int | None) -> str:
    unit = "element" if file.ending == ".json" else "line"
    return file.name if line is None else f"{file.name} {unit} {line}"
