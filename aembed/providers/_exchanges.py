"""The parts of one exchange with a service that need no provider: the body that goes out, and what a reply says."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Protocol

import msgspec

from aembed.core.replies import CutShortError, Parsed, usage_of
from aembed.core.vectors import DimensionError
from aembed.errors import BadRequestError, InvalidReplyError, NotFoundError, ProviderError
from aembed.providers._errors import redacted_line
from aembed.providers._http import HTTPReply, cut_short
from aembed.providers._secrets import Secret
from aembed.providers._service import Service
from aembed.types import Usage

logger = logging.getLogger("aembed")

# Chosen: a few sentences. What is longer is no advice, and a log is not the place for it.
MOST_WARNING = 500


class Reader(Protocol):
    """Reads the reply to one request: `feed` takes bytes as they come, `parse` is what they say."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def is_whole(self) -> bool:
        """Whether `parse` has all the work still to do."""
        ...

    def feed(self, data: bytes | memoryview) -> None: ...
    def whole_reply(self) -> bytes | bytearray: ...
    def parse(self, *, dimensions: int | None, normalised: bool = False, proven: bool = False) -> Parsed:
        """Raises InvalidReplyError for anything that is not exactly one sound vector for each input."""
        ...


@dataclass(eq=False, repr=False)
class Notices:
    """What a service wants its user to know (Voyage: that an account has a small limit) is told once."""

    _service: str
    _told: bool = False

    def pass_on(self, reply: HTTPReply, secrets: Sequence[Secret]) -> None:
        if (said := reply.headers.get("x-api-warning")) and not self._told:
            self._told = True
            logger.warning("%s says: %s", self._service, redacted_line(said, secrets)[:MOST_WARNING])


def encode_body(fields: Mapping[str, Any], texts: Sequence[str]) -> bytes:
    """A lone surrogate has no UTF-8. Python's error would carry the text."""
    try:
        return msgspec.json.encode(fields)
    except UnicodeEncodeError:
        error = BadRequestError("a text holds a lone surrogate, which UTF-8 cannot carry")
    error.offender = next(i for i, text in enumerate(texts) if any("\ud800" <= c <= "\udfff" for c in text))
    raise error


def name_address(error: ProviderError, service: Service, base_url: str, path: str) -> None:
    """Where nothing is at an address it is named; it holds no key."""
    if error.status_code in (404, 405) and isinstance(error, NotFoundError) and "model" not in str(error).lower():
        usual = service.path or "/v1"
        hint = "" if base_url.endswith(usual) else f"; should base_url be {base_url}{usual}?"
        error.args = (f"{error} (POST {base_url}{path}{hint})",)


def explain(error: InvalidReplyError, reply: HTTPReply, *, dimensions: int | None) -> ProviderError:
    """The error of a reply that cannot be used: one that broke off may be sent again."""
    if isinstance(error, CutShortError) and not reply.framed:
        return cut_short()
    if isinstance(error, DimensionError) and dimensions is not None:
        error.args = (f"{error}; where a server ignores dimensions=, leave that out",)
    return error


def usage_in(reply: HTTPReply, said: Usage, service: Service, *, counts_tokens: bool) -> Usage:
    if not counts_tokens:
        return Usage(None, said.cost_usd)
    told = reply.headers.get(service.tokens_header, "") if service.tokens_header else ""
    # Chosen: nine digits, since a request has a few million tokens at most.
    return usage_of(int(told), said.cost_usd) if told.isdecimal() and len(told) < 10 else said


def server_seconds(reply: HTTPReply) -> float | None:
    try:
        milliseconds = float(reply.headers.get("openai-processing-ms", ""))
    except ValueError:
        return None
    return milliseconds / 1000 if isfinite(milliseconds) and milliseconds >= 0 else None
