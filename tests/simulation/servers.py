"""The servers of simulated histories: what is wrong with each, every time, drawn from a seed.

Each is a kind of server that people run or pay for: one that dies of a text, that bears only so much at a time, whose
replies have a shape of their own, that knows no base64, that cuts texts, or answers late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from tests.service.bills import by_script
from tests.service.faults import Always, Cut, Fault, Hang, Mutate, Status, Truncate
from tests.service.mutations import wrong
from tests.service.refusals import OneAtATime, TooHeavy, error
from tests.service.shapes import (
    NO_BASE64,
    ODD,
    Behind,
    OfBase64,
    all_null,
    all_zero,
    average,
    first_alone,
    float64,
    no_rows,
)
from tests.simulation.schedule import Dry, Run, Schedule, unserved

FOREVER = 1e9
PAGE = Status(403, b"<html><title>Attention Required!</title><h1>Sorry, you have been blocked</h1></html>")
DEADLY: tuple[Fault, ...] = (
    Status(500),
    Status(503),
    Status(504, billed=True),
    Status(500, error("input is too large to process. increase the physical batch size")),
    Status(403, error("The response was filtered due to the content management policy.")),
    PAGE,
    Cut(),
    Hang(),
)
"""What a request with a bad text meets."""
HEAVY: tuple[Fault, ...] = (
    Status(500),
    Status(500, error("llama_decode returned -1")),
    Status(504, billed=True),
    Status(429, error("slow down")),
    Status(429, error("slow down"), headers=[("retry-after", "1")]),
    Cut(),
    Truncate(),
    Hang(billed=True),
)
"""What a request that is too large meets."""
AWAY: tuple[Fault, ...] = (
    Status(400, error("dial tcp 10.1.2.3:443: connect: connection refused")),
    Status(200, error("No successful provider responses.", code="404")),
)
"""What a gateway says of a server behind it that is away: an outage, which is waited for."""
DRY: tuple[Fault, ...] = (
    *AWAY,
    Status(400, error("Budget has been exceeded!", "budget_exceeded")),
    Status(400, error("The flux is out of order.")),
    Status(402, error("Insufficient credits")),
    Status(403, error("Sorry, your account balance is insufficient")),
    Status(422, {"detail": "not now"}),
    Status(429, error("You exceeded your current quota", "insufficient_quota", code="insufficient_quota")),
    Status(429, error("throttled: insufficient_quota", "throttling_error", code="429")),
    Status(200, {"object": "list", "data": None}),
)
"""What every request meets once the account is dry, or the server behind the gateway gone."""


def draw(seed: int) -> Schedule:
    return served(unserved(seed), Random(f"the server of {seed}"))


def served(schedule: Schedule, random: Random) -> Schedule:
    """By a server of one of the kinds, or, in two histories of five, by one without a fault of its own."""
    return random.choice([_deadly, _heavy, _one_at_a_time, _odd, _encoded, _late, _cutting, _dry, _sound, _sound])(
        schedule, random
    )


def _sound(schedule: Schedule, random: Random) -> Schedule:
    return schedule


def _deadly(schedule: Schedule, random: Random) -> Schedule:
    return replace(schedule, deadly=random.choice(DEADLY))


def _heavy(schedule: Schedule, random: Random) -> Schedule:
    inputs, size_bytes = random.choice([(1, None), (2, None), (5, None), (None, 400), (None, 900)])
    most = {"max_inputs": inputs, "max_bytes": size_bytes}
    script = TooHeavy(random.choice(HEAVY), **{name: value for name, value in most.items() if value})
    return replace(schedule, server=script)


def _one_at_a_time(schedule: Schedule, random: Random) -> Schedule:
    return replace(schedule, server=OneAtATime(random.choice([first_alone, all_zero, average])))


def _odd(schedule: Schedule, random: Random) -> Schedule:
    shape = random.choice(ODD)
    return replace(schedule, server=Always(Mutate(wrong(shape), intact=True)), says_usage=shape != "usage missing")


def _encoded(schedule: Schedule, random: Random) -> Schedule:
    fault = random.choice([Mutate(no_rows), Mutate(all_null), Mutate(float64), NO_BASE64])
    return replace(schedule, server=OfBase64(fault, random.choice([1, 1, 3])))


def _late(schedule: Schedule, random: Random) -> Schedule:
    return replace(schedule, server=Behind(random.choice([2, 7]), random.choice([6.0, 20.0])))


def _cutting(schedule: Schedule, random: Random) -> Schedule:
    """It embeds so many tokens of each text, and says so in nothing but its bill."""
    return replace(schedule, cut_to=None if schedule.shares else random.choice([2, 5]))


def _dry(schedule: Schedule, random: Random) -> Schedule:
    """The account is dry from some request on: until it is filled while the run waits, or by the next run.

    Where a store takes seconds nothing may be sent meanwhile, and nobody can tell one from a bad text.
    """

    def dried(run: Run) -> Dry | None:
        if random.random() < 0.3:
            return None
        is_quick = all(fault.before + fault.after < 0.1 for fault in run.store.values())
        seconds = random.choice([1.5, 1.5, FOREVER] if is_quick else [FOREVER])
        return Dry(random.randrange(12), seconds, random.choice(DRY))

    runs = [replace(run, dry=dried(run)) for run in schedule.runs[:-1]]
    return replace(schedule, runs=[*runs, schedule.runs[-1]])


def bill_of(schedule: Schedule) -> Callable[..., int] | None:
    if cut_to := schedule.cut_to:
        # A server that embeds the first tokens of each text only, and counts what it embeds as the estimate does.
        return lambda contents: by_script()([content[: 4 * cut_to] for content in contents])
    return by_script(*schedule.shares) if schedule.shares else None
