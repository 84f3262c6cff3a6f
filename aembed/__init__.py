"""aembed: texts become embedding vectors in true batches, and every result that was paid for is kept."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aembed.embedder import Embedder
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
    SourceError,
    SpaceMismatchError,
    StoreError,
    UnavailableError,
)
from aembed.protocols import Backlog, Provider, Store
from aembed.providers import open_provider
from aembed.results import CacheStats, Embeddings, Plan, Progress, Report, Stats
from aembed.script import backfill, embed_documents, embed_into, embed_query, search, stream
from aembed.stores import open_store
from aembed.types import Budget, Embedded, Failure, Limits, Match, Record, Reply, RetryPolicy, Space, StoreInfo, Usage

__version__ = "0.1.0"

if TYPE_CHECKING:
    from aembed.providers.fake import FakeProvider
    from aembed.stores.memory import MemoryStore
    from aembed.stores.postgresql import PostgresStore
    from aembed.stores.postgresql_column import PostgresColumn
    from aembed.stores.sqlite import SQLiteStore
    from aembed.stores.sqlite_column import SQLiteColumn

_LOADED_WHEN_USED = {
    "FakeProvider": "aembed.providers.fake",
    "MemoryStore": "aembed.stores.memory",
    "SQLiteStore": "aembed.stores.sqlite",
    "SQLiteColumn": "aembed.stores.sqlite_column",
    "PostgresStore": "aembed.stores.postgresql",
    "PostgresColumn": "aembed.stores.postgresql_column",
}


def __getattr__(name: str) -> Any:
    """A database's driver is loaded by those who use that database."""
    if name in _LOADED_WHEN_USED:
        return getattr(import_module(_LOADED_WHEN_USED[name]), name)
    raise AttributeError(f"module 'aembed' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LOADED_WHEN_USED])
