"""`aembed search`: the rows of a store that are nearest to a question."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from aembed.cli import _options as flags
from aembed.cli._options import Settings
from aembed.cli._run import OK, run
from aembed.cli._show import columns, printable, say, tell, tell_json
from aembed.cli._stores import check_filled, embedder_for, opened
from aembed.errors import ConfigError
from aembed.types import Match

TEXT_LINES = 2


def search(
    question: Annotated[str, typer.Argument(help="What to look for.")],
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="How many rows.")] = 5,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", show_default=False, help="Only rows whose metadata has this value."),
    ] = None,
    store: flags.StoreURL = flags.DEFAULT_STORE,
    model: flags.Model = None,
    base_url: flags.BaseURL = None,
    dimensions: flags.Dimensions = None,
    timeout: flags.Timeout = 60.0,
    as_json: flags.AsJSON = False,
) -> None:
    """Print the rows nearest to a question: score (1 is equal), id, and the beginning of the text."""
    settings = Settings(model, base_url, dimensions, timeout=timeout)
    run(_search(store, settings, question, k, where or [], as_json))


async def _search(store: str, settings: Settings, question: str, k: int, where: Sequence[str], as_json: bool) -> int:
    filters = _filters(where)
    async with opened(store) as open_store:
        info = await open_store.info()
        check_filled(store, info)
        async with embedder_for(settings, info.space) as embedder:
            found = [await embedder.search(open_store, question, k=k, where=each) for each in filters]
    matches = sorted((match for each in found for match in each), key=lambda match: -match.score)[:k]
    if as_json:
        tell_json({"matches": [_json(match) for match in matches]})
    else:
        _tell(matches)
    return OK


def _filters(where: Sequence[str]) -> list[dict[str, Any]]:
    """A CSV's 2024 is a text, a JSONL's may be a number: each way of reading the values is one filter."""
    readings = [[(name, value) for value in _values(text)] for name, text in map(_split, where)]
    return [dict(pairs) for pairs in product(*readings)]


def _split(condition: str) -> tuple[str, str]:
    name, equals, value = condition.partition("=")
    if not name or not equals:
        raise ConfigError(f"--where {condition!r} is not KEY=VALUE")
    return name, value


def _values(text: str) -> list[str | int | float | bool | None]:
    try:
        value = json.loads(text)
    except ValueError:
        return [text]
    return [text] if isinstance(value, str | list | dict) else [value, text]


def _json(match: Match) -> dict[str, Any]:
    return {"score": match.score, "id": match.id, "text": match.text, "metadata": match.metadata}


def _tell(matches: Sequence[Match]) -> None:
    if not matches:
        say("no row matches")
    for match in matches:
        tell(f"{match.score:.3f}  {printable(match.id)}")
        for line in _lines(_body(match.text or "", match.metadata or {})):
            tell(f"       {line}")


def _body(text: str, metadata: Mapping[str, Any]) -> str:
    """A section begins with its headings, which its id tells already."""
    return (text.partition("\n\n")[2] if metadata.get("heading") else text) or text


def _lines(text: str) -> list[str]:
    """The first lines of the text, as wide as the terminal."""
    words = Text(" ".join(printable(text[:4_000]).split()))
    lines = [line.plain.rstrip() for line in words.wrap(Console(stderr=True), max(20, columns() - 8))]
    shown = lines[:TEXT_LINES]
    return [*shown[:-1], f"{shown[-1]} …"] if len(lines) > TEXT_LINES else shown
