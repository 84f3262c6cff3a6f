"""All commands, and how their arguments become an exit code."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from itertools import pairwise
from traceback import extract_tb
from typing import Annotated, Any

import typer

from aembed import __version__
from aembed.cli import _help as help
from aembed.cli._run import OK, SIGNALLED, STOPPED, USAGE, exit_code, reason_in_words
from aembed.cli._streams import ReaderGone, flush_streams, say, tell
from aembed.errors import AembedError, ConfigError

_UsageError: Any = typer.BadParameter.__bases__[0]  # click's own, or the one that typer carries with it

_JOB = (help.PROVIDERS, help.VARIABLES, help.EXIT_CODES)
COMMANDS = {
    "index": ("Files, folders or another store into a store.", (help.INDEX, *_JOB)),
    "search": ("The rows nearest to a question.", (help.SEARCH, help.EXIT_CODES)),
    "backfill": ("The empty embedding column of your own table.", (help.BACKFILL, *_JOB)),
    "export": ("Rows and vectors into a file.", (help.EXPORT, help.EXIT_CODES)),
    "status": ("What a store holds.", (help.STATUS, help.EXIT_CODES)),
    "failures": ("The texts that were refused.", (help.FAILURES, help.EXIT_CODES)),
    "move": ("Another name or address of a store's model.", (help.MOVE, *_JOB)),
    "remove": ("Rows out of a store.", (help.REMOVE, help.EXIT_CODES)),
    "cache": ("What a cache of vectors holds.", (help.CACHE, help.EXIT_CODES)),
}
"""Each in the file of its name: what one line of help says, and what stands below its flags."""


def make_app(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """With these commands. Only their files are imported: the readers of documents take a third of a search's start."""
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
    app.callback()(aembed)
    for name in names:
        short, below = COMMANDS[name]
        command = getattr(import_module(f"aembed.cli.{name}"), name)
        app.command(name, short_help=short, epilog=help.epilog(*below))(command)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        tell(f"aembed {__version__}")
        raise typer.Exit


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


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """With the command that is named first, or with all of them."""
    return make_app(COMMANDS.keys() & arguments[:1] or COMMANDS)


def exit_code_of(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Runs the command with these arguments. Whatever is wrong with them is told in one line."""
    try:
        _check_empty(arguments)
        return _invoke(app, list(arguments))
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


def _invoke(app: typer.Typer, arguments: list[str]) -> int:
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
