"""What goes in and out of the batch API over HTTP, whatever words a service has for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import msgspec

from tests.service import refusals
from tests.service.batches.faults import CutOff, Doubled, EndsEarly, Fault, Hangs, Lost, Refuse, TakesEffectLater, Verb
from tests.service.batches.files import StoredFile
from tests.service.batches.provider import Batches


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def of(cls, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Request:
        parts = urlsplit(target)
        return cls(method, parts.path, dict(parse_qsl(parts.query)), headers, body)

    def json(self) -> dict[str, Any]:
        """Raises Problem."""
        try:
            found = msgspec.json.decode(self.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Problem(400, refusals.error("We could not parse the JSON body of your request."))
        return found

    def form(self) -> tuple[Mapping[str, str], tuple[str, bytes]]:
        """The fields, and the name and content of the file. Raises Problem."""
        start = f"content-type: {self.headers.get('content-type', '')}\r\n\r\n".encode()
        fields: dict[str, str] = {}
        file: tuple[str, bytes] | None = None
        for part in BytesParser(policy=HTTP).parsebytes(start + self.body).iter_parts():
            name = str(part.get_param("name", header="content-disposition"))
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            if part.get_filename():
                file = (str(part.get_filename()), content)
            else:
                fields[name] = content.decode()
        if file is None:
            raise Problem(400, refusals.error("'file' is a required property"))
        return fields, file


@dataclass(frozen=True, slots=True)
class Answer:
    """`pieces` make the body as it is sent. `size` None: it goes out in chunks. `cut_after` bytes of the body the
    connection ends, at 0 before there is any answer; `hangs`: there is none, ever."""

    status: int = 200
    pieces: Callable[[], Iterator[bytes]] = lambda: iter((b"",))
    size: int | None = 0
    headers: Sequence[tuple[str, str]] = ()
    cut_after: int | None = None
    hangs: bool = False


def said(body: Any, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> Answer:
    content = msgspec.json.encode(body)
    return Answer(status, lambda: iter((content,)), len(content), headers)


class Problem(Exception):
    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status)
        self.answer = said(body, status)


def no_file(id: str) -> Problem:
    return Problem(404, refusals.error(f"No such File object: {id}"))


def no_batch(id: str) -> Problem:
    return Problem(404, refusals.error(f"No batch found with id '{id}'."))


Handle: TypeAlias = "Callable[[Request, str, float, TakesEffectLater | None], Answer]"
"""Gets the id that stands in the path, "" where none does."""


@dataclass(frozen=True, slots=True)
class Route:
    """`path` has a group where an id stands."""

    method: str
    path: str
    verb: Verb
    handle: Handle


class Routes:
    """Finds what a request asks for, and lets it meet what was planned for it."""

    def __init__(self, batches: Batches, routes: Sequence[Route]) -> None:
        self._batches = batches
        self._routes = routes

    def find(self, method: str, path: str) -> tuple[Route, str] | None:
        for route in self._routes:
            if route.method == method and (found := re.fullmatch(route.path, path)):
                return route, found[1] if found.re.groups else ""
        return None

    def answer(self, request: Request, now: float) -> Answer | None:
        """None for what is not of the batch API. `now` is the clock without what tests have advanced it."""
        found = self.find(request.method, request.path)
        if found is None:
            return None
        (route, id), now = found, now + self._batches.ahead
        fault = self._batches.plans.fault(route.verb)
        match fault:
            case Hangs():
                return Answer(hangs=True)
            case Refuse(code, body, headers):
                return said(refusals.usual_body(code) if body is None else body, code, headers)
            case Lost(took_effect=False):
                return Answer(cut_after=0)
        try:
            if isinstance(fault, Doubled):
                route.handle(request, id, now, None)
            answer = route.handle(request, id, now, fault if isinstance(fault, TakesEffectLater) else None)
        except Problem as problem:
            return problem.answer
        return _spoilt(answer, fault)


def _spoilt(answer: Answer, fault: Fault | None) -> Answer:
    match fault:
        case Lost() | TakesEffectLater():
            return Answer(cut_after=0)
        case CutOff(after_bytes):
            return Answer(answer.status, answer.pieces, answer.size, answer.headers, cut_after=max(1, after_bytes))
        case EndsEarly(share):
            content = b"".join(answer.pieces())
            part = content[: int(share * len(content))]
            return Answer(answer.status, lambda: iter((part,)), len(part), answer.headers)
        case _:
            return answer


def content_of(file: StoredFile, request: Request) -> Answer:
    """All of it, or what is asked for by `range: bytes=N-`."""
    kind = ("content-type", "application/octet-stream")
    start = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
    if not start:
        return Answer(200, file.pieces, file.size, [kind])
    content = file.content()
    rest = content[int(start[1]) :]
    ranged = ("content-range", f"bytes {start[1]}-{len(content) - 1}/{len(content)}")
    return Answer(206, lambda: iter((rest,)), len(rest), [kind, ranged])
