# pyright: strict
"""A provider and a store of a user's own, by their shape alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np

from aembed import (
    Accounts,
    Backlog,
    Embedded,
    Embedder,
    Hints,
    InputError,
    InputType,
    KeepsModel,
    Known,
    Limits,
    Match,
    Matrix,
    MemoryStore,
    Metadata,
    Provider,
    RateLimitError,
    Record,
    Refusal,
    Refusals,
    Reply,
    Report,
    Rows,
    Space,
    Store,
    StoreInfo,
    Usage,
    Vector,
)


class Counting:
    """A model of one's own: what matters of a text is how often each letter stands in it."""

    price_usd = 0.01

    def __init__(self) -> None:
        self.space = Space("counting", "letters", 26)
        self.limits = Limits(max_batch_size=100, max_tokens_per_batch=10_000, max_tokens_per_text=1_000)
        self.busy = False

    async def embed(self, texts: Sequence[str], *, input_type: InputType) -> Reply:
        if self.busy and input_type == "query":
            raise RateLimitError("too many", status_code=429, hints=Hints(retry_after=1.0))
        matrix: Matrix = np.array([self._vector(text) for text in texts], dtype=np.float32)
        return Reply(matrix, "letters", Usage(sum(map(len, texts))))

    async def aclose(self) -> None:
        self.busy = True

    def _vector(self, text: str) -> list[int]:
        return [1 + text.lower().count(chr(97 + n)) for n in range(26)]


class Wrapped:
    """A store of one's own around another, with the accounts and the model's name that it may keep besides."""

    def __init__(self, inner: MemoryStore) -> None:
        self._inner = inner
        self.written: list[str] = []

    async def prepare(self, space: Space) -> Space:
        return await self._inner.prepare(space)

    def reject(self, record: Record) -> InputError | None:
        return InputError("too short") if len(record.text) < 2 else None

    async def known(self, digests: Mapping[str, bytes], fingerprints: Mapping[str, bytes]) -> Known:
        known = await self._inner.known(digests, fingerprints)
        return Known(known.unchanged, known.changed, dict(known.refused))

    async def vectors(self, fingerprints: AbstractSet[bytes]) -> Mapping[bytes, Vector]:
        return await self._inner.vectors(fingerprints)

    async def write(self, rows: Rows, refusals: Sequence[Refusal] = ()) -> None:
        self.written += rows.ids
        await self._inner.write(rows, refusals)

    async def stale(self, source: str, keep: AbstractSet[str]) -> list[str]:
        return await self._inner.stale(source, keep)

    async def delete(self, ids: Sequence[str]) -> int:
        return await self._inner.delete(ids)

    async def rows(self) -> AsyncIterator[Embedded]:
        async for row in self._inner.rows():
            yield row

    async def refusals(self) -> list[Refusal]:
        return await self._inner.refusals()

    async def info(self) -> StoreInfo:
        return await self._inner.info()

    async def finish(self, report: Report) -> None:
        await self._inner.finish(report)

    async def search(self, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        return await self._inner.search(vector, k, where=where)

    async def spend(self, job: str, tokens: int) -> int:
        return await self._inner.spend(job, tokens)

    async def close_account(self, job: str) -> None:
        await self._inner.close_account(job)

    async def answered_by(self, model: str) -> str:
        return await self._inner.answered_by(model)

    async def aclose(self) -> None:
        await self._inner.aclose()


class Queue:
    """A backlog of one's own: what of a dict has no vector yet."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts
        self.vectors: dict[str, Vector] = {}
        self.bad: dict[str, Refusal] = {}

    async def prepare(self, space: Space) -> Space:
        return space

    async def pending(self, limit: int | None = None) -> AsyncIterator[Record]:
        left = [id for id in self.texts if id not in self.vectors]
        for id in left[:limit]:
            yield Record(id, self.texts[id])

    async def write(self, ids: Sequence[str], texts: Sequence[str], matrix: Matrix) -> int:
        self.vectors.update(zip(ids, matrix.copy(), strict=True))
        return len(texts)

    async def count(self) -> int:
        return len(self.texts) - len(self.vectors)

    async def search(self, vector: Vector, k: int, *, where: Metadata | None = None) -> list[Match]:
        scores = {id: float(each @ vector) for id, each in self.vectors.items()}
        best = sorted(scores, key=lambda id: -scores[id])[:k]
        return [Match(id, self.texts[id], where, scores[id]) for id in best]

    async def refused(self, fingerprints: Mapping[str, bytes]) -> Mapping[str, Refusal]:
        return {id: refusal for id, refusal in self.bad.items() if fingerprints.get(id) == refusal.fingerprint}

    async def refuse(self, refusals: Sequence[Refusal]) -> None:
        self.bad.update((refusal.id, refusal) for refusal in refusals)

    async def refusals(self) -> list[Refusal]:
        return list(self.bad.values())

    async def aclose(self) -> None: ...


async def main(folder: Path) -> None:
    counting = Counting()
    provider: Provider = counting
    wrapped = Wrapped(MemoryStore())
    store: Store = wrapped
    accounts: Accounts = wrapped
    keeps: KeepsModel = wrapped
    queue = Queue({"a": "one text", "b": "another text"})
    backlog: Backlog = queue
    refusals: Refusals = queue
    async with Embedder(provider) as embedder:
        report = await embedder.embed_into(store, [Record("a", "abc"), Record("b", "b"), Record("c", "xyz")])
        assert (report.stored, report.failed) == (2, 1)
        assert (await embedder.search(store, "aabc", k=1))[0].id == "a"
        assert (await embedder.backfill(backlog)).stored == 2
        assert {match.id for match in await embedder.search(backlog, "one text", k=2)} == {"a", "b"}
    assert await accounts.spend("job", 3) == 3
    assert await keeps.answered_by("letters") == "letters"
    assert await refusals.refusals() == []
    assert counting.busy
    assert wrapped.written == ["a", "c"]
    assert folder
