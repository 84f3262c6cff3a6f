"""This module keeps the vectors of texts that come again in memory; the least recently used ones go first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from aembed.results import CacheStats
from aembed.types import Vector

# Measured with tracemalloc (CPython 3.11, numpy 2.4): 316 bytes for an array's header, a key of 16 bytes, a float, a
# tuple and a slot of an ordered dict. Were it 0, a cache of short vectors would take several times its limit.
ENTRY_BYTES = 320
"""Bytes that Python needs for one entry beside its numbers."""


@dataclass(eq=False, repr=False)
class Cache:
    """Holds at most `max_bytes`, Python's own share counted. A key is the fingerprint of space, input type and text."""

    max_bytes: int
    size_bytes: int = 0
    hits: int = 0
    misses: int = 0
    saved_tokens: float = 0.0
    _entries: OrderedDict[bytes, tuple[Vector, float]] = field(default_factory=OrderedDict)

    def stats(self) -> CacheStats:
        return CacheStats(self.hits, self.misses, round(self.saved_tokens), len(self._entries), self.size_bytes)

    def get(self, key: bytes) -> Vector | None:
        """Returns a copy, so that the caller may change it; None where the key is not held."""
        entry = self._entries.get(key)
        if entry is None:
            self.misses += self.max_bytes > 0
            return None
        vector, tokens = entry
        self._entries.move_to_end(key)
        self.hits += 1
        self.saved_tokens += tokens
        return vector.copy()

    def put(self, key: bytes, vector: Vector, tokens: float) -> None:
        """Keeps a vector, which cost so many tokens, unless it is larger than the whole cache."""
        size = vector.nbytes + ENTRY_BYTES
        if size > self.max_bytes or key in self._entries:
            return
        self._entries[key] = np.array(vector), tokens
        self.size_bytes += size
        while self.size_bytes > self.max_bytes:
            _, (oldest, _) = self._entries.popitem(last=False)
            self.size_bytes -= oldest.nbytes + ENTRY_BYTES
