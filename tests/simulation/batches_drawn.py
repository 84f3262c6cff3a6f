"""What is drawn from a seed for the days of tests/simulation/batches.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias, get_args

from aembed.core.batch_jobs import GRACE_SECONDS
from tests.service.batches.faults import (
    AT_ONCE,
    Course,
    CutOff,
    Doubled,
    EndsEarly,
    Fault,
    LineFault,
    Lost,
    Refuse,
    TakesEffectLater,
    Verb,
)

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
PAUSES = (0.0, 20.0, 5 * MINUTE, 15 * MINUTE, 2 * HOUR, 10 * HOUR, 26 * HOUR)
USUAL = Course(60.0, 10 * MINUTE, 0.0, 60.0)
LATEST = 40 * HOUR
"""A create comes late by at most so much: texts are sent anew after a grace, and batches remembered for 72 hours."""
LONGEST_LAG = GRACE_SECONDS - 70.0
"""With less, a batch is in the list before its file is deleted, though clocks are wrong by half a minute each."""
Kind: TypeAlias = Literal["batch", "batch or live", "live", "cancel"]


@dataclass(frozen=True, slots=True)
class Life:
    """One process. It begins `start` seconds after the others of its visit, and is killed after so many steps. Its
    clock is wrong by `skew` seconds."""

    kind: Kind
    start: float = 0.0
    killed: int | None = None
    skew: float = 0.0


@dataclass(frozen=True, slots=True)
class Visit:
    """After a pause, and some edits (the text that each of these ids has from now on), some processes at once."""

    pause: float
    edits: Mapping[str, str]
    lives: Sequence[Life]


@dataclass(frozen=True, slots=True)
class Days:
    """What is drawn for one history."""

    seed: int
    texts: Mapping[str, str]
    visits: Sequence[Visit]
    courses: Sequence[Course]
    faults: Mapping[Verb, Sequence[Fault | None]]
    usual: Course
    in_column: bool = False
    list_lag: float = 0.0
    queue_tokens: float = float("inf")

    @property
    def has_twins(self) -> bool:
        """Whether a batch may come up whose texts were sent anew already, or that nobody has asked for."""
        is_overdue = any(course.validating + course.running > 2 * DAY for course in self.courses)
        return is_overdue or self.list_lag > LONGEST_LAG or any(map(self._makes_twins, self.faults.get("create", ())))

    def _makes_twins(self, fault: Fault | None) -> bool:
        match fault:
            case Doubled():
                return True
            case TakesEffectLater(seconds, runs_without_file):
                return runs_without_file or (self.list_lag > 0 and seconds + self.list_lag > LONGEST_LAG)
            case _:
                return False


def drawn_batches(seed: int) -> Days:
    random = Random(f"the batches of {seed}")
    texts = {
        f"id-{number}": f"text {number} {'ab ' * random.randint(0, 30)}" for number in range(random.randint(1, 40))
    }
    if random.random() < 0.3:
        texts |= {f"equal-{number}": random.choice([*texts.values()]) for number in range(4)}
    visits, now, kills = [], dict(texts), random.choice([0.0, 0.3])
    for number in range(random.randint(3, 12)):
        edits = _drawn_edits(random, now, texts, number)
        now |= edits
        visits.append(Visit(random.choice(PAUSES), edits, _drawn_lives(random, kills)))
    return Days(
        seed,
        texts,
        visits,
        courses=[_drawn_course(random) for _ in range(random.randint(0, 8))],
        faults=_drawn_faults(random),
        usual=random.choice([USUAL, USUAL, AT_ONCE]),
        in_column=random.random() < 0.3,
        list_lag=random.choice([0.0, 0.0, random.uniform(0, LONGEST_LAG), random.uniform(0, 3 * HOUR)]),
        queue_tokens=random.choice([float("inf"), float("inf"), 150.0, 400.0]),
    )


def _drawn_edits(random: Random, now: Mapping[str, str], first: Mapping[str, str], number: int) -> dict[str, str]:
    if number == 0 or random.random() < 0.6:
        return {}
    some = random.sample(sorted(now), min(len(now), random.randint(1, 3)))
    edits = {id: first[id] if random.random() < 0.4 and id in first else f"edit {number} of {id}" for id in some}
    return edits | ({f"new-{number}": f"new text {number}"} if random.random() < 0.5 else {})


def _drawn_lives(random: Random, kills: float) -> list[Life]:
    return [
        Life(
            random.choices(["batch", "batch or live", "live", "cancel"], [8, 2, 2, 1])[0],
            random.choice([0.0, random.uniform(0.0, 3.0)]),
            killed=random.randrange(1, 120) if random.random() < kills else None,
            skew=random.choice([0.0, random.uniform(-30.0, 30.0)]),
        )
        for _ in range(random.choice([1, 1, 1, 2, 3]))
    ]


def _drawn_course(random: Random) -> Course:
    faults: list[LineFault] = [*get_args(LineFault)]
    return Course(
        validating=random.choice([0.0, 60.0, HOUR]),
        running=random.choice(
            [0.0, 10 * MINUTE, 5 * HOUR, 30 * HOUR, 30 * HOUR if random.random() < 0.9 else 90 * HOUR]
        ),
        finalizing=random.choice([0.0, 15.0]),
        cancelling=random.choice([0.0, 60.0, 10 * MINUTE]),
        fails=random.choice(["invalid_request", "token_limit_exceeded"]) if random.random() < 0.15 else "",
        stops_at=random.choice([0.0, 0.3, 0.7]) if random.random() < 0.2 else 1.0,
        lines={random.randrange(5): random.choice(faults)} if random.random() < 0.3 else {},
        order=random.choice(["input", "reversed", "shuffled"]),
        output=random.random() > 0.05,
    )


def _drawn_faults(random: Random) -> dict[Verb, list[Fault | None]]:
    usual: list[Fault] = [Lost(), Lost(took_effect=False), Refuse(500), Refuse(503), Refuse(429)]
    late = [
        TakesEffectLater(random.uniform(1.0, LATEST), runs_without_file=False),
        TakesEffectLater(random.uniform(1.0, LATEST), runs_without_file=True),
        TakesEffectLater(random.uniform(1.0, 300.0)),
    ]
    more: dict[Verb, list[Fault]] = {
        "content": [CutOff(random.randrange(1, 3_000)), EndsEarly(random.random())],
        "create": random.choice([[], [Doubled()], random.sample(late, 2)]),
    }
    verbs: list[Verb] = ["upload", "create", "get", "list", "cancel", "content", "delete"]
    share, of_creates = random.choice([0.0, 0.1, 0.4]), random.choice([0.0, 0.4])
    faults: dict[Verb, list[Fault | None]] = {}
    for verb in verbs:
        chance, kinds = max(share, of_creates if verb == "create" else 0.0), [*usual, *more.get(verb, []) * 3]
        faults[verb] = [random.choice(kinds) if random.random() < chance else None for _ in range(20)]
    return faults
