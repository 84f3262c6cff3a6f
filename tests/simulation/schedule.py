"""What happens in one simulated history, drawn from a seed: the records, the faults, how each run ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log
from random import Random
from typing import Literal

from aembed import Record
from tests.service.faults import Body, Cut, Fault, Hang, Late, Mutate, Script, Status, Truncate, html
from tests.service.mutations import BROKEN, wrong

MOST_STEPS = 1_500
"""Of the event loop: most runs have ended by then."""


@dataclass(frozen=True, slots=True)
class StoreFault:
    """One call to the store: seconds before and after its work, and whether it is refused before or after it."""

    before: float = 0.0
    after: float = 0.0
    refused: Literal["", "before", "after"] = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """At that step of the event loop the process dies, or its task is cancelled (and `again` so many steps later)."""

    kind: Literal["crash", "cancel"]
    step: int
    again: int = 0


@dataclass(frozen=True, slots=True)
class Dry:
    """From that request of a run on, for so many seconds, every request meets the fault: the account has no money."""

    number: int
    seconds: float
    fault: Fault


@dataclass(frozen=True, slots=True)
class Edit:
    """At that step of the event loop the user's own program does that to so many rows of its table."""

    step: int
    kind: Literal["edit", "empty", "delete", "insert"]
    rows: int


@dataclass(frozen=True, slots=True)
class Run:
    """One process. `revoked`: the request from which on the key is refused; `raises`: the record at which the source
    fails. With `relentless` one text may meet more faults than a request is tried again for. `budget` is that of the
    job, `own_budget` that of the process, `day_budget` that of the `day`."""

    records: Sequence[Record]
    source: Literal["list", "iterator", "stream"] = "list"
    faults: Mapping[int, Fault] = field(default_factory=dict)
    relentless: bool = False
    revoked: int | None = None
    raises: int | None = None
    budget: int | None = None
    own_budget: int | None = None
    day_budget: int | None = None
    day: int = 0
    store: Mapping[int, StoreFault] = field(default_factory=dict)
    ending: Ending | None = None
    dry: Dry | None = None
    edits: Sequence[Edit] = ()


@dataclass(frozen=True, slots=True)
class Schedule:
    """`runs` one after another, each with a new Embedder; the last one meets no fault.

    `deadly` is what a request with a poisoned text meets, every time, where it is not refused; `server` what others do.
    `shares` are what a byte of ASCII and another one cost, in tokens, where nobody can count them. `cut_to`: the server
    embeds so many tokens of each text.
    """

    seed: int
    concurrency: int
    batch: int
    batch_tokens: int
    sigma: float
    poison: frozenset[str]
    named: bool
    runs: Sequence[Run]
    shares: tuple[float, float] | None = None
    deadly: Fault | None = None
    server: Script | None = None
    cut_to: int | None = None
    says_usage: bool = True


def unserved(seed: int) -> Schedule:
    """Before it is said what kind of server it meets."""
    return _budgeted(_drawn(seed), Random(f"the budgets of {seed}"))


def _budgeted(schedule: Schedule, random: Random) -> Schedule:
    """With budgets of more kinds, and other prices, in one history of three; the last run has none."""
    if random.random() < 2 / 3:
        return schedule
    shares = random.choice([None, (0.25, 0.25), (0.25, 1.0), (1.0, 1.0), (0.1, 0.4)])
    daily = random.choice([None, random.randrange(400)])
    own = random.choice([None, random.randrange(400)])
    runs, day = [], 0
    for run in schedule.runs[:-1]:
        day += random.random() < 0.4
        runs.append(replace(run, day=day, day_budget=daily, own_budget=own if random.random() < 0.5 else None))
    return replace(schedule, runs=[*runs, schedule.runs[-1]], shares=shares)


def _drawn(seed: int) -> Schedule:
    random = Random(seed)
    poison = frozenset(f"poison {n}" for n in range(random.choice([0, 0, 1, 2])))
    records, runs = _records(random, poison), []
    budget = random.randrange(300) if random.random() < 0.3 else None
    for _ in range(random.randint(1, 3)):
        runs.append(_run(random, records, budget))
        if random.random() < 0.3:
            records = _edited(random, records)
    runs.append(Run(records, _source(random, records)))
    return Schedule(
        seed,
        concurrency=random.randint(1, 5),
        batch=random.choice([1, 2, 3, 5, 8, 16]),
        batch_tokens=random.choice([60, 100, 300_000]),
        sigma=random.choice([0.0, 0.7]),
        poison=poison,
        named=random.random() < 0.5,
        runs=runs,
    )


def _records(random: Random, poison: frozenset[str]) -> list[Record]:
    size = random.randint(1, 45)
    records = [Record(f"id{n}", _text(random, n)) for n in range(size)]
    for text in sorted(poison):
        records.insert(random.randrange(len(records) + 1), Record(text, text))
        if random.random() < 0.5:
            records.append(Record(f"again {text}", text))
    for n in range(random.choice([0, 0, 1, 4])):
        records.insert(random.randrange(len(records) + 1), random.choice(records))
        records.insert(random.randrange(len(records) + 1), Record(f"blank{n}", random.choice(["", " \n"])))
    if random.random() < 0.2:
        records.append(Record(random.choice(records).id, "another text for an id that is taken"))
    return records


def _text(random: Random, n: int) -> str:
    if random.random() < 0.15:
        return f"equal {random.randrange(4)}"
    return f"text {n} " + "word " * random.choice([0, 1, 7, 30])


def _edited(random: Random, records: list[Record]) -> list[Record]:
    """Some records have a new text, some are gone, some are new. No text comes back that was there before."""
    mark = random.randrange(1_000_000)
    fates = {record.id: random.random() for record in records}
    edited = [
        Record(record.id, f"{record.text} as of {mark}")
        if fates[record.id] < 0.2 and record.text.startswith("text")
        else record
        for record in records
        if fates[record.id] < 0.95
    ]
    return edited + [Record(f"new {mark} {n}", f"new {mark} {n}") for n in range(random.randrange(4))]


def _run(random: Random, records: Sequence[Record], budget: int | None) -> Run:
    def sometimes(share: float, value: int) -> int | None:
        return value if random.random() < share else None

    rate = random.choice([0.0, 0.05, 0.2, 0.5])
    return Run(
        records,
        _source(random, records),
        faults={number: _fault(random) for number in range(200) if random.random() < rate},
        relentless=random.random() < 0.1,
        revoked=sometimes(0.07, random.randrange(8)),
        raises=sometimes(0.07, random.randrange(len(records) + 1)),
        budget=budget if budget is None or random.random() < 0.7 else random.randrange(300),
        store=_store_faults(random),
        ending=_ending(random),
    )


def _source(random: Random, records: Sequence[Record]) -> Literal["list", "iterator", "stream"]:
    """Only of a list is every id remembered, so one with a contradiction comes as a list."""
    texts: dict[str, str] = {}
    contradicts = any(texts.setdefault(record.id, record.text) != record.text for record in records)
    return "list" if contradicts else random.choice(["list", "iterator", "stream"])


def _fault(random: Random) -> Fault:
    kind = random.randrange(10)
    match kind:
        case 0:
            return Status(random.choice([500, 502, 503, 504, 408, 409, 529]))
        case 1:
            return Status(429, headers=[("retry-after", str(random.choice([0, 1, 7])))])
        case 2:
            return Status(429)
        case 3:
            return Hang()
        case 4:
            return Late(random.choice([0.1, 2.0, 20.0, 100.0]))
        case 5:
            return Cut(billed=random.random() < 0.5)
        case 6:
            return Truncate(random.random())
        case 7:
            return Mutate(wrong(random.choice(sorted(BROKEN)), random.randrange(100)))
        case 8:
            odd = random.choice(["shuffled", "unknown fields", "index missing everywhere"])
            return Mutate(wrong(odd), intact=True)
        case _:
            return random.choice([html(502), Body(b"<p>sign in", content_type="text/html")])


def _store_faults(random: Random) -> dict[int, StoreFault]:
    slow = random.choice([0.0, 0.01, 1.0])
    refusing = random.random() < 0.15
    return {number: _store_fault(random, slow, refusing) for number in range(100)}


def _store_fault(random: Random, slow: float, refusing: bool) -> StoreFault:
    before, after = random.random() * slow, random.random() * slow
    if not refusing or random.random() < 0.9:
        return StoreFault(before, after)
    if random.random() < 0.2:
        return StoreFault(before=1_000.0)
    return StoreFault(before, after, random.choice(["before", "after"]))


def _ending(random: Random) -> Ending | None:
    kind = random.random()
    step = int(exp(random.uniform(0, log(MOST_STEPS))))
    if kind < 0.4:
        return Ending("crash", step)
    if kind < 0.6:
        return Ending("cancel", step, random.choice([0, 0, 1, 5, 50]))
    return None
