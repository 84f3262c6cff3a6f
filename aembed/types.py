"""The values that travel through the engine. All are frozen; none does I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aembed.errors import AembedError, ConfigError, PartialError

Vector: TypeAlias = NDArray[np.float32]
"""Shape (dimensions,), float32."""

Matrix: TypeAlias = NDArray[np.float32]
"""Shape (inputs, dimensions), float32, C order."""

InputType = Literal["document", "query"]
TooLong = Literal["error", "truncate", "split"]
Metadata: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """One text to embed.

    `id` names the row in the store. `metadata` is any JSON object. `source` groups the records of one
    folder, file or table, so that rows whose record is gone can be found.
    """

    id: str
    text: str
    metadata: Metadata | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Embedded:
    """A record with its vector. `index` is its position in the input."""

    id: str
    index: int
    vector: Vector
    text: str | None = None
    metadata: Metadata | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A record that has no vector, and why. `index` is its position in the input."""

    id: str
    index: int
    error: AembedError

    def __str__(self) -> str:
        """One line, whatever the id holds."""
        return f"{self.id if self.id.isprintable() else repr(self.id)}: {self.error}"


@dataclass(frozen=True, slots=True)
class Match:
    """A search result. `score` is the cosine similarity; 1 is equal, in every store."""

    id: str
    text: str | None
    metadata: Metadata | None
    score: float


@dataclass(frozen=True, slots=True)
class Space:
    """Which vector space rows belong to. Vectors of different spaces cannot be compared.

    `dimensions` is None until it is known. `endpoint` is "" for the provider's own.
    """

    provider: str
    model: str
    dimensions: int | None = None
    endpoint: str = ""

    def __str__(self) -> str:
        at = f" at {self.endpoint}" if self.endpoint else ""
        width = f", {self.dimensions} dimensions" if self.dimensions else ""
        return f"{self.provider}:{self.model}{width}{at}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may carry.

    Tokens are counted as the provider counts them for its limits: `bytes_per_token` UTF-8 bytes each
    (for OpenAI 4, whatever its tokenizer says). `max_tokens_per_text` is in the tokenizer's own
    tokens; `encoding` names that tokenizer in tiktoken, None where it is not one of tiktoken's.
    """

    max_batch_size: int
    max_tokens_per_batch: int
    max_tokens_per_text: int
    bytes_per_token: float = 4.0
    encoding: str | None = None

    def narrowed(self, max_batch_size: int | None, max_tokens_per_batch: int | None) -> Limits:
        """The same limits with the user's, where those are smaller."""
        return replace(
            self,
            max_batch_size=min(max_batch_size or self.max_batch_size, self.max_batch_size),
            max_tokens_per_batch=min(max_tokens_per_batch or self.max_tokens_per_batch, self.max_tokens_per_batch),
        )

    def check(self, max_batch_size: int | None, max_tokens_per_batch: int | None) -> None:
        """Raises ConfigError for a user's limit that is above these."""
        for name, wanted in (("max_batch_size", max_batch_size), ("max_tokens_per_batch", max_tokens_per_batch)):
            most = getattr(self, name)
            if wanted is not None and not 1 <= wanted <= most:
                raise ConfigError(f"{name}={wanted} must be from 1 to {most}, the provider's own limit")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the provider billed. None where its reply did not say."""

    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Hints:
    """What a reply's headers say about limits. Seconds, requests a minute, tokens a minute."""

    retry_after: float | None = None
    should_retry: bool | None = None
    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One checked reply: row i of `matrix` belongs to text i of the request."""

    matrix: Matrix
    model: str = ""
    usage: Usage = Usage()
    hints: Hints = Hints()
    request_id: str | None = None
    server_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """What a store writes in one transaction: parallel columns and ONE matrix, shape (n, dimensions).

    A fingerprint says what was embedded; a digest says what the row holds (fingerprint, metadata and
    source), so that a change of metadata alone is seen, and written without paying.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    metadata: Sequence[Metadata | None]
    sources: Sequence[str | None]
    fingerprints: Sequence[bytes]
    digests: Sequence[bytes]
    matrix: Matrix

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A text that was refused for its content: kept by the store, skipped by the next run."""

    id: str
    fingerprint: bytes
    error: str
    message: str


@dataclass(frozen=True, slots=True)
class Known:
    """What a store says about some ids: same digest, other digest, or refused earlier with this fingerprint."""

    unchanged: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    refused: Mapping[str, Refusal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store holds. `space` is None while it is empty; `last_run` is a Report as a dict."""

    rows: int
    space: Space | None
    size_bytes: int
    failures: int
    sources: Mapping[str, int] = field(default_factory=dict)
    last_run: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How failed requests are tried again. Seconds.

    `max_retries` counts server and network errors of one request while the provider answers others. A rate
    limit is not counted, nor is a time in which the provider answers nobody: both end the job after `max_outage`
    seconds without one success. With `max_retries=0` a server or network error is final.
    """

    max_retries: int = 3
    backoff_base: float = 1.0
    backoff_max: float = 60.0
    max_outage: float = 900.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is. stored + unchanged + failed + pending = inputs, those read so far.

    `total` is the number of inputs where it is known before the end.
    """

    inputs: int = 0
    stored: int = 0
    unchanged: int = 0
    failed: int = 0
    pending: int = 0
    duplicates: int = 0
    removed: int = 0
    requests: int = 0
    retries: int = 0
    billed_tokens: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0
    total: int | None = None

    def __str__(self) -> str:
        parts = [f"{self.inputs:,} texts", f"{self.stored:,} stored", f"{self.unchanged:,} unchanged"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.pending:
            parts.append(f"{self.pending:,} pending")
        if self.duplicates:
            parts.append(f"{self.duplicates:,} duplicates")
        if self.removed:
            parts.append(f"{self.removed:,} removed")
        parts.append(f"{self.requests:,} requests")
        if self.retries:
            parts.append(f"{self.retries:,} retries")
        parts.append(f"{self.billed_tokens:,} tokens")
        if self.cost_usd is not None:
            parts.append(f"${self.cost_usd:.4f}")
        return ", ".join(parts) + f" in {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Report(Progress):
    """How a job ended. `failures` has the first 1,000; `failed` counts all.

    `refused_earlier` counts those of them that an earlier run was refused and this one did not send.
    """

    failures: tuple[Failure, ...] = ()
    refused_earlier: int = 0

    __str__ = Progress.__str__


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job would do: the dry run. new + changed + unchanged + failed = inputs.

    `duplicates` of the new and changed ones equal another text of this run: they are not sent. `tokens` is
    the provider's own estimate. `stale` are ids whose record is gone.
    """

    inputs: int
    new: int
    changed: int
    unchanged: int
    failed: int
    duplicates: int
    requests: int
    tokens: int
    cost_usd: float | None
    failures: tuple[Failure, ...] = ()
    stale: tuple[str, ...] = ()

    def seconds_at(self, *, requests_per_minute: float | None, tokens_per_minute: float | None) -> float | None:
        """The shortest time that a rate limit allows; None without one."""
        times = [
            60 * amount / limit
            for amount, limit in ((self.requests, requests_per_minute), (self.tokens, tokens_per_minute))
            if limit
        ]
        return max(times) if times else None


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that one job may spend. What would exceed it is not sent. None: no limit.

    What a reply that was lost on the way may have cost is not counted.
    """

    max_billed_tokens: int | None = None
    max_cost_usd: float | None = None

    def tokens(self, price_usd: float | None) -> float | None:
        """The most tokens at `price_usd` for a million. Raises ConfigError where a price is needed and not known."""
        if self.max_cost_usd is None:
            return self.max_billed_tokens
        if price_usd is None:
            raise ConfigError("the price of this model is not known; use max_billed_tokens instead of max_cost_usd")
        affordable = self.max_cost_usd / price_usd * 1_000_000 if price_usd else float("inf")
        return min(affordable, self.max_billed_tokens if self.max_billed_tokens is not None else affordable)


class Embeddings(Sequence[Vector | None]):
    """The vectors of a list of texts, in their order.

    `len`, iteration and `[i]` give a read-only float32 vector of shape (dimensions,), or None where
    that text failed. `.vectors` and `np.asarray()` give the (n, dimensions) array.
    """

    __slots__ = ("_failed", "_matrix", "failures", "report", "usage")

    def __init__(self, matrix: Matrix, failures: Sequence[Failure], report: Report) -> None:
        self._matrix = matrix
        self._matrix.flags.writeable = False
        self.failures = tuple(failures)
        self._failed = {failure.index for failure in self.failures}
        self.report = report
        self.usage = Usage(report.billed_tokens)

    def __len__(self) -> int:
        return len(self._matrix)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        return None if position in self._failed else self._matrix[position]

    def __iter__(self) -> Iterator[Vector | None]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array: NDArray[Any] = np.asarray(self.vectors, dtype=dtype)
        return array.copy() if copy else array

    def __repr__(self) -> str:
        n, dimensions = self._matrix.shape
        return f"<Embeddings {n} x {dimensions} float32, {len(self.failures)} failed>"

    @property
    def vectors(self) -> Matrix:
        """Shape (n, dimensions), float32, read-only. Raises PartialError while any text failed."""
        self.raise_for_failures()
        return self._matrix

    def filled(self, value: float) -> Matrix:
        """A copy of shape (n, dimensions) with `value` in the rows of the texts that failed."""
        matrix = self._matrix.copy()
        matrix[sorted(self._failed)] = value
        return matrix

    def tolist(self) -> list[list[float] | None]:
        """Python lists, None where a text failed. Four to eight times the memory of the array."""
        return [None if vector is None else vector.tolist() for vector in self]

    def raise_for_failures(self) -> None:
        """Raises PartialError, which names the first failures and carries this object, if there are any."""
        if not self.failures:
            return
        shown = "; ".join(str(failure) for failure in self.failures[:3])
        error = PartialError(
            f"{len(self.failures)} of {len(self)} texts failed ({shown}); use .filled(value), or iterate and skip None"
        )
        error.embeddings = self
        raise error
