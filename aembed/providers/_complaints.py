"""What a server says is wrong, read out of error bodies of many shapes. Nothing here raises."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from aembed.core.waits import parse_duration
from aembed.providers._echoes import without_echoes

# Chosen: what services say by themselves fits into it; what is longer may quote a text of the user. Smaller, refusals
# would lose the numbers that they name at their end.
REASON_CHARACTERS = 300
# Names of fields are compared in lower case and without their lines: errorMessage, error_message and Error-Message are
# one.
_REASONS = frozenset(
    (
        "message",
        "msg",
        "error",
        "detail",
        "description",
        "title",  # problem+json (RFC 9457)
        "statusmsg",  # MiniMax
        "errormsg",  # Qianfan
        "errormessage",
        "errmsg",
        "errordescription",
        "faultstring",  # Apigee
        "raw",  # OpenRouter: what its upstream said
        "body",  # AWS Lambda
    )
)
_KINDS = frozenset(("code", "type", "status", "errortype", "errorcode", "statuscode", "reason"))
# The repeats have bounds, so that a body made to harm costs time in proportion to its length.
_REASON = re.compile(
    r'"(?:[Mm]essage|msg|error|detail|description|title|errorMessage)"\s{0,8}:\s{0,8}"((?:[^"\\]|\\.){1,300})'
)
"""In JSON that was cut short."""
_DELAYS = {
    "retrydelay": 1.0,
    "retryafter": 1.0,
    "retryafterseconds": 1.0,
    "retryafterms": 1e-3,
    "retryin": 1.0,
    "estimatedtime": 1.0,  # Hugging Face: until a model is loaded
}
"""Fields of error bodies that say how long to wait, and seconds: Google's `"retryDelay": "12s"`, and gateways'."""
_NESTED = frozenset(
    (
        "error",
        "errors",
        "detail",
        "details",
        "violations",
        "data",
        "metadata",  # OpenRouter
        "headers",
        "fault",
        "baseresp",
        "response",  # Tencent
        "responsemetadata",  # Volcengine
    )
)
_PLACES = frozenset(("param", "path", "instancepath", "pointer"))
INPUT_NAMES = ("inputs", "input", "texts", "documents", "requests", "contents", "content")
# Computed: Google's `quotaId` lies five steps down (error, details, an item, violations, an item), and six where the
# whole is in a list, as of its streams. Smaller, it would not be found; without a bound a nest of lists would be
# followed to its end.
_DEEPEST = 7
# Five digits: no service takes 100,000 texts in a request, and a longer number counts something else.
_OFFENDER = re.compile(
    rf"\b(?:{'|'.join(INPUT_NAMES)})(?:\[|\.|/)(\d{{1,5}})\b|\b(?:text|input)s? at index (\d{{1,5}})\b"
)
# A text that is quoted stands in quotation marks, or behind a colon. An apostrophe is none.
_QUOTED = re.compile(
    r"""(?<!\w)["'`“‘«].*["'`”’»](?!\w)|\b(?:inputs?|texts?|prompts?|contents?|documents?)\s{0,3}:\s.*""", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Complaint:
    """What the body of an error says, whatever its shape. `structured`: it is JSON.

    `quotas` are the names of the limits that Google says were met; `delay` is a wait, in seconds, that has a field of
    its own.
    """

    reason: str = ""
    kinds: frozenset[str] = frozenset()
    param: str = ""
    offender: int | None = None
    codes: frozenset[int] = frozenset()
    structured: bool = False
    quotas: tuple[str, ...] = ()
    delay: float | None = None

    def is_of(self, *words: str) -> bool:
        return any(word in kind for kind in self.kinds for word in words)

    @property
    def own_words(self) -> str:
        """The reason without what may be a text of the user; a longer reason may be one in any part."""
        return _QUOTED.sub(" ", self.reason) if len(self.reason) <= REASON_CHARACTERS else ""


def read_complaint(body: bytes) -> Complaint:
    """Reads `{"error": {...}}`, `{"error": "..."}`, `{"detail": ...}`, `{"message": ...}`, a list of them, HTML."""
    body = body.removeprefix(BOM_UTF8)
    try:
        decoded = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        # Chosen: HTML and broken JSON say what they say in their first lines; all of it would be looked through
        # otherwise.
        text = without_echoes(body)[:4096].decode("utf-8", "replace")
        said = "; ".join(found[1] for found in _REASON.finditer(text)) if text.startswith(("{", "[")) else ""
        return Complaint(said or " ".join(re.sub(r"<[^<>]*>", " ", text).split())[:REASON_CHARACTERS])
    fields = list(_fields(decoded))
    location = next((value for name, value in fields if name == "loc" and isinstance(value, list)), [])
    reason = "; ".join(dict.fromkeys(value for name, value in fields if name in _REASONS and isinstance(value, str)))
    param = next((value for name, value in fields if name in _PLACES and isinstance(value, str)), "").lstrip("/#")
    kinds = [value for name, value in fields if name in _KINDS]
    return Complaint(
        reason=reason[:2000],
        kinds=frozenset(kind.lower() for kind in kinds if isinstance(kind, str)),
        param=param or _param(location),
        offender=_offender(param, reason, location),
        codes=frozenset(_codes(kinds)),
        structured=True,
        quotas=tuple(value for name, value in fields if name == "quotaid" and isinstance(value, str)),
        delay=max(_delays(fields), default=None),
    )


def _fields(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every name (folded) and value of the objects that an error is made of, outermost first.

    Gateways pass on what their upstream said as text that is JSON.
    """
    if isinstance(value, list) and depth < _DEEPEST:
        # Chosen: pydantic names each text that is wrong, which may be thousands; the first eight say the same.
        for item in value[:8]:
            yield from [("message", item)] if isinstance(item, str) else _fields(item, depth + 1)
    elif isinstance(value, dict) and depth < _DEEPEST:
        for spelt, inner in value.items():
            name = spelt.lower().replace("_", "").replace("-", "")
            held = _decoded(inner) if name in _REASONS and isinstance(inner, str) else None
            if held is None:
                yield name, inner
            if held is not None or name in _NESTED:
                yield from _fields(inner if held is None else held, depth + 1)


def _decoded(text: str) -> Any:
    """The object that a text is the JSON of; None where it is none."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        return msgspec.json.decode(text.encode())
    except (ValueError, RecursionError):
        return None


def _delays(fields: list[tuple[str, Any]]) -> Iterator[float]:
    for name, value in fields:
        if name in _DELAYS and not isinstance(value, bool) and isinstance(value, str | int | float):
            seconds = parse_duration(str(value))
            if seconds is not None:
                yield seconds * _DELAYS[name]


def _codes(kinds: list[Any]) -> Iterator[int]:
    for kind in kinds:
        if isinstance(kind, str) and re.fullmatch(r"[1-5]\d\d", kind):
            yield int(kind)
        elif isinstance(kind, int):
            yield kind


def _param(location: list[Any]) -> str:
    """The field that pydantic blames: `["body", "dimensions"]`."""
    return next((str(part) for part in location if isinstance(part, str) and part != "body"), "")


def _offender(param: str, reason: str, location: list[Any]) -> int | None:
    """The position that a refusal names: `input[22]`, `$.input[22]`, `["body", "input", 22]`."""
    found = _OFFENDER.search(param) or _OFFENDER.search(reason[:REASON_CHARACTERS])
    if found:
        return int(found[1] or found[2])
    if _param(location) in INPUT_NAMES:
        return next((part for part in location if type(part) is int), None)
    return None
