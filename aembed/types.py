"""The values that travel through the engine. All are frozen; none does I/O.

Those that are made for every text are structs, not dataclasses: at a tenth of the cost, and a job keeps tens of
thousands, each of which a collection of garbage would visit while the loop waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

from aembed.errors import AembedError, ConfigError
from aembed.ranges import check_number, check_seconds, check_whole_number, one_line_of

Vector: TypeAlias = NDArray[np.float32]
"""Shape (dimensions,), float32."""

Matrix: TypeAlias = NDArray[np.float32]
"""Shape (inputs, dimensions), float32, C order."""

InputType = Literal["document", "query"]
TooLong = Literal["error", "truncate", "split"]
Per = Literal["embedder", "job", "month", "day"]
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
class Limits:
    """What one request may carry.

    Tokens are counted as the provider counts them for its limits: `bytes_per_token` UTF-8 bytes each
    (for OpenAI 4, whatever its tokenizer says). `max_tokens_per_text` is in the tokenizer's own
    tokens; `encoding` names that tokenizer in tiktoken, None where it is not one of tiktoken's.
    `texts_per_minute` is a rate limit that the service counts in texts; None where it has none. `estimated`: nobody
    knows that this server counts so. Then 1 % of max_tokens_per_batch is left free until the `usage` of its replies has
    told how it counts. `requests_per_day` and `tokens_per_day` are limits of a day that ends at midnight of `day_zone`,
    a time zone's name: jobs count them in their store, from run to run.
    """

    max_batch_size: int
    max_tokens_per_batch: int
    max_tokens_per_text: int
    # In 35 recorded replies of OpenAI `x-ratelimit-remaining-tokens` dropped by the UTF-8 bytes divided by four, within
    # one token (2025-06).
    bytes_per_token: float = 4.0
    encoding: str | None = None
    texts_per_minute: float | None = None
    estimated: bool = False
    requests_per_day: int | None = None
    tokens_per_day: int | None = None
    day_zone: str = "UTC"

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
            if wanted is not None:
                check_whole_number(name, wanted, 1, getattr(self, name), why=", the provider's own limit; or None")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the provider billed, and what it says that it cost, in dollars. None where its reply did not say."""

    tokens: int | None = None
    cost_usd: float | None = None


class Hints(msgspec.Struct, frozen=True, gc=False):
    """What a reply's headers say about waiting and limits. All times are seconds.

    A limit of requests, tokens or texts is one of its window: `window_requests` and so on, a minute if nothing else is
    said. `spent_window` names a longer window ("day", "month") of which nothing is left: no short wait clears that.
    `reset_spent` are the seconds until it is whole again, where that is said.
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


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How failed requests are tried again. Seconds.

    `max_retries` counts server and network errors of a single text while the provider answers others; a batch is tried
    twice at the most, and then in parts, since one text may be to blame. A rate
    limit is not counted, nor is a time in which the provider answers nobody: both end the job after `max_outage`
    seconds without one success. With `max_retries=0` a server or network error is final.
    """

    # Chosen: a text that fails four times while others are answered is to blame itself. Smaller, one server of several
    # that restarts would fail texts; larger, each text that always fails costs more requests.
    max_retries: int = 3
    backoff_base: float = 1.0
    backoff_max: float = 60.0
    # Chosen: a quarter of an hour passes most incidents without a person, and a job that waits for longer looks dead.
    max_outage: float = 900.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_retries", check_whole_number("max_retries", self.max_retries, 0))
        for name in ("backoff_base", "backoff_max", "max_outage"):
            object.__setattr__(self, name, check_seconds(name, getattr(self, name), zero=True))


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that may be spent. It is asked before each request, each try of it too. None: no limit.

    A request counts from before it is sent: as what its reply says, or, where no usable reply came (a timeout, a broken
    connection or reply, a gateway's 502, 504, 520 or 524), as the most that its texts can cost. One that was refused
    (429, another 4xx or 5xx) or never left costs nothing. So the bill is never higher, whatever is lost on the way.
    A cost that replies name counts, where it is more than the tokens at the price that is known here. The last requests
    are cut to what is left. Where the tokens of a text cannot be counted, the most that it can cost
    are its bytes, or for words what replies have proven and half as much again.

    `per` says how long it lasts:

    "job": all that is done for one store and one model until a run ends by itself. The store keeps what was spent: a
    run after one that stopped early (budget, error, signal, `kill -9`) goes on with what is left. Calls that have no
    store share one budget for the life of their Embedder. With a store of your own that is not `Accounts`, and for a
    column where the role may not create the schema `aembed`, it is for each run.

    "embedder": all jobs of one Embedder, for its life.

    "day", "month": of the clock, in UTC, for one store and one model: all its runs, whoever runs them. The store keeps
    it; without one that does (`Accounts`), a verb is a ConfigError.

    Queries have a budget of their own (`query_budget`), for the life of their Embedder.
    """

    max_billed_tokens: int | None = None
    max_cost_usd: float | None = None
    per: Per = "job"

    def __post_init__(self) -> None:
        if self.max_billed_tokens is not None:
            object.__setattr__(
                self, "max_billed_tokens", check_whole_number("max_billed_tokens", self.max_billed_tokens, 0)
            )
        if self.max_cost_usd is not None:
            check_number("max_cost_usd", self.max_cost_usd, zero=True)
        if self.per not in get_args(Per):
            raise ConfigError(f'per={one_line_of(self.per)} must be "job", "embedder", "day" or "month"')

    def tokens(self, price_usd: float | None) -> float | None:
        """The most tokens at `price_usd` for a million. Raises ConfigError where a price is needed and not known."""
        if self.max_cost_usd is None:
            return self.max_billed_tokens
        if price_usd is None:
            raise ConfigError("the price of this model is not known; use max_billed_tokens instead of max_cost_usd")
        affordable = self.max_cost_usd / price_usd * 1_000_000 if price_usd else float("inf")
        return min(affordable, self.max_billed_tokens if self.max_billed_tokens is not None else affordable)
