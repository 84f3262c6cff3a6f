"""Files, folders and standard input -> records."""

from __future__ import annotations

import os
import weakref
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, TypeAlias

from aembed.errors import ConfigError, InputError
from aembed.results import Failure
from aembed.sources import documents
from aembed.sources._files import ARROW_ENDINGS, File, Unreadable, find, unreadable_error
from aembed.sources._reading import FileList, Items, Reading, Root
from aembed.sources._rows import Fields, NothingToRead, NumberedRecord
from aembed.sources._spool import Draft, Spool
from aembed.sources._states import UNKNOWN, state_of
from aembed.sources._stdin import spool_stdin
from aembed.types import Record

__all__ = ["READERS", "Reading", "Root", "Source", "missing_endings", "open_paths"]

Reader: TypeAlias = Callable[[File, BinaryIO, Fields], Iterator[NumberedRecord]]


def _read_by(module: str, file: File, stream: BinaryIO, fields: Fields) -> Iterator[NumberedRecord]:
    """Imports it when it is first needed: those that cut documents take longer than all that a run without one does."""
    numbered: Iterator[NumberedRecord] = import_module(f"aembed.sources.{module}").read(file, stream, fields)
    return numbered


READERS: Mapping[str, Reader] = {
    ".md": partial(_read_by, "markdown"),
    ".markdown": partial(_read_by, "markdown"),
    ".rst": partial(_read_by, "rst"),
    ".txt": partial(_read_by, "plain"),
    ".html": partial(_read_by, "html"),
    ".htm": partial(_read_by, "html"),
    ".jsonl": partial(_read_by, "jsonl"),
    ".ndjson": partial(_read_by, "jsonl"),
    ".json": partial(_read_by, "json"),
    ".csv": partial(_read_by, "csv"),
    ".tsv": partial(_read_by, "csv"),
    ".parquet": partial(_read_by, "parquet"),
    ".arrow": partial(_read_by, "arrow"),
    ".feather": partial(_read_by, "arrow"),
    **dict.fromkeys(documents.TYPES, partial(_read_by, "documents")),
}
STDIN = "-"


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Source(FileList):
    """What a list of PATHs stands for. Holds names only; `records()` reads, as often as it is called.

    What a reading parses is kept in the `spool` for the next one.
    """

    fields: Fields = field(kw_only=True)
    spool: Spool = field(default_factory=Spool, kw_only=True)

    def records(self, unchanged: Mapping[File, int] | None = None) -> Reading:
        """`unchanged` are files that are not to be read, with how many rows each has."""
        return Reading(self, partial(_read, self.fields, self.spool), documents.OFFICE.close, unchanged or {})


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
    missing = missing_endings()
    endings = READERS.keys() - set(missing)
    found = [find(Path(name), endings, held=held, missing=missing) for name in names]
    found = list({each.root: each for each in found}.values())
    entries: list[File | Unreadable] = [entry for each in found for entry in each.entries]
    spool = spool_stdin(stdin) if piped else None
    entries += [spool] if spool else []
    skipped = sum((each.skipped for each in found), Counter[str]())
    source = Source(tuple(entries), tuple(each.root for each in found), skipped, fields=fields)
    if spool:
        weakref.finalize(source, spool.held.close)
    return source


def missing_endings() -> tuple[str, ...]:
    """The endings that cannot be read because an extra is not installed."""
    return (*documents.missing_endings(), *(() if find_spec("pyarrow") else ARROW_ENDINGS))


def _read(fields: Fields, spool: Spool, file: File) -> Items:
    if kept := spool.get(file):
        yield from kept[1]
        return kept[0]
    line: int | None = None
    draft = Draft(spool, file)
    try:
        with file.open() as stream:
            before = _state(stream)
            for line, item in READERS[file.ending](file, stream, fields):
                if isinstance(item, Record):
                    draft.add(line, item)
                    yield line, item
                else:
                    draft.drop()
                    yield line, _make_failure(file, line, item)
        if before and file.state_now() == before:
            draft.finish(before)
            return before
    except NothingToRead as error:
        yield None, _make_failure(file, None, error) if file.is_given else error
    except InputError as error:
        yield None, _make_failure(file, None, error)
    except UnicodeDecodeError:
        yield None, _make_failure(file, None, InputError("it is not UTF-8; convert the file"))
    # gzip raises EOFError for a stream that is cut short, and zlib.error for one that is broken.
    except (OSError, EOFError, zlib.error, RecursionError, MemoryError) as error:
        place = _place(file, line and line + 1)
        yield None, Failure(_id(file, line and line + 1), -1, unreadable_error(place, error))
    return UNKNOWN


def _state(stream: BinaryIO) -> bytes:
    """UNKNOWN for standard input, which has been read to its end."""
    try:
        return state_of(os.fstat(stream.fileno()))
    except (OSError, ValueError):
        return UNKNOWN


def _make_failure(file: File, line: int | None, error: InputError) -> Failure:
    return Failure(_id(file, line), -1, InputError(f"{_place(file, line)}: {error}"))


def _id(file: File, line: int | None) -> str:
    return file.name if line is None else f"{file.name}:{line}"


def _place(file: File, line: int | None) -> str:
    unit = "element" if file.ending == ".json" else "row" if file.ending in ARROW_ENDINGS else "line"
    return file.name if line is None else f"{file.name} {unit} {line}"
