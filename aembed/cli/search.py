"""`aembed search`: the rows of a store, or of a table of your own, that are nearest to a question."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from aembed.cli import _flags as flags
from aembed.cli._options import ColumnFlags, ModelFlags, server_flags
from aembed.cli._run import OK, reason_in_words, run
from aembed.cli._show import printable_place, tell_json, terminal_columns
from aembed.cli._stores import check_filled, use_column, use_embedder, use_store
from aembed.cli._streams import printable_line, say, tell
from aembed.cli._typed_command import OF_THE_MODEL, TypedCommand
from aembed.cli._where import parse_filters
from aembed.core.spaces import merge_spaces
from aembed.core.words import names_in
from aembed.embedder import Embedder
from aembed.errors import ConfigError, SpaceMismatchError, StoreError
from aembed.protocols import Store
from aembed.stores import Column
from aembed.stores.sqlite import SQLiteStore
from aembed.types import Match

# Chosen: with a line for score and id, eight rows fit into the 24 lines of a terminal.
TEXT_LINES = 2
# Chosen: SQLite indexes the words of so many rows in two seconds, once, and each later write costs 20 us more.
MOST_ROWS_TO_INDEX = 50_000
"""A SQLite store of at most so many rows gets its index of words with the first question that holds a name."""


@flags.spread
def search(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help="What to look for.")],
    *,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many rows.")] = 5,
    where: flags.Where = None,
    hybrid: Annotated[
        bool | None,
        typer.Option(
            "--hybrid/--no-hybrid",
            show_default=False,
            help="Look up exact names of the question, too: options, functions, codes, and what is in quotes. The "
            "default for a SQLite store of up to 50,000 rows.",
        ),
    ] = None,
    store: flags.StoreURL = flags.DEFAULT_STORE,
    column: ColumnFlags,
    model: ModelFlags,
    as_json: flags.AsJSON = False,
) -> None:
    """Print the rows nearest to a question: score (1 is equal), id, and the beginning of the text."""
    names, again = column.named(), TypedCommand(context)
    run(_search(store, names, model, again, question, k, parse_filters(where or []), hybrid, as_json))


async def _search(
    url: str,
    names: ColumnFlags | None,
    settings: ModelFlags,
    again: TypedCommand,
    question: str,
    k: int,
    filters: Sequence[dict[str, Any]],
    is_hybrid: bool | None,
    as_json: bool,
) -> int:
    async with AsyncExitStack() as stack:
        searched: Store | Column
        looks_up = False
        if names:
            searched = await stack.enter_async_context(use_column(url, names))
            space = await searched.space()
        else:
            searched = await stack.enter_async_context(use_store(url))
            info = await searched.info()
            check_filled(url, info)
            space = info.space
            if is_hybrid is None and names_in(question):
                looks_up = isinstance(searched, SQLiteStore) and info.rows <= MOST_ROWS_TO_INDEX
        embedder = await stack.enter_async_context(use_embedder(settings, space, again))
        if merge_spaces(space, embedder.space) is None:
            own = again.command_line(*(server_flags(space) if space else ()), without=OF_THE_MODEL)
            raise SpaceMismatchError(
                f"{printable_place(url)} holds vectors of {space}; asked for was {embedder.space}. With its "
                f"own model:  {own}"
            )
        find = partial(search_each, embedder, searched, question, k, filters)
        try:
            matches = await find(looks_up or bool(is_hybrid))
        except (ConfigError, StoreError) as error:
            if not looks_up:
                raise
            # The store cannot be written, which builds the index of words.
            matches = await find(False)
            say(f"exact names were not looked up: {reason_in_words(error)}")
    if as_json:
        ranked = [
            {"rank": rank, "score": match.score, "id": match.id, "text": match.text, "metadata": match.metadata}
            for rank, match in enumerate(matches, 1)
        ]
        tell_json({"matches": ranked})
    else:
        _tell(matches)
    return OK


async def search_each(
    embedder: Embedder,
    searched: Store | Column,
    question: str,
    k: int,
    filters: Sequence[dict[str, Any]],
    is_hybrid: bool,
) -> list[Match]:
    """The best of all filters, which are the ways of reading one. One that a column's type forbids is left out."""
    best: dict[str, Match] = {}
    refused: list[ConfigError] = []
    for where in filters:
        try:
            found = await embedder.search(searched, question, k=k, where=where, hybrid=is_hybrid)
            best |= {match.id: match for match in found}
        except ConfigError as error:
            refused.append(error)
    if len(refused) == len(filters):
        raise refused[0]
    return sorted(best.values(), key=lambda match: (match.rank if is_hybrid else 0, -match.score))[:k]


def _tell(matches: Sequence[Match]) -> None:
    if not matches:
        say("no row matches")
    for match in matches:
        tell(f"{match.score:.3f}  {printable_line(match.id)}")
        # A section begins with its headings, which its id tells already.
        text = match.text or ""
        body = (text.partition("\n\n")[2] if (match.metadata or {}).get("heading") else text) or text
        for line in _first_lines(body):
            tell(f"       {line}")


def _first_lines(text: str) -> list[str]:
    """The first lines of the text, as wide as the terminal."""
    # Chosen: more than two lines of any terminal have. Without a bound, a text of megabytes would be wrapped to show
    # its beginning. The 8 below are seven spaces before a line and one place for the dots.
    words = Text(" ".join(printable_line(text[:4_000]).split()))
    lines = [line.plain.rstrip() for line in words.wrap(Console(stderr=True), max(20, terminal_columns() - 8))]
    shown = lines[:TEXT_LINES]
    return [*shown[:-1], f"{shown[-1]} …"] if len(lines) > TEXT_LINES else shown
