"""Where a run of the tests writes: a folder of its own, in memory where that can be, which is removed at its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 4_000_000_000
WATCH = 'cat >/dev/null; rm -rf "$0"'
"""Holds on until the pipe from the tests is closed, by them or by their death."""


def own_folder() -> Callable[[], None]:
    """This process and those that it starts write their temporary files there; returns what removes it.

    Half of what the tests wait for is a disk that makes every commit durable, which no test can see. What a process
    that was killed has left behind goes with the folder.
    """
    folder = tempfile.mkdtemp(prefix="aembed-tests-", dir=MEMORY if is_roomy(MEMORY) else None)
    os.chmod(folder, 0o1777)  # as /tmp is: PostgreSQL runs as another user
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    watch = subprocess.Popen(["sh", "-c", WATCH, folder], stdin=subprocess.PIPE, cwd="/", start_new_session=True)
    return lambda: _end(watch)


def _end(watch: subprocess.Popen[bytes]) -> None:
    watch.communicate()


def is_roomy(folder: Path) -> bool:
    """Whether there is enough of it, and programs may be run from it, as from any folder for temporary files."""
    if not (os.name == "posix" and folder.is_dir() and os.access(folder, os.W_OK)):
        return False
    return shutil.disk_usage(folder).free > ENOUGH_BYTES and not os.statvfs(folder).f_flag & os.ST_NOEXEC
