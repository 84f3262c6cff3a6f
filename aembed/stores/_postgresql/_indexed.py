"""What the store and the column offer alike: an index for searches, and one of words for hybrid searches."""

from __future__ import annotations

from aembed.stores._postgresql._building import OnBuild, build
from aembed.stores._postgresql._database import PostgresDatabase
from aembed.stores._postgresql._index import IndexTarget
from aembed.stores._postgresql._words import WordTarget


class Indexed:
    _database: PostgresDatabase

    async def create_index(
        self, *, memory: str | None = None, workers: int | None = None, on_progress: OnBuild | None = None
    ) -> None:
        """Builds an HNSW index for the cosine while writes go on; above 2,000 dimensions over a halfvec of the column.

        `memory` ("2GB") and `workers` are what the server may use for it; `on_progress` is given the phase, how much of
        it is done and how much there is (blocks of the table, or rows). The partitions of a table are indexed one by
        one. Searches use it from then on, and are no longer exact. Raises ConfigError behind a pooler in transaction
        mode, and for more than 4,000 dimensions.
        """
        target, _ = await self._index_targets()
        await build(target, self._database, memory=memory, workers=workers, on_progress=on_progress)

    async def index_words(self, *, on_progress: OnBuild | None = None) -> None:
        """Builds the index of words for hybrid search (GIN) while writes go on; one that is there stays.

        Raises ConfigError behind a pooler in transaction mode.
        """
        _, target = await self._index_targets()
        await build(target, self._database, on_progress=on_progress)

    async def _index_targets(self) -> tuple[IndexTarget, WordTarget]:
        raise NotImplementedError
