"""What can go wrong, and what the engine does about it.

The tree is the retry table: the class of an error is its verdict.

AembedError
├── ConfigError(ValueError)     raised before any I/O
├── InputError(ValueError)      that text fails: empty, too long, not a str, lone surrogate
├── SourceError                 the job stops: the caller's records raised; `__cause__` is what they raised
├── ProviderError               .status_code .request_id .hints .body (cut short, never the key)
│   ├── RateLimitError          retried for as long as an outage may last
│   ├── UnavailableError        retried, RetryPolicy.max_retries times: 5xx, connection, timeout; a batch in parts
│   ├── InvalidReplyError       retried once, then the batch is split; the job stops where it is oversized
│   ├── BadRequestError         the batch is split; a text refused alone fails, where a good one is accepted
│   ├── AuthenticationError     the job stops
│   ├── PermissionDeniedError   the job stops
│   ├── NotFoundError           the job stops
│   └── QuotaExceededError      the job stops: a 429 that no waiting clears, or none of minutes
├── OutageError                 the job stops: the provider was away for too long
├── BudgetExceededError         the job stops before the request that would exceed it
├── StoppedError                the job was stopped from outside: its Embedder was closed, or a task of it cancelled
├── OverloadedError             too many queries wait already
├── StoreError                  the job stops; .unsaved holds the rows that were paid for
│   ├── SpaceMismatchError      the store holds vectors of another model
│   ├── RowRefusedError         that row fails: its table refuses it, or a trigger or a rule drops it
│   └── RowsRefusedError        these rows fail, and all others of the write are written
└── PartialError                some texts failed; .embeddings has the rest

An error that stops a job carries `.report`, and `.embeddings` where the job had no store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from aembed.results import AembedError as AembedError
from aembed.results import PartialError as PartialError
from aembed.types import Hints, Rows

# Chosen: enough to see what a server said. Larger, each error in a log would be a page, and errors are kept by the
# thousand.
_BODY_CHARACTERS = 500


class ConfigError(AembedError, ValueError):
    """An option, a URL or a combination of them cannot work. Nothing was read, sent or written."""


class InputError(AembedError, ValueError):
    """This text (or call) cannot be embedded; its neighbours can."""


class SourceError(AembedError):
    """The caller's records raised. What was read before that is finished and kept."""


class ProviderError(AembedError):
    """The provider refused, failed, or answered something that is not an embedding reply.

    `unsent`: it never left, so it cost nothing. `at_once`: the same request, sent once more and now, may be answered.
    """

    unsent: bool = False
    at_once: bool = False

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        request_id: str | None = None,
        hints: Hints | None = None,
        body: str = "",
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.request_id = request_id
        self.hints = hints
        self.body = body[:_BODY_CHARACTERS]


class RateLimitError(ProviderError):
    """429: the request came too early. Waiting clears it."""


class UnavailableError(ProviderError):
    """5xx, no connection, a broken connection, or no answer within the deadline."""

    @property
    def retry_after(self) -> float | None:
        """Seconds until a try may succeed, where that is known."""
        return self.hints.retry_after if self.hints else None


class InvalidReplyError(ProviderError):
    """A reply whose vectors cannot be trusted: count, order, dimension or values are off.

    `oversized`: it was larger than any right reply can be, or in a compression that nobody asked for and that hides
    how large it is. Twice, and the job stops. `of_old_form`: it came in a form that is not asked for any more, and so
    says nothing of its texts.
    """

    oversized: bool = False
    of_old_form: bool = False


class BadRequestError(ProviderError):
    """The provider refused the request for what it contains.

    `offender` is the position in the request of the text that the reply blames, where it names one.
    `max_batch_size` and `max_tokens_per_batch` are the limits that the reply names, where it does, and
    `requested_tokens` is how many it says that this request had. `max_tokens` is a limit of one text or of all
    together, where the reply does not say which. `about_length`: its words may mean that a text is too long.
    """

    offender: int | None = None
    max_batch_size: int | None = None
    max_tokens_per_batch: int | None = None
    max_tokens: int | None = None
    requested_tokens: int | None = None
    about_length: bool = False


class AuthenticationError(ProviderError):
    """401: the key is missing, wrong or revoked."""


class PermissionDeniedError(ProviderError):
    """403: the key may not use this model."""


class NotFoundError(ProviderError):
    """404, a redirect, or a certificate that proves nothing: no such model, or not the endpoint meant."""


class QuotaExceededError(ProviderError):
    """A 429 or its kin that no waiting clears, or none of minutes.

    The account has no money left (`insufficient_quota`), its plan does not include the model, or the limit of a day or
    a month is used up: `hints.spent_window` names that one, and `hints.reset_spent` the seconds until it is whole
    again, where the provider says so.
    """


class OutageError(AembedError):
    """The provider was away for longer than the job was willing to wait. Run the job again later."""


class BudgetExceededError(AembedError):
    """The next request could cost more than is left of the budget. It was not sent."""


class StoppedError(AembedError):
    """The job was stopped from outside: its Embedder was closed, or one of its tasks was cancelled by somebody else.

    What was sent before has landed and is kept. Run the same again.
    """


class OverloadedError(AembedError):
    """More queries wait than the queue holds. Answer 503, or try again after `retry_after` seconds."""

    retry_after: float = 1.0


class StoreError(AembedError):
    """The store could not read or write. `unsaved` holds the rows that were paid for and not written."""

    unsaved: tuple[Rows, ...] = ()


class SpaceMismatchError(StoreError):
    """The store holds vectors of another model, dimension or provider; they cannot be compared.

    `commands` are those in its message, where there are any, each as its words: the one that takes the rows over where
    they are of the same model, and the one that builds a new store.
    """

    commands: tuple[tuple[str, ...], ...] = ()


class RowRefusedError(StoreError):
    """The table does not take this row: a constraint or a trigger refuses it, or a trigger or a rule drops it."""


class RowsRefusedError(StoreError):
    """What a `write` raises that wrote all rows but some: the job goes on, and those rows fail.

    `rows` tells by the id why a row was not taken, and `written` is how many rows were.
    """

    def __init__(self, rows: Mapping[str, StoreError], written: int) -> None:
        first = next(iter(rows.values()), None)
        super().__init__(f"rows not taken: {len(rows):,}, written: {written:,}; the first: {first}")
        self.rows = rows
        self.written = written


ErrorT = TypeVar("ErrorT", bound=AembedError)


def copy_error(error: ErrorT) -> ErrorT:
    """The same error once more: one that several callers raise would collect the tracebacks of all."""
    copy = error.__class__.__new__(error.__class__)
    copy.args, copy.__cause__ = error.args, error.__cause__
    copy.__dict__.update(error.__dict__)
    return copy
