"""What an edge may do besides, so that jobs go through the provider's batch API: half the price, within a day.

A provider that is a BatchProvider and a store, or a column, that is KeepsBatches are enough for `batch=True`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from aembed.errors import ProviderError, RateLimitError
from aembed.preparation import Preparation
from aembed.protocols import Provider
from aembed.types import Matrix, Reply, Vector

BatchStatus = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]
"""In the words of OpenAI, whatever the service calls them. The last of a batch is completed, failed, expired or
cancelled."""


class QueueFullError(RateLimitError):
    """The provider's queue of tokens for batches is full."""


@dataclass(frozen=True, slots=True)
class BatchTerms:
    """What one batch may carry, and on which terms. `price_factor` is of the live price: 0.5 is half of it.

    `window_seconds` is how long the service allows itself. `tried`: embeddings by batch are known to work there; else
    one line is sent before anything is promised.
    """

    max_texts_per_line: int
    max_tokens_per_line: int
    max_texts_per_file: int
    max_lines_per_file: int
    max_bytes_per_file: int
    price_factor: float
    window_seconds: float
    tried: bool = True


@dataclass(frozen=True, slots=True)
class BatchFault:
    """Why a batch failed as a whole, in the service's words; `line` counts from 1 where it blames one."""

    code: str
    message: str = ""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class BatchState:
    """What the service says of one batch. Times are seconds since 1970; `key` is ours, None where it carries none."""

    id: str
    status: BatchStatus
    key: str | None = None
    input_file: str | None = None
    output_file: str | None = None
    error_file: str | None = None
    created_at: float = 0.0
    expires_at: float | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    tokens: int | None = None
    faults: tuple[BatchFault, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.status in ("completed", "failed", "expired", "cancelled")


@dataclass(frozen=True, slots=True)
class BatchLine:
    """What became of one line: exactly one of `reply`, `error` and `unrun` is there.

    `custom_id` is None where the service did not say. `error` is of the class that the same answer has live:
    BadRequestError for what the line contains, UnavailableError for 5xx and for status 0, InvalidReplyError for
    a reply whose vectors cannot be trusted. `unrun`: it never ran, and cost nothing.
    """

    custom_id: str | None
    reply: Reply | None = None
    error: ProviderError | None = None
    unrun: Literal["", "expired", "cancelled"] = ""


@runtime_checkable
class BatchProvider(Provider, Protocol):
    """A provider with a batch API. Its methods raise only ProviderError; each is one try of one request."""

    @property
    def batch_terms(self) -> BatchTerms | None:
        """None where this service, or this model, has no batches after all."""
        ...

    def batch_line(self, custom_id: str, texts: Sequence[str], *, preparation: Preparation) -> bytes:
        """One line of the file, with its newline. The texts have their prefixes already, as in `embed_prepared`."""
        ...

    async def upload_batch_file(self, path: Path, key: str) -> str:
        """Uploads a file of such lines; returns its id."""
        ...

    async def create_batch(self, file_id: str, key: str, *, preparation: Preparation) -> BatchState:
        """Creates the batch of that file, with our key in its metadata.

        Raises QueueFullError where the queue of tokens is full.
        """
        ...

    def list_batches(self) -> AsyncIterator[BatchState]:
        """All batches of the account, youngest first, a page at a time."""
        ...

    async def get_batch(self, id: str) -> BatchState:
        """Raises NotFoundError where there is none."""
        ...

    def batch_results(self, state: BatchState, inputs: Mapping[str, int]) -> AsyncGenerator[BatchLine]:
        """Every line of the output file and of the error file, as a stream, in whatever order.

        `inputs` says how many texts each line holds, by its custom_id: a reply is checked like a live one. Lines that
        are blank are left out; one that cannot be read has no custom_id, and an InvalidReplyError. Raises
        UnavailableError where a file is cut off, after all of its whole lines, and NotFoundError where it is gone. It
        is closed by whoever stops reading.
        """
        ...

    async def cancel_batch(self, id: str) -> BatchState:
        """What has run is billed, and stands in the output file once the batch is cancelled."""
        ...

    async def delete_batch_file(self, file_id: str) -> None:
        """Deletes a file; one that is gone already is no error."""
        ...


class OutText(msgspec.Struct, frozen=True, gc=False):
    """A text of a line, by its fingerprint. `weights` has one number for each piece that was sent of it."""

    fingerprint: bytes
    weights: tuple[float, ...] = (1.0,)


class SettledLine(NamedTuple):
    """A line that is out no more. Row i of the matrix is the vector of fingerprints[i]; None where there are none: then
    its texts have one more try behind them, and go `live` from now on, or not."""

    line: int
    fingerprints: Sequence[bytes]
    matrix: Matrix | None = None
    live: bool = False


class TextState(NamedTuple):
    """What batches have done for one text: `vector` was bought by one and stands in no row yet; `tries` is how many
    gave it nothing; a text that is to go `live` was refused in one, or has failed there too often."""

    is_out: bool = False
    tries: int = 0
    live: bool = False
    vector: Vector | None = None


@dataclass(frozen=True, slots=True)
class KeptBatch:
    """What a store keeps of one batch. `version` grows with each change; `data` is JSON."""

    key: str
    data: str
    version: int = 0


@runtime_checkable
class KeepsBatches(Protocol):
    """What a Store or a Backlog may do besides: keep what is out at a provider in batches. All of it is durable when
    a method returns, each in one transaction. Without tables of batches there is nothing out."""

    async def prepare_batches(self) -> None:
        """Makes the tables. Raises StoreError where the role may not."""
        ...

    async def has_batches(self) -> bool:
        """Whether there is anything here of batches, or of what they have brought."""
        ...

    async def batches(self) -> list[KeptBatch]:
        """All that are kept, by key."""
        ...

    async def begin_batch(self, batch: KeptBatch, lines: Sequence[Sequence[OutText]], *, is_out: bool = True) -> None:
        """Keeps a batch and the texts of each of its lines, which are out from now on where it `is_out`. One that is
        kept already stays as it is."""
        ...

    async def change_batch(self, batch: KeptBatch, *, is_out: bool = True) -> bool:
        """Keeps other data of it, where the version is still this one; returns whether it was. Unless `is_out`, its
        texts are out no more, but may still be asked for."""
        ...

    async def batch_lines(self, key: str) -> Mapping[int, Sequence[OutText]]:
        """The texts of the lines that nothing is settled of yet, by the number of the line."""
        ...

    async def settle_lines(self, key: str, lines: Sequence[SettledLine]) -> None:
        """Keeps what became of these lines. One that was settled already stays as it is."""
        ...

    async def end_batch(self, key: str, *, tries: int) -> None:
        """Forgets a batch; the texts that are left of it have `tries` more behind them."""
        ...

    async def batch_texts(self, fingerprints: Collection[bytes]) -> Mapping[bytes, TextState]:
        """What there is of these texts; those of which there is nothing are left out."""
        ...

    async def forget_texts(self, fingerprints: Collection[bytes]) -> None:
        """They stand in rows by now, or were refused: their vectors and tries are needed no more."""
        ...

    async def forget_older(self, seconds: float) -> int:
        """Forgets vectors that were bought longer ago; returns how many."""
        ...
