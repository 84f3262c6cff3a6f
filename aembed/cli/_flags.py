"""The flags of the commands. Each is declared once, as a field of a dataclass that the commands which have it take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_origin, get_type_hints

import typer

DEFAULT_STORE = "sqlite:///aembed.db"


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer sees it: a parameter that is a dataclass stands for a flag for each of its fields.

    Two dataclasses may share a flag. Fields without an `Annotated` type are no flags.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: _flags_of(hint) for name, hint in hints.items() if is_dataclass(hint)}
    parameters: dict[str, Parameter] = {}
    for name, parameter in signature(command).parameters.items():
        own = parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name])
        for flag in groups.get(name, [own]):
            parameters.setdefault(flag.name, flag)

    def with_flags(**given: Any) -> None:
        taken = {name: value for name, value in given.items() if name in hints and name not in groups}
        for name, flags in groups.items():
            taken[name] = hints[name](**{flag.name: given[flag.name] for flag in flags})
        command(**taken)

    with_flags.__name__, with_flags.__doc__ = command.__name__, command.__doc__
    with_flags.__annotations__ = {flag.name: flag.annotation for flag in parameters.values()}
    vars(with_flags)["__signature__"] = Signature(list(parameters.values()))
    return with_flags


def _flags_of(group: Any) -> list[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
        if get_origin(hints[field.name]) is Annotated
    ]


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
Where: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        show_default=False,
        help="Only rows whose metadata (or column) has this value; also !=, <, <=, > and >=, or a filter in JSON.",
    ),
]
CachePlace: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--cache",
        metavar="URL",
        envvar="AEMBED_CACHE",
        show_default=False,
        help="Vectors of any store and run, which are not bought again: a file, or a postgresql:// URL.",
    ),
]
CoordinatorPlace: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--coordinator",
        metavar="URL",
        envvar="AEMBED_COORDINATOR",
        show_default=False,
        help="Limits and budgets for all workers that name it: a file, or a postgresql:// URL.",
    ),
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
    list[str] | None,
    typer.Option(
        metavar="URL", show_default=False, help="Another server that speaks the same format; once more for each more."
    ),
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
# typer knows no open bounds: here, and for seconds, 0.001 stands for "above 0".
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
