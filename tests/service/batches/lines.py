"""One line of an input file, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tests.service.batches.faults import LineFault
from tests.service.service import Call


@dataclass(frozen=True, slots=True)
class Line:
    """`body` is the request as OpenAI's online endpoint would have it, whatever the service's own words are."""

    number: int
    custom_id: str
    body: Mapping[str, Any]

    @property
    def texts(self) -> list[Any]:
        given = self.body.get("input")
        return given if isinstance(given, list) else [given]


@dataclass(frozen=True, slots=True)
class Answered:
    """A line that ran, and was billed."""

    line: Line
    call: Call
    fault: LineFault | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A line that was answered with an error; `status` None: with none, as it never ran."""

    line: Line
    status: int | None
    error: Mapping[str, Any]


class Words(Protocol):
    """How a service writes the lines of its result files. `one_file`: its errors stand in the output file, too."""

    one_file: bool

    def answered(self, line: Line, call: Call) -> Iterator[bytes]:
        """One line, with its end, a piece at a time."""
        ...

    def answered_bytes(self, line: Line, call: Call) -> int | None:
        """Their size, where it is known without making them."""
        ...

    def failed(self, failed: Failed) -> bytes: ...


class WordsOfOpenAI:
    one_file = False

    def answered(self, line: Line, call: Call) -> Iterator[bytes]:
        before, after = self._around(line)
        yield before
        yield from call.pieces()
        yield after

    def answered_bytes(self, line: Line, call: Call) -> int | None:
        size = call.pieces_bytes()
        return None if size is None else sum(map(len, self._around(line))) + size

    def failed(self, failed: Failed) -> bytes:
        said: dict[str, Any] = {"id": f"batch_req_{failed.line.number:024x}", "custom_id": failed.line.custom_id}
        if failed.status is None:
            said |= {"response": None, "error": failed.error}
        else:
            body = {"error": failed.error}
            said |= {"response": {"status_code": failed.status, "request_id": "", "body": body}, "error": None}
        return json.dumps(said).encode() + b"\n"

    def _around(self, line: Line) -> tuple[bytes, bytes]:
        """The real service writes blanks after `:` and `,`, as Python does."""
        whole = {
            "id": f"batch_req_{line.number:024x}",
            "custom_id": line.custom_id,
            "response": {"status_code": 200, "request_id": f"{line.number:032x}", "body": 0},
            "error": None,
        }
        before, after = json.dumps(whole).encode().split(b'"body": 0')
        return before + b'"body": ', after + b"\n"


def written(words: Words, answered: Answered) -> Iterator[bytes]:
    """What stands of it in the output file."""
    line, call = answered.line, answered.call
    match answered.fault:
        case None:
            yield from words.answered(line, call)
        case "doubled":
            yield from words.answered(line, call)
            yield from words.answered(line, call)
        case "null id":
            named = json.dumps(line.custom_id).encode()
            yield b"".join(words.answered(line, call)).replace(named, b"null", 1)
        case "wrong width":
            # Three bytes more: no whole number of float32 values.
            yield b"".join(words.answered(line, call)).replace(b'"embedding":"', b'"embedding":"AAAA')
        case "not JSON":
            yield b"".join(words.answered(line, call))[:-3] + b"\n"
        case _:
            raise AssertionError(answered.fault)


def written_bytes(words: Words, answered: Answered) -> int | None:
    return words.answered_bytes(answered.line, answered.call) if answered.fault is None else None
