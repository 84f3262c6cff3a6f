"""What the system tells of a file, by which it is known again without being read."""

from __future__ import annotations

import os
import struct

_STATE = struct.Struct("<QqqQ")
_MASK = 2**64 - 1
UNKNOWN = b""
"""The state of what is no file, as standard input."""

# FAT keeps times in steps of two seconds, which is the coarsest in use. Smaller, a file that is written twice within
# one step could be taken for what it was after the first time.
_STEP_NS = 2_000_000_000


def state_of(status: os.stat_result) -> bytes:
    """Size, time of the last change, time of the last change of anything, inode.

    The third cannot be set by a program: it tells a file that was changed and given its old time again.
    """
    return _STATE.pack(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino & _MASK)


def inode_of(state: bytes) -> bytes:
    """With which states of the same file end, whatever else has become of it."""
    return state[-8:]


def is_settled(state: bytes, now_ns: int) -> bool:
    """Whether another change from now on would give another state: a clock ticks in steps."""
    if not state:
        return False
    _, changed, touched, _ = _STATE.unpack(state)
    return bool(max(changed, touched) < now_ns - _STEP_NS)
