"""The values that travel through the engine. All are frozen; none does I/O.

Those that are made for every text are structs, not dataclasses: at a tenth of the cost, and a job keeps tens of
thousands, each of which a collection of garbage would visit while the loop waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float32]
"""Shape (dimensions,), float32."""

Matrix: TypeAlias = NDArray[np.float32]
"""Shape (inputs, dimensions), float32, C order."""

InputType = Literal["document", "query"]
TooLong = Literal["error", "truncate", "split"]
Metadata: TypeAlias = Mapping[str, Any]


class Record(msgspec.Struct, frozen=True, gc=False):
    """One text to embed.

    `id` names the row in the store. `metadata` is any JSON object. `source` groups the records of one
    folder, file or table, so that rows whose record is gone can be found.
    """

    id: str
    text: str
    metadata: Metadata | None = None
    source: str | None = None

    if TYPE_CHECKING:

        def __init__(
            self, id: str | int | UUID, text: str, metadata: Metadata | None = None, source: str | None = None
        ) -> None:
            """A number and a UUID are taken as their text."""


class Unread(msgspec.Struct, frozen=True, gc=False):
    """So many records of a source were not read: they are in the store, and their files have not changed since."""

    count: int


class FilePart(msgspec.Struct, frozen=True, gc=False):
    """What a store remembers of one file that its rows were read from, or a further part of it.

    `path` is the file's name below its source. `state` is what the system said of the file, and how it was read; b""
    where it has to be read again. `rows` is how many rows came of it. `ids` are the hashes of their ids, 8 bytes each,
    in parts: only part 0 says the rest.
    """

    path: str
    part: int
    state: bytes
    rows: int
    ids: bytes


@dataclass(frozen=True, slots=True)
class KnownFiles:
    """The files of one source that a store remembers, by their names: state and rows of each.

    `generation` changes whenever somebody begins to read the source anew. `is_open`: somebody has begun and has not
    come to the end. `others` are rows of the source that came of none of these files.
    """

    generation: int = 0
    is_open: bool = False
    others: int = 0
    files: Mapping[str, tuple[bytes, int]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows of the source there have to be in the store. With any other number somebody has changed it."""
        return self.others + sum(rows for _, rows in self.files.values())


@dataclass(frozen=True, slots=True)
class Match:
    """A search result. `score` is the cosine similarity; 1 is equal, in every store.

    `rank` is its place in the result, from 1; 0 where a store was asked and no Embedder. In a hybrid search the scores
    need not be in that order.
    """

    id: str
    text: str | None
    metadata: Metadata | None
    score: float
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Space:
    """Which vector space rows belong to. Vectors of different spaces cannot be compared.

    `dimensions` is None until it is known. `endpoint` is "" for the provider's own. `origin` is the provider:model
    that fingerprints of the rows name, where `Embedder.move` has found the same vectors under another name; else "".
    `preparation` is the str() of a Preparation: what else made vectors of the texts, such as prefixes; "" for nothing.
    """

    provider: str
    model: str
    dimensions: int | None = None
    endpoint: str = ""
    origin: str = ""
    preparation: str = ""

    def __str__(self) -> str:
        at = f" at {self.endpoint}" if self.endpoint else ""
        width = f", {self.dimensions} dimensions" if self.dimensions else ""
        prepared = f", prepared by {self.preparation}" if self.preparation else ""
        return f"{self.provider}:{self.model}{width}{at}{prepared}"


class Embedded(msgspec.Struct, frozen=True, gc=False):
    """A record with its vector. `index` is its position in the input.

    A row of a store also tells where its vector comes from: the space, the name that replies gave to the model, and the
    fingerprint under which it was paid for. Another store takes that vector over where it would have bought the same.
    """

    id: str
    index: int
    vector: Vector
    text: str | None = None
    metadata: Metadata | None = None
    source: str | None = None
    space: Space | None = None
    model: str = ""
    fingerprint: bytes = b""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the provider billed, and what it says that it cost, in dollars. None where its reply did not say."""

    tokens: int | None = None
    cost_usd: float | None = None


class Hints(msgspec.Struct, frozen=True, gc=False):
    """What a reply's headers say about waiting and limits. All times are seconds.

    A limit of requests, tokens or texts is one of its window: `window_requests` and so on, a minute if nothing else is
    said. `spent_window` names a longer one ("day", "week", "month") of which nothing is left: no short wait clears
    that. `reset_spent` are the seconds until it is whole again, where that is said.
    """

    retry_after: float | None = None
    should_retry: bool | None = None
    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens: float | None = None
    limit_texts: int | None = None
    remaining_texts: int | None = None
    reset_texts: float | None = None
    window_requests: float = 60.0
    window_tokens: float = 60.0
    window_texts: float = 60.0
    spent_window: str = ""
    reset_spent: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """Row i of `matrix` belongs to text i of the request.

    `checked`: the provider has seen that every row is finite and not zero. Else it is looked for again.
    """

    matrix: Matrix
    model: str = ""
    usage: Usage = Usage()
    hints: Hints = Hints()
    request_id: str | None = None
    server_seconds: float | None = None
    checked: bool = False


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
    token: int | None = None
    """The worker that writes them, where the store has leases. One that was silent for longer than it may be replaces
    no row that was written since; those are refused (RowsRefusedError)."""

    def __len__(self) -> int:
        return len(self.ids)

    def picked(self, positions: Sequence[int]) -> Rows:
        """The rows at these positions."""
        return Rows(
            [self.ids[i] for i in positions],
            [self.texts[i] for i in positions],
            [self.metadata[i] for i in positions],
            [self.sources[i] for i in positions],
            [self.fingerprints[i] for i in positions],
            [self.digests[i] for i in positions],
            self.matrix[list(positions)],
            self.token,
        )


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
