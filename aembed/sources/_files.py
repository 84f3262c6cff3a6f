"""Which files a PATH stands for, and their bytes."""

from __future__ import annotations

import gzip
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from aembed.errors import ConfigError, InputError

SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__"})
# PEP 405: the file that makes a folder a virtual environment.
_VIRTUAL_ENVIRONMENT = "pyvenv.cfg"
# Chosen: twelve characters hold all endings in use; what is longer is a name that has a dot in it.
_ENDING = re.compile(r"\.[\w+-]{1,12}")


@dataclass(frozen=True, slots=True)
class File:
    """A file to read.

    `root` is the PATH given, absolute: `Record.source`; None for standard input. `name` is the path below it, posix
    style; the ids of sections begin with it. `apart`: those of rows do, too, because another file has the same ones.
    """

    path: Path
    name: str
    root: str | None
    ending: str
    apart: bool = field(default=False, kw_only=True)

    @property
    def is_given(self) -> bool:
        """Whether it is itself the PATH, and not found in a folder."""
        return self.root is None or self.root == self.path.as_posix()

    def open(self) -> BinaryIO:
        if self.path.suffix.lower() == ".gz":
            return cast(BinaryIO, gzip.open(self.path, "rb"))
        return self.path.open("rb")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A folder, or a file name, below a PATH that could not be looked into."""

    name: str
    root: str
    error: InputError


def ending(name: str) -> str:
    """The format's ending, `.gz` set aside: `.jsonl` for `data.JSONL.gz`."""
    path = Path(name.lower())
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """What one PATH stands for: what is to be read, sorted, and how many files of which kind are left out."""

    root: str
    entries: tuple[File | Unreadable, ...]
    skipped: Counter[str]


def find(
    path: Path, endings: Collection[str], *, held: Collection[str] = (), missing: Collection[str] = ()
) -> FoundFiles:
    """Raises ConfigError where there is nothing to read, but for a folder whose earlier rows are `held`. `missing` are
    the endings that could be read if their extra was installed.
    """
    # Symbolic links stay: a link that is switched to a new release keeps its rows.
    absolute = Path(os.path.abspath(path))
    if not _is_text(str(absolute)):
        raise ConfigError(f"{str(absolute)!r} is not a UTF-8 path; rename it")
    path = absolute
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        raise ConfigError(
            f"{_printable_name(str(path)[:200])} cannot be read: {error.strerror}; correct the path"
        ) from None
    if is_folder:
        return _find_in_folder(path, endings, held, missing)
    if not is_there:
        raise ConfigError(f"{path} does not exist; correct the path (rows indexed from it earlier are kept)")
    if not path.is_file():
        raise ConfigError(f"{path} is neither a file nor a folder; write it to a file first, or pipe it in as '-'")
    if ending(path.name) in missing:
        raise ConfigError(f"{path}: {extras_to_install([ending(path.name)])}")
    if ending(path.name) not in endings:
        raise ConfigError(
            f"{path} has an ending that aembed does not read; it reads {_list_endings(endings)}, each also as .gz"
        )
    return FoundFiles(path.as_posix(), (File(path, path.name, path.as_posix(), ending(path.name)),), Counter())


def extras_to_install(endings: Collection[str]) -> str:
    return f"to read {' '.join(sorted(endings))}:  pip install 'aembed[documents]'"


def _find_in_folder(
    root: Path, endings: Collection[str], held: Collection[str], missing: Collection[str]
) -> FoundFiles:
    found, skipped = [], Counter[str]()
    for path in _walk(root):
        if isinstance(path, OSError) or _is_wanted(path, root, endings):
            found.append(_entry(path, root, endings))
        else:
            skipped[_kind(path, endings)] += 1
    if not any(isinstance(entry, File) for entry in found) and root.as_posix() not in held:
        found_missing = skipped.keys() & set(missing)
        hint = f"; {extras_to_install(found_missing)}" if found_missing else ""
        raise ConfigError(f"{root} holds nothing that aembed reads: {_list_endings(endings)}, each also as .gz{hint}")
    return FoundFiles(root.as_posix(), tuple(sorted(found, key=lambda entry: entry.name.split("/"))), skipped)


def _kind(path: Path, endings: Collection[str]) -> str:
    """What a file that is left out is told as."""
    kind = ending(path.name)
    if kind in endings:
        return "links" if path.is_symlink() else "no regular files"
    return kind if _ENDING.fullmatch(kind) else "without an ending"


def _entry(path: Path | OSError, root: Path, endings: Collection[str]) -> File | Unreadable:
    if isinstance(path, OSError):
        name = _relative(Path(os.fsdecode(path.filename or root)), root)
        return Unreadable(_printable_name(name), root.as_posix(), unreadable_error(_printable_name(name), path))
    name = _relative(path, root)
    if not _is_text(name):
        error = InputError(f"{_printable_name(name)}: the file name is not UTF-8; rename it")
        return Unreadable(_printable_name(name), root.as_posix(), error)
    return File(path, name, root.as_posix(), ending(path.name))


def _walk(root: Path) -> Iterator[Path | OSError]:
    errors: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=errors.append):
        if _VIRTUAL_ENVIRONMENT in names and Path(folder) != root:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS]
        yield from (Path(folder, name) for name in names if not name.startswith("."))
    # os.walk hands its errors to a function, from which nothing can be yielded: they are told at the end.
    yield from errors


def _is_wanted(path: Path, root: Path, endings: Collection[str]) -> bool:
    if ending(path.name) not in endings or not path.is_file():
        return False
    return not path.is_symlink() or path.resolve().is_relative_to(root.resolve())


def unreadable_error(name: str, error: Exception) -> InputError:
    """What to say of a file or folder that the system does not let us read."""
    if isinstance(error, MemoryError):
        return InputError(f"{name}: skipped: there is not enough memory to read it; split it")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}"
    return InputError(f"{name}: cannot be read: {reason}; repair it and run again")


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _is_text(name: str) -> bool:
    """File names that are not UTF-8 reach Python with lone surrogates (PEP 383); no store takes those."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _printable_name(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _list_endings(endings: Collection[str] | Sequence[str]) -> str:
    return " ".join(sorted(endings))
