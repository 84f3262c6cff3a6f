"""A file without a name, which is gone with the process, however that ends."""

from __future__ import annotations

import tempfile
import weakref
from typing import BinaryIO, cast


def open_temporary(owner: object) -> BinaryIO:
    """It is closed with its owner. Raises OSError where there is no folder for it."""
    file = cast(BinaryIO, tempfile.TemporaryFile(prefix="aembed-"))  # noqa: SIM115 - closed with the owner
    weakref.finalize(owner, file.close)
    return file
