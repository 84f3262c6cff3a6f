"""What comes out of a job: its progress, its report, its plan, and the vectors of a list.

AembedError stands here, and not beside the other errors: it carries a Report and Embeddings, whose failures carry one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from aembed.types import Matrix, Usage, Vector


class AembedError(Exception):
    """The base of every error that aembed raises."""

    # It is imported from there, and so tracebacks and pickles name it.
    __module__ = "aembed.errors"

    report: Report | None = None
    embeddings: Embeddings | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A record that has no vector, and why. `index` is its position in the input."""

    id: str
    index: int
    error: AembedError

    def __str__(self) -> str:
        """One line, whatever the id holds."""
        return f"{self.id if self.id.isprintable() else repr(self.id)}: {self.error}"


class Failures(Sequence[Failure]):
    """Failures of texts whose id is their index, in the order of their index. Each is made when it is asked for.

    A collection of garbage visits each error, and each Failure, while the loop waits: half a second for a million of
    both. `reasons` are errors, or the words of those that hold nothing else, which `error_of_words` makes again.
    """

    __slots__ = ("_error_of_words", "_order", "_reasons", "indices")

    def __init__(
        self,
        indices: NDArray[np.int64],
        reasons: Sequence[AembedError | str],
        error_of_words: Callable[[str], AembedError],
    ) -> None:
        self._order = np.argsort(indices, kind="stable")
        self._reasons = reasons
        self._error_of_words = error_of_words
        self.indices = indices[self._order]

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, place: int) -> Failure: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Failure, ...]: ...
    def __getitem__(self, place: int | slice) -> Failure | tuple[Failure, ...]:
        if isinstance(place, slice):
            return tuple(self[each] for each in range(*place.indices(len(self))))
        index, reason = int(self.indices[place]), self._reasons[self._order[place]]
        return Failure(str(index), index, self._error_of_words(reason) if isinstance(reason, str) else reason)

    def __repr__(self) -> str:
        return f"<{len(self):,} failures, the first: {self[0]}>"


def count_in_words(number: int, one: str, many: str = "") -> str:
    """`1 text`, `2 texts`, `1,000 retries`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is. stored + unchanged + failed + submitted + pending = inputs, those read so far.

    `submitted` are out at the provider in a batch, and `bought_twice` are texts of which batches have brought a vector
    once more.

    `total` is the number of inputs where it is known before the end. `billed_tokens` are those of the replies that
    came; `lost_tokens` may be on the bill besides: their requests were sent and no usable reply came. `truncated` are
    inputs of which the provider embedded the beginning only, without a word, as far as its replies prove it.
    `at_risk_tokens` is the most that a crash may bill again, as the provider estimates tokens for its limits:
    `concurrency` requests, each as large as one may be. `waiting` says what is waited for now, where that takes long;
    `last_error` what the last request failed with that was tried again.
    """

    inputs: int = 0
    stored: int = 0
    unchanged: int = 0
    failed: int = 0
    pending: int = 0
    submitted: int = 0
    duplicates: int = 0
    removed: int = 0
    requests: int = 0
    retries: int = 0
    billed_tokens: int = 0
    lost_tokens: int = 0
    truncated: int = 0
    bought_twice: int = 0
    at_risk_tokens: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0
    total: int | None = None
    waiting: str = ""
    last_error: str = ""

    def __str__(self) -> str:
        parts = [count_in_words(self.inputs, "text"), f"{self.stored:,} stored", f"{self.unchanged:,} unchanged"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.submitted:
            parts.append(f"{self.submitted:,} submitted")
        if self.pending:
            parts.append(f"{self.pending:,} pending")
        if self.duplicates:
            parts.append(count_in_words(self.duplicates, "duplicate"))
        if self.removed:
            parts.append(f"{self.removed:,} removed")
        parts.append(count_in_words(self.requests, "request"))
        if self.retries:
            parts.append(count_in_words(self.retries, "retry", "retries"))
        parts.append(count_in_words(self.billed_tokens, "token"))
        if self.truncated:
            parts.append(f"{self.truncated:,} cut by the provider")
        if self.bought_twice:
            parts.append(f"{self.bought_twice:,} bought twice")
        if self.lost_tokens:
            parts.append(f"{count_in_words(self.lost_tokens, 'token')} lost and perhaps billed")
        if self.cost_usd is not None:
            parts.append(f"${self.cost_usd:.4f}")
        line = ", ".join(parts) + f" in {self.seconds:.1f} s"
        if self.waiting:
            return f"{line}, {self.waiting}"
        return f"{line}, last error: {self.last_error}" if self.last_error and self.pending else line


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
class CacheStats:
    """`saved_tokens` is what the hits would have cost, by the provider's own estimate."""

    hits: int = 0
    misses: int = 0
    saved_tokens: int = 0
    entries: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stats:
    """What an Embedder is doing now.

    `waiting` counts queries that are not on their way, `in_flight` requests that are. `requests_per_minute` and
    `tokens_per_minute` are the limits, None while they are not known; `requests_last_minute` and
    `tokens_last_minute` were spent. While the provider is waited for `gate_open` is False, and the next request may go
    in `retry_after` seconds. `accepted` and `throttled` count requests since the beginning. `concurrency` is how many
    requests may be in flight now. `limit` names the limit that is believed to set the speed, and why; it is empty where
    none is known. `last_error` is what the last request failed with that was tried again; for `failing_seconds` none
    has been answered. `errors` counts the requests that failed since the beginning, each try by itself, by the name of
    the error's class. `latency_p50` and `latency_p95` are seconds from sending to the whole reply, of the last 512 that
    were answered; None before the first. `billed_tokens` and `cost_usd` are what all replies have cost since the
    beginning, of jobs and queries; without a known price the cost is None. Where there are several addresses,
    `addresses` has the same of each by its host and port.
    """

    waiting: int = 0
    in_flight: int = 0
    accepted: int = 0
    throttled: int = 0
    requests_last_minute: int = 0
    tokens_last_minute: int = 0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrency: int = 0
    limit: str = ""
    gate_open: bool = True
    retry_after: float = 0.0
    last_error: str = ""
    failing_seconds: float = 0.0
    errors: Mapping[str, int] = field(default_factory=dict)
    latency_p50: float | None = None
    latency_p95: float | None = None
    billed_tokens: int = 0
    cost_usd: float | None = None
    cache: CacheStats = CacheStats()
    addresses: Mapping[str, Stats] = field(default_factory=dict)


class PartialError(AembedError):
    """Some texts failed. `embeddings` carries the vectors of the others."""

    # It is imported from there, and so tracebacks and pickles name it.
    __module__ = "aembed.errors"


class Embeddings(Sequence[Vector | None]):
    """The vectors of a list of texts, in their order.

    `len`, iteration and `[i]` give a read-only float32 vector of shape (dimensions,), or None where
    that text failed. `.vectors` and `np.asarray()` give the (n, dimensions) array.
    """

    __slots__ = ("_failed", "_matrix", "failures", "report", "usage")

    def __init__(self, matrix: Matrix, failures: Sequence[Failure], report: Report) -> None:
        self._matrix = matrix
        self._matrix.flags.writeable = False
        self.failures: Sequence[Failure] = failures if isinstance(failures, Failures) else tuple(failures)
        self._failed: NDArray[np.bool_] | None = None
        """Says of each row whether its text failed; None where none did."""
        if given := self.failures:
            self._failed = np.zeros(len(matrix), np.bool_)
            self._failed[given.indices if isinstance(given, Failures) else [each.index for each in given]] = True
        self.report = report
        self.usage = Usage(report.billed_tokens)

    def __len__(self) -> int:
        return len(self._matrix)

    @overload
    def __getitem__(self, index: int) -> Vector | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[Vector | None]: ...
    def __getitem__(self, index: int | slice) -> Vector | list[Vector | None] | None:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        return None if self._failed is not None and self._failed[position] else self._matrix[position]

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
        if self._failed is not None:
            matrix[self._failed] = value
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
