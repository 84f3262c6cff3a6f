"""Flags that mean the same in every command, and what they make of an Embedder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

import typer

from aembed.cli._again import Again
from aembed.core.addresses import is_loopback
from aembed.embedder import Embedder
from aembed.errors import ConfigError
from aembed.options import MOST_AUTO
from aembed.providers import open_provider
from aembed.stores import Column, open_column
from aembed.types import Budget, RetryPolicy, Space

DEFAULT_STORE = "sqlite:///aembed.db"
DEFAULT_MODEL = "local"
NO_KEY = "dry-run"
"""Nothing is sent in a dry run, so nobody needs a key for one."""
_NO_OPTIONS = {
    "api_key": "the key comes from the environment alone",
    "http_client": "it is an object, for the library",
    "name": "use --model",
    "base_url": "use --base-url",
    "dimensions": "use --dimensions",
    "concurrency": "use --concurrency",
}


class TooLong(StrEnum):
    ERROR = "error"
    TRUNCATE = "truncate"
    SPLIT = "split"


class BudgetPer(StrEnum):
    JOB = "job"
    DAY = "day"
    MONTH = "month"


StoreURL: TypeAlias = Annotated[
    str, typer.Option("--store", "-s", metavar="URL", envvar="AEMBED_STORE", help="Where the rows are kept.")
]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="PROVIDER:MODEL",
        show_default=False,
        help="Default: the store's own model, else $AEMBED_MODEL, else local.",
    ),
]
BaseURL: TypeAlias = Annotated[
    str | None, typer.Option(metavar="URL", show_default=False, help="Another server that speaks the same format.")
]
ProviderOptions: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="KEY=VALUE", show_default=False, help="One of the provider's own, as allow_http=true."
    ),
]
Dimensions: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", min=1, show_default=False, help="Shorten the vectors, where the model can.")
]


def at_a_time(given: object) -> int | str:
    """A number of requests, or "auto"."""
    written = str(given)
    if written == "auto":
        return written
    if not written.isdecimal() or int(written) < 1:
        raise typer.BadParameter(f"{written!r} is not an integer from 1 up, nor auto")
    return int(written)


Concurrency: TypeAlias = Annotated[
    Any, typer.Option(metavar="N|auto", parser=at_a_time, help="The most requests in flight; auto: up to 64.")
]
MaxBatchSize: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", min=1, show_default=False, help="The most texts in a request.")
]
MaxTokensPerBatch: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", min=1, show_default=False, help="The most tokens in a request.")
]
RequestsPerMinute: TypeAlias = Annotated[
    float | None,
    typer.Option(metavar="N", min=0.001, show_default=False, help="A ceiling. Default: learned from the replies."),
]
TokensPerMinute: TypeAlias = Annotated[
    float | None,
    typer.Option(metavar="N", min=0.001, show_default=False, help="A ceiling. Default: learned from the replies."),
]
TooLongOption: TypeAlias = Annotated[
    TooLong,
    typer.Option(
        "--too-long",
        metavar="error|truncate|split",
        help="What becomes of a text with more tokens than the model takes.",
    ),
]
Timeout: TypeAlias = Annotated[float, typer.Option(metavar="SECONDS", min=0.001, help="For one request.")]
MaxRetries: TypeAlias = Annotated[
    int, typer.Option(metavar="N", min=0, help="Tries again after a server or network error of a request.")
]
IndexMemory: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", show_default=False, help="With --index: memory that the server may use to build it, as 2GB."
    ),
]
MaxCost: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--max-cost", metavar="USD", min=0.0, show_default=False, help="Stop before the request that would cost more."
    ),
]
MaxBilledTokens: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        show_default=False,
        help="As --max-cost, in tokens: for a model without a known price.",
    ),
]
BudgetPerOption: TypeAlias = Annotated[
    BudgetPer,
    typer.Option(
        "--budget-per",
        metavar="job|day|month",
        help="How long --max-cost and --max-billed-tokens hold: for the job, or a day or month of the clock (UTC).",
    ),
]
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Send nothing and write nothing; say what would be done.")
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
FailuresTo: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", show_default=False, help="Write every failure to this file, as JSON Lines."),
]
Table: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", show_default=False, help="A table of your own, in place of a store.")
]
TextColumn: TypeAlias = Annotated[
    str | None, typer.Option(metavar="COLUMN", show_default=False, help="The table's column of the texts.")
]
TextSQL: TypeAlias = Annotated[
    str | None,
    typer.Option("--text-sql", metavar="SQL", show_default=False, help="PostgreSQL: an expression in place of --text."),
]
VectorColumn: TypeAlias = Annotated[str, typer.Option(metavar="COLUMN", help="The table's column of the vectors.")]
KeyColumns: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", show_default=False, help="Unique columns. Default: the primary key."),
]
Condition: TypeAlias = Annotated[
    str | None,
    typer.Option("--where", metavar="SQL", show_default=False, help="A condition of the table: these rows only."),
]
Fingerprint: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--fingerprint",
        metavar="COLUMN",
        show_default=False,
        help="A column that keeps the text's hash; rows whose text changed are filled again.",
    ),
]
RetryFailed: TypeAlias = Annotated[
    bool, typer.Option("--retry-failed", help="Send texts that were refused earlier once more.")
]
AsJSON: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="Print failures and errors only.")]


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """The flags that name a column of a table of the user's own."""

    table: str
    text: str | None
    text_sql: str | None
    vector: str
    key: tuple[str, ...] = ()
    where: str | None = None
    fingerprint: str | None = None
    create_columns: bool = False

    def open(self, url: str) -> Column:
        if (self.text is None) == (self.text_sql is None):
            raise ConfigError("name the column of the texts with  --text COLUMN  (or an expression with --text-sql)")
        return open_column(
            url,
            self.table,
            text=self.text,
            vector=self.vector,
            key=self.key or None,
            where=self.where,
            create_columns=self.create_columns,
            text_sql=self.text_sql,
            fingerprint=self.fingerprint,
        )


def column_names(
    table: str | None,
    text: str | None,
    text_sql: str | None,
    vector: str,
    key: Sequence[str] | None,
    where: str | None,
    fingerprint: str | None,
) -> ColumnNames | None:
    """None without `--table`. Raises ConfigError where a flag of a table is given and no table."""
    if table:
        return ColumnNames(table, text, text_sql, vector, tuple(key or ()), where, fingerprint)
    alone = {"--text": text, "--text-sql": text_sql, "--key": key, "--where": where, "--fingerprint": fingerprint}
    if given := [flag for flag, value in alone.items() if value]:
        raise ConfigError(f"{given[0]} is about a table of your own; name it with  --table NAME")
    return None


@dataclass(frozen=True, slots=True)
class Settings:
    """The flags that are keywords of Embedder; None: not given."""

    model: str | None = None
    base_url: str | None = None
    dimensions: int | None = None
    concurrency: int | Literal["auto"] = 8
    max_batch_size: int | None = None
    max_tokens_per_batch: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    too_long: TooLong = TooLong.ERROR
    timeout: float = 60.0
    max_retries: int = 3
    max_cost: float | None = None
    max_billed_tokens: int | None = None
    budget_per: BudgetPer = BudgetPer.JOB
    options: tuple[str, ...] = ()
    dry_run: bool = False

    def embedder(self, held: Space | None) -> Embedder:
        """`held` is the space of the store: its model, dimensions and server are the defaults.

        Raises ConfigError before anything is read.
        """
        if self.model is None and held is not None:
            return replace(self, model=f"{held.provider}:{held.model}", base_url=self._server(held)).embedder(held)
        embedder = self._made(self.dimensions)
        if held and self.dimensions is None and _shortened(embedder.space, held):
            return self._made(held.dimensions)
        return embedder

    def _server(self, held: Space) -> str | None:
        if self.base_url is None and is_loopback(urlsplit(held.endpoint).hostname or ""):
            return held.endpoint
        return self.base_url

    def _made(self, dimensions: int | None) -> Embedder:
        options: dict[str, Any] = {"too_long": self.too_long.value}
        own: dict[str, Any] = dict(map(option, self.options))
        per: Any = self.budget_per.value
        opened = partial(
            open_provider,
            self.model or os.environ.get("AEMBED_MODEL") or DEFAULT_MODEL,
            base_url=self.base_url,
            dimensions=dimensions,
            concurrency=MOST_AUTO if self.concurrency == "auto" else self.concurrency,
            **own,
        )
        try:
            provider = opened()
        except ConfigError:
            if not self.dry_run:
                raise
            provider = opened(api_key=NO_KEY)  # what else is wrong is wrong again
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
            **options,
        )


def option(given: str) -> tuple[str, object]:
    """`allow_http=true` as a name and a value: true, false, null and numbers as in JSON, all else is text."""
    name, equals, written = given.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--option {given!r} is not KEY=VALUE; it looks like allow_http=true")
    value: object = written
    with suppress(ValueError):
        read = json.loads(written)
        value = read if isinstance(read, bool | int | float) or read is None else written
    name = name.strip().replace("-", "_")
    if name in _NO_OPTIONS:
        raise ConfigError(f"--option {name}=...: {_NO_OPTIONS[name]}")
    return name, value


def check_server(embedder: Embedder, held: Space | None, again: Again) -> None:
    """Raises ConfigError where the store names a server that nobody named here.

    A store may come from somebody else: it alone does not decide where texts and the key are sent.
    """
    asked = embedder.space
    if held is None or held.endpoint == asked.endpoint or (held.provider, held.model) != (asked.provider, asked.model):
        return
    if held.endpoint:
        raise ConfigError(
            f"the store's vectors were made by {held.model} at {held.endpoint}; "
            f"to send texts there:  {again.line('--base-url', held.endpoint, without=('base_url',))}"
        )


def _shortened(asked: Space, held: Space) -> bool:
    same = (asked.provider, asked.model) == (held.provider, held.model)
    return same and asked.dimensions is not None and asked.dimensions != held.dimensions
