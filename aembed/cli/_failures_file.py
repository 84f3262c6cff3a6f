"""The file of `--failures-to`: begun at the first failure, written beside its name, and put there when the job ends.

Nothing that a flag names is ever truncated. A file that holds anything but failures of an earlier run is refused.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TextIO
from uuid import uuid4

from aembed.cli._show import failure_json
from aembed.cli._streams import printable_line, say
from aembed.errors import ConfigError
from aembed.results import Failure

# Chosen: an id may be of any length, so that a line of ours may be longer. Then its beginning decides, and no more than
# this is read of a file of another kind that has no line breaks.
_LONGEST_LINE = 65_536


class FailuresFile:
    """A job's failures as JSON Lines. What an earlier run left there stays until this one has a failure."""

    def __init__(self, path: Path) -> None:
        self._named = path
        self._path = Path(os.path.realpath(path))  # a link stays a link
        self._beside: Path | None = None
        self._file: TextIO | None = None
        self._broken = False

    def close(self) -> None:
        """Puts the file in its place, however the job ended."""
        if self._file is None or self._broken:
            return
        try:
            self._file.close()
            if self._beside:
                os.replace(self._beside, self._path)
        except OSError as failed:
            self._give_up(failed)

    @property
    def has_old_failures(self) -> bool:
        """Whether failures of an earlier run stand there still: this one had none."""
        return self._file is None and not self._broken and self._path.is_file() and self._path.stat().st_size > 0

    def write(self, failure: Failure) -> None:
        """Raises nothing: the job goes on, and what was paid is stored, where the disk is full."""
        if self._broken:
            return
        try:
            self._file = self._file or self._begin_file()
            print(json.dumps(failure_json(failure)), file=self._file, flush=True)
        except OSError as error:
            self._give_up(error)

    def _begin_file(self) -> TextIO:
        if _is_stream(self._named):
            # Without O_NONBLOCK the opening of a pipe that nobody reads would hold up the job for ever.
            descriptor = os.open(self._named, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
            os.set_blocking(descriptor, True)
            return open(descriptor, "w", encoding="utf-8")
        # In the same folder, since os.replace is one step only within a file system.
        beside = self._path.with_name(f".{uuid4().hex}.aembed-failures")
        file = beside.open("x", encoding="utf-8")
        self._beside = beside
        with suppress(OSError):
            beside.chmod(stat.S_IMODE(self._path.stat().st_mode))
        return file

    def _give_up(self, error: OSError) -> None:
        self._broken = True
        say(
            f"{printable_line(self._named)} cannot be written: {error.strerror}; aembed failures lists what was refused"
        )
        with suppress(OSError):
            if self._file:
                self._file.close()
        with suppress(OSError):
            if self._beside:
                self._beside.unlink()


def check_failures_file(path: Path, used: Iterable[Path], *, is_read: Callable[[Path], bool] = lambda _: False) -> None:
    """Raises ConfigError unless failures can be written to this path and nothing else is lost by it.

    `used` are the files of the store and those that are read; `is_read` says whether the next run would read this one.
    """
    name = printable_line(path)
    try:
        held = os.stat(path)
    except FileNotFoundError:
        held = None
    except (OSError, ValueError) as error:
        raise _unwritable_error(path, error) from None
    if held and stat.S_ISDIR(held.st_mode):
        raise ConfigError(f"--failures-to {name} is a folder; name a file")
    for other in used:
        if is_same_file(path, other):
            raise ConfigError(f"--failures-to {name} is a file that this command works on; name another")
    if held and _is_standard_stream(held):
        raise ConfigError(f"--failures-to {name} is where a standard stream of this command leads; name another")
    if held and not stat.S_ISREG(held.st_mode):
        return
    if is_read(path):
        raise ConfigError(f"--failures-to {name} would be read by the next run of this command; name a file elsewhere")
    if held and not _has_only_failures(path):
        raise ConfigError(f"--failures-to {name} holds something else than failures; name another file")
    _check_folder(path)


def is_same_file(one: Path, other: Path) -> bool:
    """Whether both are one file, by whatever links they are named; by their names where one is not there yet."""
    try:
        return os.path.samestat(os.stat(one), os.stat(other))
    except (OSError, ValueError):
        return os.path.realpath(one) == os.path.realpath(other)


def _check_folder(path: Path) -> None:
    folder = Path(os.path.realpath(path)).parent
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        # 255 is what most file systems take for a name, where the system cannot be asked.
        most = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        if len(os.fsencode(path.name)) > most:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    except (OSError, ValueError) as error:
        raise _unwritable_error(path, error) from None


def _unwritable_error(path: Path, error: OSError | ValueError) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else "it is no name of a file"
    return ConfigError(f"{printable_line(path)} cannot be written: {reason}; name another file")


def _is_standard_stream(held: os.stat_result) -> bool:
    """A file that the shell redirects to or from. A terminal, a pipe or /dev/null is shared without harm."""
    for descriptor in (0, 1, 2):
        with suppress(OSError):
            if stat.S_ISREG(held.st_mode) and os.path.samestat(held, os.fstat(descriptor)):
                return True
    return False


def _has_only_failures(path: Path) -> bool:
    """Whether it is empty, or begins with a failure as we write it."""
    try:
        with path.open("rb") as file:
            line = file.readline(_LONGEST_LINE)
    except OSError as error:
        raise _unwritable_error(path, error) from None
    if not line:
        return True
    try:
        first = json.loads(line)
    except ValueError:
        return len(line) == _LONGEST_LINE and line.startswith(b'{"id": ')
    return isinstance(first, dict) and {"id", "error", "message"} <= first.keys()


def _is_stream(path: Path) -> bool:
    """A device or a pipe: /dev/stderr, a shell's >(...)."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
