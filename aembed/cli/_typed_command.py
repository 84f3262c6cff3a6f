"""The same command once more with something changed: advice that can be typed as it stands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import typer

from aembed.cli._show import printable_place
from aembed.errors import SpaceMismatchError

OF_THE_MODEL = ("model", "base_url", "dimensions", "option")
OF_A_TABLE = ("store", "table", "text", "text_sql", "vector", "key", "where", "fingerprint")


class TypedCommand:
    """What was typed, but for the command's name and what is left out."""

    def __init__(self, context: typer.Context) -> None:
        self._name = context.info_name or ""
        self._given = [
            (parameter, context.params[parameter.name])
            for parameter in context.command.params
            if parameter.name in context.params and _is_typed(context, parameter.name)
        ]

    def command_line(self, *added: str, without: Collection[str] = ()) -> str:
        return shlex.join(["aembed", self._name, *self.words(without=without), *added])

    def with_advice_for_columns(self, error: SpaceMismatchError) -> SpaceMismatchError:
        """With the whole command for the `--dimensions` that would fit, or to find out whether vectors are the same."""
        if fits := re.search(r"add --dimensions (\d+)", str(error)):
            whole = self.command_line("--dimensions", fits[1], without=("dimensions",))
            error.args = (f"{error}. The whole command:  {whole}",)
        if "Embedder.move (aembed move)" in str(error):
            typed = {parameter.name or "" for parameter, _ in self._given}
            words = self.words(without=typed.difference(OF_A_TABLE, OF_THE_MODEL, ("timeout",)))
            error.args = (f"{error}. To find out whether they are the same:  {shlex.join(['aembed', 'move', *words])}",)
        return error

    def words(self, *, without: Collection[str] = ()) -> tuple[str, ...]:
        flags: list[str] = []
        positional: list[str] = []
        for parameter, value in self._given:
            if parameter.name in without:
                continue
            values = value if isinstance(value, list | tuple) else [value]
            if parameter.param_type_name == "argument":
                positional += map(str, values)
            else:
                flags += _flags(parameter, values)
        ahead = ["--"] if any(word.startswith("-") and word != "-" for word in positional) else []
        return (*flags, *ahead, *positional)

    def with_whole_commands(self, error: SpaceMismatchError) -> SpaceMismatchError:
        """With whole commands in place of those that know the stores and the model only."""
        says = str(error)
        for command in error.commands:
            says = says.replace(shlex.join(command), shlex.join(self._command_words(command)))
        whole = SpaceMismatchError(says)
        whole.report, whole.unsaved = error.report, error.unsaved
        return whole

    def _command_words(self, command: tuple[str, ...]) -> list[str]:
        """Widths and options are those that were typed: a width that the model has by itself need not be asked for."""
        known = list(command)
        typed = {parameter.name for parameter, _ in self._given}
        for flag in ("--dimensions", *(("--option",) if "option" in typed else ())):
            while flag in known:
                del known[known.index(flag) : known.index(flag) + 2]
        if command[1] == "move":
            return [*known, *self.words(without=typed - {"dimensions", "option", "timeout"})]
        return [*known, *self.words(without=("paths", "store", "model", "base_url"))]


def _is_typed(context: typer.Context, name: str | None) -> bool:
    source = context.get_parameter_source(name) if name else None
    return source is not None and source.name == "COMMANDLINE"


def _flags(parameter: Any, values: Sequence[Any]) -> Iterator[str]:
    name = next((each for each in parameter.opts if each.startswith("--")), parameter.opts[0])
    for value in values:
        if value is True:
            yield name
        elif value is not False and value is not None:
            written = printable_url(str(value)) if parameter.name == "store" else str(value)
            yield from (f"{name}={written}",) if written.startswith("-") else (name, written)


def printable_url(url: str) -> str:
    """As it was given, but for a URL that may hold a password."""
    return printable_place(url) if "@" in url or "password" in url else url
