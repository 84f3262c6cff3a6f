"""aembed: texts become embedding vectors in true batches, and every result that was paid for is kept."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aembed.batch_protocols import BatchFault, BatchState, BatchTerms
from aembed.embedder import Embedder, RecordLike, Records, Texts
from aembed.engines import AnyStore
from aembed.errors import (
    AembedError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConfigError,
    InputError,
    InvalidReplyError,
    NotFoundError,
    OutageError,
    OverloadedError,
    PartialError,
    PermissionDeniedError,
    ProviderError,
    QuotaExceededError,
    RateLimitError,
    RowRefusedError,
    RowsRefusedError,
    SourceError,
    SpaceMismatchError,
    StoppedError,
    StoreError,
    UnavailableError,
)
from aembed.limits import Budget, Limits, RetryPolicy
from aembed.options import EmbedderOptions
from aembed.pipeline.arrow_records import ArrowBatch, ArrowStream
from aembed.pipeline.observing import OnFailure, OnProgress
from aembed.pipeline.results import Results
from aembed.preparation import Preparation
from aembed.protocols import Accounts, Backlog, KeepsModel, Moves, Provider, ReadsRows, Refusals, SearchesWords, Store
from aembed.providers import open_provider
from aembed.results import CacheStats, Embeddings, Failure, Plan, Progress, Report, Stats
from aembed.script import backfill, embed_documents, embed_into, embed_query, search, stream
from aembed.stores import Column, Indexable, open_store
from aembed.types import (
    Embedded,
    Hints,
    InputType,
    Known,
    Match,
    Matrix,
    Metadata,
    Record,
    Refusal,
    Reply,
    Rows,
    Space,
    StoreInfo,
    TooLong,
    Usage,
    Vector,
)

if TYPE_CHECKING:
    from aembed.progress_bar import ProgressBar
    from aembed.providers.fake import FakeProvider
    from aembed.stores.memory import MemoryStore
    from aembed.stores.postgresql import PostgresStore
    from aembed.stores.postgresql_column import PostgresColumn
    from aembed.stores.sqlite import SQLiteStore
    from aembed.stores.sqlite_column import SQLiteColumn

__version__ = "0.1.0"

__all__ = [
    "Accounts",
    "AembedError",
    "AnyStore",
    "ArrowBatch",
    "ArrowStream",
    "AuthenticationError",
    "Backlog",
    "BadRequestError",
    "BatchFault",
    "BatchState",
    "BatchTerms",
    "Budget",
    "BudgetExceededError",
    "CacheStats",
    "Column",
    "ConfigError",
    "Embedded",
    "Embedder",
    "EmbedderOptions",
    "Embeddings",
    "Failure",
    "FakeProvider",
    "Hints",
    "Indexable",
    "InputError",
    "InputType",
    "InvalidReplyError",
    "KeepsModel",
    "Known",
    "Limits",
    "Match",
    "Matrix",
    "MemoryStore",
    "Metadata",
    "Moves",
    "NotFoundError",
    "OnFailure",
    "OnProgress",
    "OutageError",
    "OverloadedError",
    "PartialError",
    "PermissionDeniedError",
    "Plan",
    "PostgresColumn",
    "PostgresStore",
    "Preparation",
    "Progress",
    "ProgressBar",
    "Provider",
    "ProviderError",
    "QuotaExceededError",
    "RateLimitError",
    "ReadsRows",
    "Record",
    "RecordLike",
    "Records",
    "Refusal",
    "Refusals",
    "Reply",
    "Report",
    "Results",
    "RetryPolicy",
    "RowRefusedError",
    "Rows",
    "RowsRefusedError",
    "SQLiteColumn",
    "SQLiteStore",
    "SearchesWords",
    "SourceError",
    "Space",
    "SpaceMismatchError",
    "Stats",
    "StoppedError",
    "Store",
    "StoreError",
    "StoreInfo",
    "Texts",
    "TooLong",
    "UnavailableError",
    "Usage",
    "Vector",
    "__version__",
    "backfill",
    "embed_documents",
    "embed_into",
    "embed_query",
    "open_provider",
    "open_store",
    "search",
    "stream",
]

_LOADED_WHEN_USED = {
    "FakeProvider": "aembed.providers.fake",
    "MemoryStore": "aembed.stores.memory",
    "PostgresColumn": "aembed.stores.postgresql_column",
    "ProgressBar": "aembed.progress_bar",
    "PostgresStore": "aembed.stores.postgresql",
    "SQLiteColumn": "aembed.stores.sqlite_column",
    "SQLiteStore": "aembed.stores.sqlite",
}

if not TYPE_CHECKING:  # which else would take any name at all for one of this module's

    def __getattr__(name: str) -> Any:
        """A database's driver is loaded by those who use that database."""
        if name in _LOADED_WHEN_USED:
            return getattr(import_module(_LOADED_WHEN_USED[name]), name)
        raise AttributeError(f"module 'aembed' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
