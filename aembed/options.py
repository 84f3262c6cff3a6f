"""The keywords of an Embedder: their types for those that pass them on, and the checks of those that it uses itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict

from aembed.errors import ConfigError
from aembed.events import OnEvent
from aembed.limits import Budget, RetryPolicy
from aembed.ranges import check_number, check_seconds, check_whole_number, one_line_of
from aembed.types import TooLong

# Chosen: one stream of full requests uses up OpenAI's tier 1, and four its tier 5 (10 million tokens a minute), so that
# 8 begin with room. More than 64 is not tried unasked: each holds a connection of somebody's server.
FIRST_AUTO, MOST_AUTO = 8, 64
"""Requests in flight with `concurrency="auto"`: at first, and as long as none is refused at the most."""

# Chosen: systems allow a process 1,024 descriptors by default, and some thousands where that was raised.
MOST_CONCURRENCY = 10_000
"""Each request in flight may hold a connection, and so a file descriptor."""

Key: TypeAlias = str | Callable[[], Awaitable[str]] | None
"""One key: a str, an async callable that gives a token, None: the provider's own variable of the environment."""


class QueryOptions(TypedDict, total=False):
    """The keywords of Embedder but for `timeout`, which is the call's own in `aembed.embed_query`."""

    api_key: Key | Sequence[Key]
    base_url: str | Sequence[str] | None
    dimensions: int | None
    concurrency: int | Literal["auto"]
    requests_per_minute: float | None
    tokens_per_minute: float | None
    max_batch_size: int | None
    max_tokens_per_batch: int | None
    too_long: TooLong
    retry: RetryPolicy
    budget: Budget | Sequence[Budget] | None
    query_budget: Budget | Sequence[Budget] | None
    cache: str | Path | None
    cache_queries: bool
    cache_bytes: int
    coordinator: str | Path | None
    max_queue_size: int | None
    http_client: Any
    on_event: OnEvent | None


class EmbedderOptions(QueryOptions, total=False):
    """The keywords of Embedder, for functions that hand them on: `def f(**options: Unpack[EmbedderOptions])`."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Options:
    """Those that its provider has no part in. Raises ConfigError for one that cannot work."""

    concurrency: int | Literal["auto"]
    requests_per_minute: float | None
    tokens_per_minute: float | None
    max_batch_size: int | None
    max_tokens_per_batch: int | None
    too_long: TooLong
    retry: RetryPolicy
    timeout: float
    budget: Budget | Sequence[Budget] | None
    query_budget: Budget | Sequence[Budget] | None
    cache: str | Path | None
    cache_queries: bool
    cache_bytes: int
    coordinator: str | Path | None
    max_queue_size: int | None
    on_event: OnEvent | None

    def __post_init__(self) -> None:
        concurrency = self.concurrency
        if concurrency != "auto":
            concurrency = check_whole_number("concurrency", concurrency, 1, MOST_CONCURRENCY, why=', or "auto"')
        checked: dict[str, object] = {
            "concurrency": concurrency,
            "timeout": check_seconds("timeout", self.timeout),
            "cache_bytes": check_whole_number("cache_bytes", self.cache_bytes, 0),
        }
        if self.max_queue_size is not None:
            checked["max_queue_size"] = check_whole_number("max_queue_size", self.max_queue_size, 1, why=", or None")
        for name in ("requests_per_minute", "tokens_per_minute"):
            if (given := getattr(self, name)) is not None:
                checked[name] = check_number(name, given)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.too_long not in ("error", "truncate", "split"):
            raise ConfigError(f'too_long={one_line_of(self.too_long)} must be "error", "truncate" or "split"')
        if not isinstance(self.retry, RetryPolicy):
            raise ConfigError(f"retry={one_line_of(self.retry)} must be a RetryPolicy, as RetryPolicy(max_retries=3)")
        _check_budgets("budget", self.budget)
        _check_budgets("query_budget", self.query_budget)
        if not isinstance(self.cache_queries, bool):
            raise ConfigError(f"cache_queries={one_line_of(self.cache_queries)} must be True or False")
        if self.cache_queries and self.cache is None:
            raise ConfigError("cache_queries=True keeps queries in a cache, and there is none; give cache= as well")

        _check_on_event(self.on_event)

    @property
    def most_in_flight(self) -> int:
        return MOST_AUTO if self.concurrency == "auto" else self.concurrency

    @property
    def first_in_flight(self) -> int:
        return FIRST_AUTO if self.concurrency == "auto" else self.concurrency

    @property
    def budgets(self) -> tuple[Budget, ...]:
        return _check_budgets("budget", self.budget)

    @property
    def query_budgets(self) -> tuple[Budget, ...]:
        return _check_budgets("query_budget", self.query_budget)


def _check_on_event(given: object) -> None:
    if given is None:
        return
    if not callable(given):
        raise ConfigError(f"on_event={one_line_of(given)} must be a plain function, or None")
    if iscoroutinefunction(given) or iscoroutinefunction(getattr(given, "__call__", None)):  # noqa: B004
        raise ConfigError(
            "on_event must be a plain function, and not async: nothing waits for it; put the event into an "
            "asyncio.Queue, and await there"
        )


def _check_budgets(name: str, given: object) -> tuple[Budget, ...]:
    if given is None:
        return ()
    budgets = (given,) if isinstance(given, Budget) else given
    if not isinstance(budgets, list | tuple) or not all(isinstance(each, Budget) for each in budgets):
        raise ConfigError(
            f"{name}={one_line_of(given)} must be a Budget, as Budget(max_cost_usd=5.0), or several of them"
        )
    return tuple(budgets)
