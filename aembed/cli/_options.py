"""What the flags that every command has make: an Embedder, and a column of a table of the user's own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self
from urllib.parse import urlsplit

from aembed.cli import _flags as flags
from aembed.cli._typed_command import TypedCommand
from aembed.core.addresses import is_loopback
from aembed.core.spaces import places_of, share_a_place
from aembed.embedder import Embedder
from aembed.errors import ConfigError
from aembed.limits import Budget, RetryPolicy
from aembed.options import MOST_AUTO
from aembed.protocols import Provider
from aembed.providers import open_provider
from aembed.providers._options import is_of_key
from aembed.stores import Column, open_column
from aembed.types import Space

DEFAULT_MODEL = "local"
NO_KEY = "dry-run"
"""Nothing is sent in a dry run, so nobody needs a key for one."""
_NO_OPTIONS = {
    "api_key": "the key comes from the environment alone",
    "http_client": "it is an object, for the library",
    "on_event": "it is a function, for the library",
    "name": "use --model",
    "base_url": "use --base-url",
    "dimensions": "use --dimensions",
    "concurrency": "use --concurrency",
}


@dataclass(frozen=True, kw_only=True)
class ColumnFlags:
    """The flags that name a column of a table of the user's own."""

    table: flags.Table = None
    text: flags.TextColumn = None
    text_sql: flags.TextSQL = None
    vector: flags.VectorColumn = "embedding"
    key: flags.KeyColumns = None
    fingerprint: flags.Fingerprint = None

    @property
    def name(self) -> str:
        return f"{self.table}.{self.vector}"

    def named(self) -> Self | None:
        """None without `--table`. Raises ConfigError where a flag of a table is given and no table."""
        if self.table:
            return self
        alone = {"--text": self.text, "--text-sql": self.text_sql, "--key": self.key, **self._conditions()}
        if given := [flag for flag, value in alone.items() if value]:
            raise ConfigError(f"{given[0]} is about a table of your own; name it with  --table NAME")
        return None

    def open(self, url: str) -> Column:
        if (self.text is None) == (self.text_sql is None):
            raise ConfigError("name the column of the texts with  --text COLUMN  (or an expression with --text-sql)")
        return open_column(
            url,
            self.table or "",
            text=self.text,
            vector=self.vector,
            key=tuple(self.key or ()) or None,
            text_sql=self.text_sql,
            fingerprint=self.fingerprint,
            **self._choices(),
        )

    def _conditions(self) -> dict[str, str | None]:
        return {"--fingerprint": self.fingerprint}

    def _choices(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, kw_only=True)
class RowFlags(ColumnFlags):
    """And which rows of it."""

    where: flags.Condition = None

    def _conditions(self) -> dict[str, str | None]:
        return {"--where": self.where, **super()._conditions()}

    def _choices(self) -> dict[str, Any]:
        return {"where": self.where}


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """The flags of the model alone; None: not given."""

    model: flags.Model = None
    base_url: flags.BaseURL = None
    option: flags.ProviderOptions = None
    dimensions: flags.Dimensions = None
    timeout: flags.Timeout = 60.0

    def embedder(self, held: Space | None) -> Embedder:
        """`held` is the space of the store: its model, dimensions and server are the defaults.

        Raises ConfigError before anything is read.
        """
        # "local" alone names a provider that goes on with what made the store (FollowsStores).
        is_named = self.model is not None and not (held and self.model == held.provider)
        if held is not None and not is_named:
            return replace(self, model=f"{held.provider}:{held.model}", base_url=self._servers(held)).embedder(held)
        embedder = self._make_embedder(self.dimensions)
        if held and self.dimensions is None and _is_shortened(embedder.space, held):
            return self._make_embedder(held.dimensions)
        return embedder

    def _servers(self, held: Space) -> list[str] | None:
        """Those of the store may be used unasked where all of them are this machine."""
        places = places_of(held)
        if not self.base_url and all(is_loopback(urlsplit(place).hostname or "") for place in places):
            return places
        return self.base_url

    def _make_embedder(self, dimensions: int | None) -> Embedder:
        own = merge_options(map(parse_option, self.option or ()))
        model = self.model or os.environ.get("AEMBED_MODEL") or DEFAULT_MODEL
        # One URL is a str, so that providers of other packages need not know of several.
        urls = self.base_url[0] if self.base_url and len(self.base_url) == 1 else self.base_url or None
        return self._embedder(partial(open_provider, model, base_url=urls, dimensions=dimensions, **own))

    def _embedder(self, opened: Callable[..., Provider]) -> Embedder:
        return Embedder(opened(), timeout=self.timeout)


@dataclass(frozen=True, kw_only=True)
class Settings(ModelFlags):
    """The flags that are keywords of Embedder; None: not given."""

    max_cost: flags.MaxCost = None
    max_billed_tokens: flags.MaxBilledTokens = None
    budget_per: flags.BudgetPerOption = flags.BudgetPer.JOB
    dry_run: flags.DryRun = False
    too_long: flags.TooLongOption = flags.TooLong.ERROR
    concurrency: flags.Concurrency = 8
    max_batch_size: flags.MaxBatchSize = None
    max_tokens_per_batch: flags.MaxTokensPerBatch = None
    requests_per_minute: flags.RequestsPerMinute = None
    tokens_per_minute: flags.TokensPerMinute = None
    max_retries: flags.MaxRetries = 3
    cache: flags.CachePlace = None
    coordinator: flags.CoordinatorPlace = None

    def _embedder(self, opened: Callable[..., Provider]) -> Embedder:
        connections = MOST_AUTO if self.concurrency == "auto" else self.concurrency
        try:
            provider = opened(concurrency=connections)
        except ConfigError:
            if not self.dry_run:
                raise
            provider = opened(concurrency=connections, api_key=NO_KEY)  # what else is wrong is wrong again
        too_long: Any = self.too_long.value
        per: Any = self.budget_per.value
        return Embedder(
            provider,
            concurrency=self.concurrency,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            max_batch_size=self.max_batch_size,
            max_tokens_per_batch=self.max_tokens_per_batch,
            retry=RetryPolicy(max_retries=self.max_retries),
            timeout=self.timeout,
            budget=Budget(self.max_billed_tokens, self.max_cost, per),
            too_long=too_long,
            cache=self.cache or None,
            coordinator=self.coordinator or None,
        )


def parse_option(given: str) -> tuple[str, object]:
    """`allow_http=true` as a name and a value: true, false, null, numbers, objects and what stands in quotation marks
    are as in JSON, all else is text.

    A name with a point is one entry of a mapping: `headers.X-Team=search`.
    """
    name, equals, written = given.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--option {given!r} is not KEY=VALUE; it looks like allow_http=true")
    value: object = written
    with suppress(ValueError):
        read = json.loads(written)
        value = read if isinstance(read, bool | int | float | str | dict) or read is None else written
    name, point, entry = name.strip().partition(".")
    name = name.replace("-", "_")
    if name in _NO_OPTIONS:
        raise ConfigError(f"--option {name}=...: {_NO_OPTIONS[name]}")
    if name == "headers":
        # A command line is seen by others, and kept in the history of the shell.
        named = {entry: written} if point else value
        for header in named if isinstance(named, dict) else ():
            if is_of_key(header):
                raise ConfigError(
                    f"--option headers.{header}=...: a key is never passed on the command line; type  "
                    "export OPENAI_API_KEY=...  (or the variable of that provider), or pass headers= in Python"
                )
        return name, named
    return name, {entry: value} if point else value


def merge_options(given: Iterable[tuple[str, object]]) -> dict[str, Any]:
    """All of them; entries of one mapping come together, the last one of a name counts."""
    merged: dict[str, Any] = {}
    for name, value in given:
        held = merged.get(name)
        merged[name] = {**held, **value} if isinstance(held, dict) and isinstance(value, dict) else value
    return merged


def check_server(embedder: Embedder, held: Space | None, again: TypedCommand) -> None:
    """Raises ConfigError where the store names a server that nobody named here.

    A store may come from somebody else: it alone does not decide where texts and the key are sent.
    """
    asked = embedder.space
    if held is None or (held.provider, held.model) != (asked.provider, asked.model) or share_a_place(held, asked):
        return
    if flags := server_flags(held):
        raise ConfigError(
            f"the store's vectors were made by {held.model} at {held.endpoint}; "
            f"to send texts there:  {again.command_line(*flags, without=('base_url',))}"
        )


def server_flags(held: Space) -> tuple[str, ...]:
    """`--base-url` with each address of a space."""
    return tuple(word for place in places_of(held) if place for word in ("--base-url", place))


def _is_shortened(asked: Space, held: Space) -> bool:
    same = (asked.provider, asked.model) == (held.provider, held.model)
    return same and asked.dimensions is not None and asked.dimensions != held.dimensions
