"""The command `aembed`: one file per command, named like it.

Results go to stdout, progress and messages to stderr. Exit codes: 0 all stored or unchanged; 1 finished, some texts
failed; 2 usage, configuration or key, nothing spent; 3 stopped early, run the same command again; 130 and 143 signals.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated

import typer

from aembed import __version__
from aembed.cli.backfill import backfill
from aembed.cli.failures import failures
from aembed.cli.index import index
from aembed.cli.move import move
from aembed.cli.search import search
from aembed.cli.status import status

# Tracebacks in colour would print the values of variables: keys and texts.
app = typer.Typer(
    name="aembed", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
app.command(short_help="Files, folders or another store into a store.")(index)
app.command(short_help="The rows nearest to a question.")(search)
app.command(short_help="The empty embedding column of your own table.")(backfill)
app.command(short_help="What a store holds.")(status)
app.command(short_help="The texts that were refused.")(failures)
app.command(short_help="Another name or address of a store's model.")(move)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"aembed {__version__}")
        raise typer.Exit


@app.callback()
def aembed(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Texts become embedding vectors in true batches, and every result that was paid for is kept."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command with these arguments, else those of the process, and ends it with SystemExit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(args=arguments, prog_name="aembed")
