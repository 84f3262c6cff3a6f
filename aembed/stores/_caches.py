"""What a cache is: vectors by the fingerprint of what they were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from aembed.protocols import Leases
from aembed.types import Matrix, Vector


class VectorCache(Leases, Protocol):
    """Vectors of any models, each under the fingerprint of its text, model and preparation. No ids and no texts.

    Raises StoreError where it cannot be read or written, ConfigError where the place is not one for a cache.
    """

    async def prepare(self, *, create: bool = True) -> bool:
        """Makes what is missing, unless it is not to be created; whether it is there now."""
        ...

    async def vectors(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]:
        """Those that are there: float32, shape (dimensions,)."""
        ...

    async def keep(self, fingerprints: Sequence[bytes], matrix: Matrix) -> None:
        """Row i of the matrix belongs to fingerprints[i]; durable on return. What is there already stays."""
        ...

    async def prune(self, seconds: float) -> int:
        """Removes the vectors that are older; returns how many those were."""
        ...

    async def count(self) -> int:
        """How many vectors there are."""
        ...

    async def aclose(self) -> None: ...
