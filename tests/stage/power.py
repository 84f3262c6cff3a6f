"""A disk that forgets at a power cut what was not synced, under the SQLite library that Python's own sqlite3 uses.

    with recorded(folder) as disk:
        ...                                  # sqlite3 as usual; disk.note("acknowledged", ids) at any moment
    for cut in disk.cuts(points, random):
        cut.write(folder)                    # what a disk may hold whose power was cut after that many operations

SQLite's writes, syncs, truncations, creations and deletions are noted on their way to the real files, and with
`recorded_module` those of a module of Python that opens, writes, syncs and renames files by `os`. At a cut each
sector has any of the contents that it had since the last sync of its file, each file any of its sizes, and each name is
of any file that it was of since the last sync of its folder.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from ctypes import CDLL, CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

SECTOR_BYTES = 512


@dataclass(slots=True)
class Inode:
    """`older` has what sectors held since the last sync, `sizes` how long the file was."""

    content: bytearray = field(default_factory=bytearray)
    older: dict[int, list[bytes]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        self.sizes.append(len(self.content))
        end = offset + len(data)
        for sector in range(offset // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
            start = sector * SECTOR_BYTES
            self.older.setdefault(sector, []).append(bytes(self.content[start : start + SECTOR_BYTES]))
        self.content.extend(bytes(max(0, end - len(self.content))))
        self.content[offset:end] = data

    def truncate(self, size: int) -> None:
        self.sizes.append(len(self.content))
        del self.content[size:]

    def sync(self) -> None:
        self.older.clear()
        self.sizes.clear()

    def after_cut(self, kept: float, random: Random) -> bytes:
        """`kept` is the share of sectors that have their last content."""
        size = _one(self.sizes, len(self.content), kept, random)
        content = self.content + bytes(max(0, size - len(self.content)))
        for sector, older in self.older.items():
            start = sector * SECTOR_BYTES
            now = bytes(content[start : start + SECTOR_BYTES])
            content[start : start + SECTOR_BYTES] = _one(older, now, kept, random).ljust(len(now), b"\0")
        return bytes(content[:size])


def _one(older: list[Any], last: Any, kept: float, random: Random) -> Any:
    if not older or random.random() < kept:
        return last
    return older[0] if random.random() < 0.5 else random.choice(older)


@dataclass(frozen=True, slots=True)
class Cut:
    """The files of one possible disk. `notes` are those that were made before the cut."""

    files: dict[str, bytes]
    notes: list[tuple[Any, ...]]

    def write(self, folder: Path) -> None:
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


class Disk:
    """One folder's files: as they were, and what was done to them since."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.operations: list[tuple[Any, ...]] = []
        self._began = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}

    def note(self, *what: Any) -> None:
        self.operations.append(("note", *what))

    def is_here(self, path: str) -> bool:
        return Path(path).parent == self.folder

    def cuts(self, points: Iterable[int], random: Random) -> Iterator[Cut]:
        """One for each point, in order: after so many operations."""
        state = _State(self._began)
        done = 0
        for point in sorted(points):
            for operation in self.operations[done:point]:
                state.apply(*operation)
            done = max(done, point)
            yield state.cut(random.choice([0.0, 0.1, 0.5, 0.9, 1.0]), random)


class _State:
    def __init__(self, files: dict[str, bytes]) -> None:
        self._names: dict[str, Inode | None] = {name: Inode(bytearray(content)) for name, content in files.items()}
        self._former: dict[str, list[Inode | None]] = {}
        self._notes: list[tuple[Any, ...]] = []

    def apply(self, kind: str, *rest: Any) -> None:
        match kind, rest:
            case "note", note:
                self._notes.append(note)
            case "open", (name,):
                if self._names.get(name) is None:
                    self._name(name, Inode())
            case "delete", (name,):
                self._name(name, None)
            case "rename", (name, to):
                self._name(to, self._names[name])
                self._name(name, None)
            case "folder", ():
                self._former.clear()
            case _, (name, *arguments):
                inode = self._names[name]
                assert inode is not None
                getattr(inode, kind)(*arguments)

    def _name(self, name: str, inode: Inode | None) -> None:
        self._former.setdefault(name, []).append(self._names.get(name))
        self._names[name] = inode

    def cut(self, kept: float, random: Random) -> Cut:
        files = {}
        for name, last in self._names.items():
            inode = _one(self._former.get(name, []), last, kept, random)
            if inode is not None:
                files[name] = inode.after_cut(kept, random)
        return Cut(files, list(self._notes))


# SQLite's own interface to the operating system: https://www.sqlite.org/c3ref/vfs.html


class Vfs(Structure):
    pass


class Methods(Structure):
    pass


Open = CFUNCTYPE(c_int, POINTER(Vfs), c_void_p, c_void_p, c_int, POINTER(c_int))
Delete = CFUNCTYPE(c_int, POINTER(Vfs), c_void_p, c_int)
OpenDirectory = CFUNCTYPE(c_int, c_char_p, POINTER(c_int))
SetSystemCall = CFUNCTYPE(c_int, POINTER(Vfs), c_char_p, c_void_p)
GetSystemCall = CFUNCTYPE(c_void_p, POINTER(Vfs), c_char_p)
Close = CFUNCTYPE(c_int, c_void_p)
Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
Sync = CFUNCTYPE(c_int, c_void_p, c_int)

Vfs._fields_ = [
    *[(name, c_int) for name in ("version", "size", "longest")],
    ("next", c_void_p),
    ("name", c_char_p),
    ("data", c_void_p),
    ("open", Open),
    ("delete", Delete),
    *[(f"other{number}", c_void_p) for number in range(11)],
    ("set_system_call", SetSystemCall),
    ("get_system_call", GetSystemCall),
    ("next_system_call", c_void_p),
]
Methods._fields_ = [
    ("version", c_int),
    ("close", Close),
    ("read", c_void_p),
    ("write", Write),
    ("truncate", Truncate),
    ("sync", Sync),
    *[(f"other{number}", c_void_p) for number in range(13)],
]


def library() -> CDLL:
    """The one that sqlite3 is linked to. Raises LookupError where its functions cannot be reached."""
    found = CDLL(getattr(_sqlite3, "__file__", None))
    if not hasattr(found, "sqlite3_vfs_register"):
        raise LookupError("the SQLite library of this Python shows no functions of its own")
    found.sqlite3_vfs_find.restype = POINTER(Vfs)
    return found


class _Recorder:
    """A VFS that is the usual one, but tells a disk. Its files are the usual ones, with four functions changed."""

    def __init__(self, sqlite: CDLL, disk: Disk) -> None:
        self._disk = disk
        self._names: dict[int, str] = {}
        self._methods: dict[int, Methods] = {}
        self.usual: Vfs = sqlite.sqlite3_vfs_find(None).contents
        self._open_directory = OpenDirectory(self.usual.get_system_call(self.usual, b"openDirectory"))
        self.vfs = Vfs.from_buffer_copy(self.usual)
        self.vfs.name = b"recorded"
        self.vfs.open, self.vfs.delete = Open(self._opened), Delete(self._deleted)
        self.folder_opened = OpenDirectory(self._folder_opened)

    def _opened(self, vfs: Any, path: int | None, file: int, flags: int, out: Any) -> int:
        code: int = self.usual.open(vfs, path, file, flags, out)
        name = ctypes.string_at(path).decode() if path else ""
        if code == 0 and self._disk.is_here(name):
            self._names[file] = Path(name).name
            self._disk.operations.append(("open", self._names[file]))
            methods = ctypes.cast(file, POINTER(c_void_p))
            methods[0] = ctypes.addressof(self._changed(methods[0]))
        return code

    def _changed(self, usual: int) -> Methods:
        """A copy of a table of functions. It is made once and lives as long as this."""
        if usual not in self._methods:
            original = Methods.from_address(usual)
            changed = Methods.from_buffer_copy(original)
            changed.close = Close(partial(self._closed, original))
            changed.write = Write(partial(self._written, original))
            changed.truncate = Truncate(partial(self._told, original.truncate, "truncate"))
            changed.sync = Sync(partial(self._told, original.sync, "sync"))
            self._methods[usual] = changed
        return self._methods[usual]

    def _closed(self, usual: Methods, file: int) -> int:
        self._names.pop(file)
        return int(usual.close(file))

    def _written(self, usual: Methods, file: int, data: int, size: int, offset: int) -> int:
        self._disk.operations.append(("write", self._names[file], offset, ctypes.string_at(data, size)))
        return int(usual.write(file, data, size, offset))

    def _told(self, usual: Callable[..., int], kind: str, file: int, value: int) -> int:
        code = usual(file, value)
        self._disk.operations.append((kind, self._names[file], *([value] if kind == "truncate" else [])))
        return code

    def _deleted(self, vfs: Any, path: int, sync: int) -> int:
        name = ctypes.string_at(path).decode()
        if self._disk.is_here(name) and Path(name).exists():
            self._disk.operations.append(("delete", Path(name).name))
        return int(self.usual.delete(vfs, path, sync))

    def _folder_opened(self, path: bytes, out: Any) -> int:
        """SQLite opens a folder to sync it, and for nothing else."""
        self._disk.operations.append(("folder",))
        return int(self._open_directory(path, out))


_kept: list[_Recorder] = []
"""A file that is left open has these functions to its end."""


@contextmanager
def recorded(folder: Path) -> Iterator[Disk]:
    """What all of this process's SQLite does in that folder. Raises LookupError where that cannot be seen."""
    sqlite, disk = library(), Disk(folder)
    recorder = _Recorder(sqlite, disk)
    _kept.append(recorder)
    usual = recorder.usual
    usual.set_system_call(usual, b"openDirectory", ctypes.cast(recorder.folder_opened, c_void_p))
    sqlite.sqlite3_vfs_register(ctypes.byref(recorder.vfs), 1)
    try:
        yield disk
    finally:
        sqlite.sqlite3_vfs_unregister(ctypes.byref(recorder.vfs))
        sqlite.sqlite3_vfs_register(ctypes.byref(usual), 1)
        usual.set_system_call(usual, b"openDirectory", None)


# files of Python's own


class _RecordedOs:
    """The module os, which tells a disk of what goes through it to files of its folder."""

    def __init__(self, disk: Disk, *, syncs: bool) -> None:
        self._disk, self._syncs = disk, syncs
        self._names: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        descriptor = os.open(path, flags, mode)
        if self._disk.is_here(os.fspath(path)):
            self._names[descriptor] = Path(path).name
            self._disk.operations.append(("open", self._names[descriptor]))
        return descriptor

    def fdopen(self, descriptor: int, mode: str) -> Any:
        if descriptor not in self._names:
            return os.fdopen(descriptor, mode)
        return io.BufferedWriter(_RecordedFile(descriptor, self._names[descriptor], self._disk))

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        if self._syncs and descriptor in self._names:
            self._disk.operations.append(("sync", self._names[descriptor]))


class _RecordedFile(io.FileIO):
    """Open for writing."""

    def __init__(self, descriptor: int, name: str, disk: Disk) -> None:
        super().__init__(descriptor, "wb")
        self._known_as, self._disk = name, disk

    def write(self, data: Any) -> int:
        self._disk.operations.append(("write", self._known_as, self.tell(), bytes(data)))
        return super().write(data)


_watching: list[Disk] = []


@cache
def _listen() -> None:
    sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook, which no process can take back."""
    if not _watching or event not in ("os.rename", "os.remove"):
        return
    disk, paths = _watching[-1], [Path(os.fsdecode(each)) for each in arguments if isinstance(each, str | bytes | Path)]
    if disk.is_here(str(paths[0])) and paths[0].exists():
        names = [path.name for path in paths]
        disk.operations.append(("rename", *names) if event == "os.rename" else ("delete", *names))


@contextmanager
def recorded_module(module: ModuleType, disk: Disk, *, syncs: bool = True) -> Iterator[None]:
    """What that module writes by its `os` is noted as well, and what all of Python renames and removes.

    Without `syncs` the module's syncs do nothing.
    """
    _listen()
    _watching.append(disk)
    module.os = _RecordedOs(disk, syncs=syncs)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.os = os  # type: ignore[attr-defined]
        _watching.pop()
