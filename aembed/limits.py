"""What may be sent and spent: the limits of a request, the tries of one that failed, and budgets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from aembed.errors import ConfigError
from aembed.ranges import check_number, check_seconds, check_whole_number, one_line_of

Per = Literal["embedder", "job", "month", "day"]


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
    it; without one that does (`Accounts`), a verb is a ConfigError. With `coordinator=` it is kept there, for all
    workers that name it, and needs no store.

    Queries have a budget of their own (`query_budget`), for the life of their Embedder; with `coordinator=` it may be
    of a day or a month.
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
