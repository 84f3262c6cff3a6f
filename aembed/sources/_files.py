"""Which files a PATH stands for, and their bytes."""

from __future__ import annotations

import errno
import gzip
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from aembed.errors import ConfigError, InputError
from aembed.sources._states import UNKNOWN, state_of

ARROW_ENDINGS = (".parquet", ".arrow", ".feather")
"""Read by pyarrow: the extra `arrow`."""
SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__"})
# PEP 405: the file that makes a folder a virtual environment.
_VIRTUAL_ENVIRONMENT = "pyvenv.cfg"
# Chosen: twelve characters hold all endings in use; what is longer is a name that has a dot in it.
_ENDING = re.compile(r"\.[\w+-]{1,12}")


# A struct, equal to itself alone: to make and to hash 50,000 dataclasses takes as long as to find their files.
class File(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A file to read.

    `root` is the PATH given, absolute: `Record.source`; None for standard input. `name` is the path below it, posix
    style; the ids of sections begin with it. `apart`: those of rows do, too, because another file has the same ones.
    `state` is what the system told of it when it was found.
    """

    place: str | Path
    name: str
    root: str | None
    ending: str
    apart: bool = False
    state: bytes = UNKNOWN

    @property
    def path(self) -> Path:
        return Path(self.place)

    @property
    def is_given(self) -> bool:
        """Whether it is itself the PATH, and not found in a folder."""
        return self.root is None or self.root == self.path.as_posix()

    def may_have(self, inode: bytes) -> bool:
        """Whether it may be the file of that inode."""
        return not self.state or self.state.endswith(inode)

    def open(self) -> BinaryIO:
        if os.fspath(self.place).lower().endswith(".gz"):
            return cast(BinaryIO, gzip.open(self.place, "rb"))
        return open(self.place, "rb")

    def state_now(self) -> bytes:
        """Raises OSError where it is gone."""
        return state_of(os.stat(self.place))


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A folder, or a file name, below a PATH that could not be looked into."""

    name: str
    root: str
    error: InputError


def ending(name: str) -> str:
    """The format's ending, `.gz` set aside: `.jsonl` for `data.JSONL.gz`."""
    name = name.lower()
    if name.endswith(".gz") and name != ".gz":
        name = name[:-3]
    # A folder of 50,000 files asks that often, and pathlib takes ten times as long.
    dot = name.rfind(".")
    return name[dot:] if 0 < dot < len(name) - 1 else ""


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
    try:
        state = state_of(path.stat())
    except OSError:
        state = UNKNOWN  # the reading says what is wrong
    file = File(str(path), path.name, path.as_posix(), ending(path.name), state=state)
    return FoundFiles(path.as_posix(), (file,), Counter())


def extras_to_install(endings: Collection[str]) -> str:
    extras = sorted({"arrow" if ending in ARROW_ENDINGS else "documents" for ending in endings})
    return f"to read {' '.join(sorted(endings))}:  pip install 'aembed[{','.join(extras)}]'"


def _find_in_folder(
    root: Path, endings: Collection[str], held: Collection[str], missing: Collection[str]
) -> FoundFiles:
    found: list[File | Unreadable] = []
    skipped = Counter[str]()
    inside = os.path.join(os.path.realpath(root), "")
    for name, item in _walk(root):
        entry = _entry(name, item, root.as_posix(), endings, inside)
        if isinstance(entry, str):
            skipped[entry] += 1
        else:
            found.append(entry)
    if not any(isinstance(entry, File) for entry in found) and root.as_posix() not in held:
        found_missing = skipped.keys() & set(missing)
        hint = f"; {extras_to_install(found_missing)}" if found_missing else ""
        raise ConfigError(f"{root} holds nothing that aembed reads: {_list_endings(endings)}, each also as .gz{hint}")
    return FoundFiles(root.as_posix(), tuple(found), skipped)


def _entry(
    name: str, item: os.DirEntry[str] | OSError, root: str, endings: Collection[str], inside: str
) -> File | Unreadable | str:
    """What is to be read, or cannot be; or what a file that is left out is told as."""
    if isinstance(item, OSError):
        return Unreadable(_printable_name(name), root, unreadable_error(_printable_name(name), item))
    kind = ending(item.name)
    if kind not in endings:
        return kind if _ENDING.fullmatch(kind) else "without an ending"
    try:
        status = _status(item)
    except OSError as error:
        return _entry(name, error, root, endings, inside)
    is_link = item.is_symlink()
    is_wanted = status is not None and stat.S_ISREG(status.st_mode)
    if status is None or not is_wanted or (is_link and not os.path.realpath(item.path).startswith(inside)):
        return "links" if is_link else "no regular files"
    if not _is_text(name):
        unnamed = InputError(f"{_printable_name(name)}: the file name is not UTF-8; rename it")
        return Unreadable(_printable_name(name), root, unnamed)
    return File(item.path, name, root, kind, state=state_of(status))


def _status(item: os.DirEntry[str]) -> os.stat_result | None:
    """None: there is nothing, as behind a link that leads nowhere."""
    try:
        # On Windows a folder does not hold the inodes of its files.
        return os.stat(item.path) if sys.platform == "win32" else item.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP):
            return None
        raise


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str] | OSError]]:
    """All that is no folder, and what could not be looked into, in the order of their names below the root."""
    levels = [(_list_folder(str(root), is_root=True), "")]
    while levels:
        items, prefix = levels[-1]
        for item in items:
            if isinstance(item, OSError):
                yield prefix.removesuffix("/") or ".", item
            elif not _is_folder(item):
                yield prefix + item.name, item
            elif item.name not in SKIPPED_FOLDERS and not item.is_symlink():
                levels.append((_list_folder(item.path), f"{prefix}{item.name}/"))
                break
        else:
            levels.pop()


def _list_folder(folder: str, *, is_root: bool = False) -> Iterator[os.DirEntry[str] | OSError]:
    try:
        with os.scandir(folder) as listing:
            items = list(listing)
    except OSError as error:
        return iter([error])
    if not is_root and any(item.name == _VIRTUAL_ENVIRONMENT and not _is_folder(item) for item in items):
        return iter([])
    return iter(sorted((item for item in items if not item.name.startswith(".")), key=attrgetter("name")))


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:
        return False


def unreadable_error(name: str, error: Exception) -> InputError:
    """What to say of a file or folder that the system does not let us read."""
    if isinstance(error, MemoryError):
        return InputError(f"{name}: skipped: there is not enough memory to read it; split it")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}"
    return InputError(f"{name}: cannot be read: {reason}; repair it and run again")


def _is_text(name: str) -> bool:
    """File names that are not UTF-8 reach Python with lone surrogates (PEP 383); no store takes those."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable_name(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _list_endings(endings: Collection[str] | Sequence[str]) -> str:
    return " ".join(sorted(endings))
