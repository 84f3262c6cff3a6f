"""What can go wrong with one request of the batch API, and with one batch, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from tests.service.faults import Headers

Verb: TypeAlias = Literal["upload", "create", "get", "list", "cancel", "content", "delete", "file"]


@dataclass(frozen=True, slots=True)
class Refuse:
    """This status, and nothing happens."""

    code: int
    body: Mapping[str, Any] | None = None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection ends before the answer; the request took effect, or did not."""

    took_effect: bool = True


@dataclass(frozen=True, slots=True)
class TakesEffectLater:
    """Of a create: the answer is lost, and the batch begins so many seconds later. If its input file has been deleted
    by then, it fails in validation, unless it `runs_without_file`."""

    seconds: float
    runs_without_file: bool = False


@dataclass(frozen=True, slots=True)
class Doubled:
    """Of a create: something on the way sends it twice, so that there are two batches; the answer is that of the
    second."""


@dataclass(frozen=True, slots=True)
class CutOff:
    """Of a content: the connection ends after so many bytes of the body."""

    after_bytes: int


@dataclass(frozen=True, slots=True)
class EndsEarly:
    """Of a content: a body in proper HTTP that ends after that share of its bytes."""

    share: float


@dataclass(frozen=True, slots=True)
class Hangs:
    """No answer, and no effect, for as long as the client stays."""


Fault: TypeAlias = Refuse | Lost | TakesEffectLater | Doubled | CutOff | EndsEarly | Hangs

LineFault: TypeAlias = Literal[
    "neither file", "status 0", "500", "refused", "doubled", "null id", "wrong width", "not JSON"
]
"""What becomes of one line. But for "doubled", "null id", "wrong width" and "not JSON" it is not billed."""


@dataclass(frozen=True, slots=True)
class Course:
    """How a batch goes, in seconds from its creation, and of those from then on.

    `fails` is the code of a failed validation. `stops_at`: only that share of the lines ever runs, so that it expires.
    `lines` says what becomes of single lines, by their number in the file. `order` is that of the output.
    `output`: whether there is an output file, where lines were answered.
    """

    validating: float = 60.0
    running: float = 600.0
    finalizing: float = 15.0
    cancelling: float = 60.0
    fails: str = ""
    stops_at: float = 1.0
    lines: Mapping[int, LineFault] = field(default_factory=dict)
    order: Literal["input", "reversed", "shuffled"] = "input"
    output: bool = True


AT_ONCE = Course(0.0, 0.0, 0.0, 0.0)
"""Completed as soon as anybody looks."""


class Plans:
    """What the next requests of each verb meet, and how the next batches go; those after them go well."""

    def __init__(
        self, courses: Sequence[Course] = (), usual: Course = Course(), **faults: Sequence[Fault | None]
    ) -> None:
        self.usual = usual
        self._courses = list(courses)
        self._faults = {verb: list(planned) for verb, planned in faults.items()}

    def add(self, verb: Verb, *faults: Fault | None) -> None:
        self._faults.setdefault(verb, []).extend(faults)

    def add_courses(self, *courses: Course) -> None:
        self._courses.extend(courses)

    def fault(self, verb: Verb) -> Fault | None:
        planned = self._faults.get(verb)
        return planned.pop(0) if planned else None

    def course(self) -> Course:
        return self._courses.pop(0) if self._courses else self.usual
