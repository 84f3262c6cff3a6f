"""How texts become vectors, beside the model: the prefixes, input types and arithmetic that a store's vectors share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import msgspec

from aembed.errors import ConfigError
from aembed.types import InputType

UNPREPARED = "{}"
"""What a Space that is asked for says where its texts are to have no preparation for sure. "" has no opinion: then what
a store has holds. A store keeps "" for both."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is done to a text, and said of it, before the model sees it. All fields are "" by default: nothing.

    `document_prefix` and `query_prefix` are put before each text; the stored text stays as it was given.
    `document_type` and `query_type` are sent in the field that a service has for that, in its own words.
    `arithmetic` is what is done to the numbers of a reply ("normalized"), `dtype` what the service was asked for
    ("int8"). `str()` of it is what `Space.preparation` holds: JSON of what is not "", in the order of the names.
    """

    document_prefix: str = ""
    query_prefix: str = ""
    document_type: str = ""
    query_type: str = ""
    arithmetic: str = ""
    dtype: str = ""

    def __post_init__(self) -> None:
        for name, value in self._all():
            if not isinstance(value, str):
                raise ConfigError(f"{name} must be a str, not {type(value).__name__}")
            if not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
                raise ConfigError(f"{name} holds a lone surrogate, which UTF-8 cannot write; replace it")

    def __bool__(self) -> bool:
        return self is not NO_PREPARATION and self != NO_PREPARATION

    def __str__(self) -> str:
        return _json_of(dict(self._all()))

    @classmethod
    def parse(cls, written: str) -> Preparation:
        """Raises ConfigError for what no preparation of this aembed is."""
        return _parse(written)

    def prefix(self, input_type: InputType) -> str:
        """What stands before each text of that kind."""
        return self.document_prefix if input_type == "document" else self.query_prefix

    def type(self, input_type: InputType) -> str:
        """The input type in the service's own word; "": none is sent."""
        return self.document_type if input_type == "document" else self.query_type

    def part(self, input_type: InputType) -> str:
        """What has a part in vectors of this kind, as text; "" where nothing has.

        Fingerprints of documents cover no query prefix: with another one their vectors are the same.
        """
        own = {"prefix": self.prefix(input_type), "type": self.type(input_type)}
        return _json_of({**own, "arithmetic": self.arithmetic, "dtype": self.dtype})

    def asks(self, input_type: InputType) -> str:
        """What a request says of its texts beside the texts; "" where it says nothing. It needs an EmbedsPrepared."""
        if not self:
            return ""
        return _json_of({"type": self.type(input_type), "arithmetic": self.arithmetic, "dtype": self.dtype})

    def in_words(self) -> str:
        """`document_prefix='passage: ', query_prefix='query: '`."""
        return ", ".join(f"{name}={value!r}" for name, value in self._all() if value)

    def options(self) -> dict[str, str]:
        """The options of a provider that ask for this preparation, each as it is written."""
        prefixes = {"document_prefix": self.document_prefix, "query_prefix": self.query_prefix}
        types = {"input_types": f"{self.document_type},{self.query_type}"}
        return prefixes | (types if self.document_type or self.query_type else {})

    def _all(self) -> list[tuple[str, str]]:
        return [(each.name, getattr(self, each.name)) for each in fields(self)]


def document_part(written: str) -> str:
    """What a space's preparation has to do with the vectors of its rows; "" where it has nothing."""
    return _parse(written).part("document") if written else ""


def kept_form(written: str) -> str:
    """A preparation as a store keeps it, however it was written; "" for none. Raises ConfigError as `parse`."""
    return str(_parse(written)) if written else ""


def _json_of(values: dict[str, str]) -> str:
    held = {name: value for name, value in values.items() if value}
    return msgspec.json.encode(held, order="deterministic").decode() if held else ""


@lru_cache(64)
def _parse(written: str) -> Preparation:
    if not written:
        return NO_PREPARATION
    try:
        return Preparation(**msgspec.json.decode(written, type=dict[str, str]))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"this aembed does not know how to prepare texts by {written!r}: pip install --upgrade aembed"
        ) from error


NO_PREPARATION = Preparation()
