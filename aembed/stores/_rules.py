"""What every store does alike: spaces compared, records refused, filters checked, metadata as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import fields
from hashlib import sha256
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

from aembed.core.addresses import is_loopback
from aembed.core.filters import Filter, parse_filter
from aembed.core.spaces import differ_in_preparation, places_of
from aembed.errors import ConfigError, InputError, SpaceMismatchError, StoreError
from aembed.preparation import Preparation, document_part
from aembed.results import Report
from aembed.types import Matrix, Metadata, Record, Rows, Space

BESIDE = "build a new store beside it and switch"
EMPTY = (
    "If that is the same model elsewhere, Embedder.move (aembed move) takes the vectors over. "
    "If not, fill another column, or empty this one first: UPDATE {} SET {} = NULL"
)
"""What may be done with a column that holds other vectors."""
_NAMES = frozenset({str})
_PLAIN = frozenset({str, int, bool, type(None)})
"""What a value of metadata may be for the fast encoder. No float is among them, for it may be NaN."""
# They grow with a change that an older aembed would misread: that one then refuses the store. Only stores with a
# preparation have the second one, since 0.1.0 would embed texts and queries without it.
FIRST_SCHEMA, SCHEMA_OF_PREPARED = 1, 2


class ClosedError(StoreError):
    """What a store, or a column, says once it is closed: no wait mends that."""


def schema_version(space: Space) -> int:
    return SCHEMA_OF_PREPARED if space.preparation else FIRST_SCHEMA


def check_schema(place: str, version: int, known: int = SCHEMA_OF_PREPARED) -> None:
    """Raises StoreError for tables that a later aembed made."""
    if version > known:
        raise StoreError(
            f"{place} was made by a newer aembed (its tables are version {version}, this one knows "
            f"{known}): pip install --upgrade aembed"
        )


def mark_of(space: Space | None) -> str:
    """What stands before the text in the fingerprints of a column: "" where its texts are not prepared, as those of all
    columns that 0.1.0 filled; else hexadecimal digits, which need no quotation in SQL."""
    part = document_part(space.preparation) if space and space.preparation else ""
    return sha256(part.encode()).hexdigest()[:32] if part else ""


def mismatch_error(
    place: str, held: Space, asked: Space, way_out: str, *, places: tuple[str, str] | None = None
) -> SpaceMismatchError:
    """`places` are the URLs of this store and of the one that may be built beside it, by a command."""
    says, otherwise = f"{place} holds vectors of {held}; asked for was {asked}.", differ_in_preparation(held, asked)
    if otherwise:
        says += " The texts are prepared otherwise; without the options that prepare texts it goes on with its own."
    if places is None:
        return SpaceMismatchError(f"{says} {way_out[0].upper()}{way_out[1:]}")
    moving, building = (store_command(places, asked, anew=anew) for anew in (False, True))
    if otherwise and document_part(held.preparation) != document_part(asked.preparation):
        error = SpaceMismatchError(f"{says} Or {way_out}: {shlex.join(building)}")
        error.commands = (building,)
        return error
    error = SpaceMismatchError(
        f"{says} If that is the same model elsewhere, its rows are taken over (Embedder.move) by  "
        f"{shlex.join(moving)}  If not, {way_out}: {shlex.join(building)}"
    )
    error.commands = (moving, building)
    return error


def store_command(places: tuple[str, str], asked: Space, *, anew: bool) -> tuple[str, ...]:
    """The command that makes a store of that space beside the one at the first of these URLs, or that moves it."""
    old, new = places
    if anew:
        return ("aembed", "index", old, "--store", new, *arguments_of(asked))
    return ("aembed", "move", "--store", old, *arguments_of(asked))


def arguments_of(asked: Space) -> tuple[str, ...]:
    """Model, server, width and preparation: without the server that was meant texts would go to another one."""
    flags = ["-m", f"{asked.provider}:{asked.model}"]
    if asked.endpoint:
        places = [place for place in places_of(asked) if place]
        for place in places:
            flags += ["--base-url", place]
        servers = map(urlsplit, places)
        if any(server.scheme == "http" and not is_loopback(server.hostname or "") for server in servers):
            flags += ["--option", "allow_http=true"]
    if asked.dimensions and asked.provider != "local":
        flags += ["--dimensions", str(asked.dimensions)]
    if asked.preparation:
        for name, value in Preparation.parse(asked.preparation).options().items():
            flags += ["--option", f"{name}={_as_option(value)}"]
    return tuple(flags)


def _as_option(value: str) -> str:
    """As `--option` reads it, on one line: in quotation marks where it would be taken for something else."""
    try:
        json.loads(value)
    except ValueError:
        return value if value.isprintable() else json.dumps(value)
    return json.dumps(value)


def column_command(url: str, flags: Sequence[str], asked: Space, *, anew: str | None) -> tuple[str, ...]:
    """The command that fills another column, `anew`, with vectors of that space, or that moves a column there.

    `flags` name the table and what is read of it, without the column of the vectors.
    """
    if anew is None:
        return ("aembed", "move", "--store", url, *flags, *arguments_of(asked))
    return ("aembed", "backfill", "--store", url, *flags, "--vector", anew, "--create-columns", *arguments_of(asked))


def no_words_error(place: str, command: tuple[str, ...] | None) -> ConfigError:
    """`command` builds the index; None where its URL is not known."""
    by = f", or by  {shlex.join(command)}" if command else ""
    return ConfigError(
        f"{place}: hybrid search needs an index of words, which is made in your table only when you ask for it: by "
        f"index_words(){by}"
    )


def check_rows(place: str, space: Space | None, rows: Rows) -> None:
    """Raises SpaceMismatchError unless the rows are as wide as the store's space."""
    width = rows.matrix.shape[1]
    if space is None:
        raise SpaceMismatchError(f"{place} has no space yet; call prepare(space), with its dimensions, before write")
    if width != space.dimensions:
        raise SpaceMismatchError(f"{place} holds vectors of {space.dimensions} dimensions; these have {width}")


def probe_ids() -> list[str]:
    """Ids that no row has, unlike each other at their ends: a trigger may drop some rows for what their ids are."""
    return [f"aembed probe {token_hex(8)}{ending}" for ending in "05az"]


def probe_matrix(width: int) -> Matrix:
    """One row to try a table with: of length 1, because a constraint may refuse the zero vector, near to the diagonal,
    because one may ask for a distance from an axis, and not on it: a trigger may give equal values by itself."""
    row = 1.0 + 0.1 * np.random.default_rng(width).standard_normal((1, width), np.float32)
    matrix: Matrix = row / np.linalg.norm(row)
    return matrix


def rejection_error(record: Record) -> InputError | None:
    """Why no store that keeps UTF-8 and JSON can hold this record, or None."""
    try:
        metadata = encode(record.metadata)
    except UnicodeEncodeError:
        return InputError(f"{record.id!r}: its metadata holds a lone surrogate, which UTF-8 cannot write; replace it")
    except (TypeError, ValueError, RecursionError):
        return InputError(f"{record.id!r}: its metadata is not a JSON object; use str, numbers, bool, None, list, dict")
    held = {"id": record.id, "text": record.text, "source": record.source, "metadata": metadata}
    for name, value in held.items():
        if not is_unicode(value):
            return InputError(f"{record.id!r}: its {name} holds a lone surrogate, which UTF-8 cannot write; replace it")
    return None


def is_unicode(text: str | None) -> bool:
    try:
        return text is None or text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def encode(metadata: Metadata | None) -> str | None:
    if metadata is None:
        return None
    # msgspec takes a twentieth of the time, but it writes things that JSON has not, as NaN, dates and sets.
    if (
        type(metadata) is dict
        and _NAMES.issuperset(map(type, metadata))
        and _PLAIN.issuperset(map(type, metadata.values()))
    ):
        return msgspec.json.encode(metadata).decode()
    # NaN and Infinity are no JSON, and PostgreSQL's jsonb refuses them. Other alphabets stay as they are: escaped, they
    # would take up to six times the characters.
    return json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def decode(metadata: str | None) -> dict[str, Any] | None:
    return None if metadata is None else json.loads(metadata)


def check_search(k: int, where: Metadata | None) -> Filter:
    """The filter, checked. Raises ConfigError for k below 1, or for what no filter may say."""
    if k < 1:
        raise ConfigError(f"k={k} must be 1 or more")
    return parse_filter(where)


def summary(report: Report) -> dict[str, Any]:
    """A report as a JSON object, without the failures."""
    return {field.name: getattr(report, field.name) for field in fields(report) if field.name != "failures"}
