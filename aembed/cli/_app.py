"""All commands, and how their arguments become an exit code."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from traceback import extract_tb
from typing import Annotated, Any

import typer

from aembed import __version__
from aembed.cli import _help as help
from aembed.cli._run import OK, SIGNALLED, STOPPED, USAGE, exit_code, reason_in_words
from aembed.cli._streams import ReaderGone, flush_streams, say, tell
from aembed.cli.backfill import backfill
from aembed.cli.failures import failures
from aembed.cli.index import index
from aembed.cli.move import move
from aembed.cli.remove import remove
from aembed.cli.search import search
from aembed.cli.status import status
from aembed.errors import AembedError, ConfigError

_UsageError: Any = typer.BadParameter.__bases__[0]  # click's own, or the one that typer carries with it

# Tracebacks in colour would print the values of variables: keys and texts.
app = typer.Typer(
    name="aembed",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=help.CONTEXT,
    epilog=help.epilog(help.PROVIDERS, help.VARIABLES, help.EXIT_CODES),
)
JOB = (help.PROVIDERS, help.VARIABLES, help.EXIT_CODES)
app.command(short_help="Files, folders or another store into a store.", epilog=help.epilog(help.INDEX, *JOB))(index)
app.command(short_help="The rows nearest to a question.", epilog=help.epilog(help.SEARCH, help.EXIT_CODES))(search)
app.command(short_help="The empty embedding column of your own table.", epilog=help.epilog(help.BACKFILL, *JOB))(
    backfill
)
app.command(short_help="What a store holds.", epilog=help.epilog(help.STATUS, help.EXIT_CODES))(status)
app.command(short_help="The texts that were refused.", epilog=help.epilog(help.FAILURES, help.EXIT_CODES))(failures)

app.command(short_help="Another name or address of a store's model.", epilog=help.epilog(help.MOVE, *JOB))(move)
app.command(short_help="Rows out of a store.", epilog=help.epilog(help.REMOVE, help.EXIT_CODES))(remove)


def _version(wanted: bool) -> None:
    if wanted:
        tell(f"aembed {__version__}")
        raise typer.Exit


@app.callback()
def aembed(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Texts become embedding vectors in true batches, and every result that was paid for is kept."""


_HELP = {"--help", "-h"}
TRACEBACK = "AEMBED_TRACEBACK"
"""The variable that shows a mistake of ours with its traceback, which may hold texts of the user."""


def _check_empty(arguments: Sequence[str]) -> None:
    """An empty value is a variable of the shell that is not set: as a PATH it would be the folder where we are."""
    for before, argument in pairwise(("", *arguments)):
        flag = argument[:-1] if re.fullmatch(r"--[a-z-]+=\s*", argument) else before if before.startswith("-") else ""
        if not argument.strip() or (argument.startswith(f"{flag}=") and flag):
            raise ConfigError(f"{flag.rstrip('= ') or 'an argument'} is empty; is a variable of your shell not set?")


def exit_code_of(arguments: Sequence[str]) -> int:
    """Runs the command with these arguments. Whatever is wrong with them is told in one line."""
    try:
        _check_empty(arguments)
        return _invoke(list(arguments))
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "aembed"
        say(f"error: {error.format_message()}  ({command} --help)")
        return USAGE
    except AembedError as error:
        say(f"error: {reason_in_words(error)}")
        return exit_code(error)
    except ReaderGone:
        # 13 is SIGPIPE, of which a program ends in a shell whose reader has gone.
        return SIGNALLED + 13
    except typer.Abort:
        # 2 is SIGINT: click raises Abort for Ctrl-C.
        return SIGNALLED + 2
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        say(
            f"error: unexpected {type(error).__name__} {_own_frame(error)}; {TRACEBACK}=1 shows where, please report it"
        )
        return STOPPED
    finally:
        flush_streams()


def _invoke(arguments: list[str]) -> int:
    if arguments and not _HELP & set(arguments):
        return app(args=arguments, prog_name="aembed", standalone_mode=False) or OK
    shown = StringIO()
    with redirect_stdout(shown):
        code = app(args=arguments or ["--help"], prog_name="aembed", standalone_mode=False) or OK
    tell(*shown.getvalue().splitlines())
    return code if arguments else USAGE


def _own_frame(error: Exception) -> str:
    """The last place of our own: never what the error says, which may hold a text or a key."""
    places = [frame for frame in extract_tb(error.__traceback__) if f"{os.sep}aembed{os.sep}" in frame.filename]
    return f"at {places[-1].filename.rpartition(f'{os.sep}aembed{os.sep}')[2]}:{places[-1].lineno}" if places else ""
