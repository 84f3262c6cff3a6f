"""This module shares limits and budgets between workers: what stands in a coordinator, and what follows from it.

A worker leases a share of one account's limits (one provider, key and model) for some seconds, and paces itself at that
share; it renews the lease in time, with what it could use. Nobody gets more than is free, so the shares that hold at
one moment are never more than the whole:

    lease() -+- all could use more:  each one gets an even part, once those that have more have renewed
             +- some use little:     what they leave is shared by the others
             +- one is gone:         its share is free when its seconds are over

What a worker does not use of its share lapses with the seconds: carried over it would be the burst that a window
refuses. Money does not lapse: a worker draws some of a budget (`draw`), spends no more than that, and what a dead
worker held stays spent. `now` is the clock of the coordinator's database, in seconds; a lease that ends further ahead
than any can was written before that clock was set back, and counts as over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import msgspec

from aembed.core.gate import LONGEST_HINT
from aembed.errors import ConfigError

VERSION = 1
"""Of what is written here. A later one is refused."""
# Chosen: what a dead worker held is lost for so long: of 8 workers one eighth of five seconds. Smaller, a worker whose
# event loop is blocked for a moment would lose its share.
LEASE_SECONDS = 5.0
"""For how long a share is leased."""
# Chosen: what rounding leaves of a sum of shares is no share. So small a one would be of no use.
CRUMB = 1e-6
"""Less than this counts as nothing."""
# Chosen: a worker whose want is that small has little to do, and finds more at its next lease.
LEAST_WANT = 0.02
"""The share that every worker may have, as far as there is one for each."""
LONGEST_PAUSE = LONGEST_HINT
"""A pause is made for so many seconds at the most."""
# Chosen: even shares would end a budget with as much unspent as the workers hold; at a fourth of what is left, shares
# become smaller as it ends.
BUDGET_PART = 0.25
"""The part of an even share of what is left of a budget that a worker draws at the most, unless it needs more."""


@dataclass(frozen=True, slots=True)
class Holding:
    """The share that a worker has until `ends_at`, the one that it could use, and the requests in flight that refusals
    have left it; 0 where none was refused for that."""

    share: float
    wants: float
    ends_at: float
    slots: int = 0


@dataclass(frozen=True, slots=True)
class ToldLimit:
    """A limit that replies have named, in units a minute, and the seconds of the window in which it is counted."""

    per_minute: float
    window: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Nobody is to send before `until`: a limit is used up (`limited`), or the provider does not answer."""

    until: float
    limited: bool


@dataclass(frozen=True, slots=True)
class Account:
    """What a coordinator keeps of one provider, key and model."""

    version: int = VERSION
    workers: dict[str, Holding] = field(default_factory=dict)
    limits: dict[str, ToldLimit] = field(default_factory=dict)
    pause: Pause | None = None
    quiet_until: float = 0.0
    """Until then nobody gets more than it goes on with: not all who do are here again."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """What a coordinator keeps of one budget: the tokens that workers have drawn, spent or not."""

    version: int = VERSION
    taken: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """What a worker asks for, and tells: the share that it could use, limits that replies named, a pause to make."""

    worker: str
    wants: float
    held: float = 0.0
    """The share that it goes on with, as it counts its seconds; 0 where it joins."""
    limits: Mapping[str, ToldLimit] = field(default_factory=dict)
    slots: int = 0
    """Requests in flight, where refusals have shown that more are too many."""
    pause_seconds: float = 0.0
    limited: bool = False
    resumes: bool = False
    """The provider has answered: nobody needs to wait any more."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a worker gets: its share, the number of workers, the limits that are known, a pause that is to be made."""

    share: float
    due: float
    """The share that it will get once the others have renewed."""
    workers: int
    limits: Mapping[str, ToldLimit]
    slots: int
    """Requests in flight that refusals have left each of the others, in the mean; 0 where none was refused so."""
    pause: Pause | None
    pause_seconds: float


State = TypeVar("State", Account, BudgetState)


def read_state(kind: type[State], written: bytes | None) -> State:
    """Raises ConfigError for what is no state of that kind, or of a later aembed."""
    if written is None:
        return kind()
    try:
        state = msgspec.json.decode(written, type=kind)
    except (msgspec.DecodeError, ValueError):
        raise ConfigError("the coordinator holds something that aembed has not written; name another one") from None
    if state.version > VERSION:
        raise ConfigError("the coordinator was written by a later aembed; update this one: pip install -U aembed")
    return state


def write_state(state: Account | BudgetState) -> bytes:
    return msgspec.json.encode(state)


def lease(account: Account, ask: Ask, now: float) -> tuple[Account, Lease]:
    """The account with the lease in it, and the lease; its share is 0 where nothing is free yet."""
    others = {name: held for name, held in account.workers.items() if name != ask.worker and _holds(held, now)}
    wants = {name: held.wants for name, held in others.items()}
    mine, quiet_until = account.workers.get(ask.worker), account.quiet_until
    if ask.held and not (mine and _holds(mine, now)):
        # The clock was set, or the database was away: the others go on with what they had, too.
        quiet_until = now + LEASE_SECONDS
    is_quiet = now < quiet_until <= now + LEASE_SECONDS
    want = min(ask.wants, ask.held) if ask.held and is_quiet else ask.wants
    free = max(0.0, 1.0 - sum(held.share for held in others.values()))
    due = _even_share(ask.worker, wants | {ask.worker: want})
    share = min(due, free) if free > CRUMB else 0.0
    pause = _pause_after(account.pause, ask, now)
    limits = {**account.limits, **ask.limits}
    workers = {**others, ask.worker: Holding(share, ask.wants, now + LEASE_SECONDS, ask.slots)}
    slots = [held.slots for held in others.values() if held.slots]
    return (
        Account(workers=workers, limits=limits, pause=pause, quiet_until=quiet_until),
        Lease(
            share,
            due,
            len(workers),
            limits,
            sum(slots) // len(slots) if slots else 0,
            pause,
            pause.until - now if pause else 0.0,
        ),
    )


def leave(account: Account, worker: str) -> Account:
    """The account without that worker, whose share is free now."""
    return replace(account, workers={name: held for name, held in account.workers.items() if name != worker})


def wanted_share(used: float, held_up: bool) -> float:
    """The share that a worker could use which used that one: twice as much, or all where the limit holds it up."""
    return 1.0 if held_up else min(1.0, LEAST_WANT + 2.0 * used)


def draw(
    budget: BudgetState, owed: int, need: int, minute: float, workers: int, most: float
) -> tuple[BudgetState, int]:
    """The budget, and the tokens that a worker gets of it: what it needs or more, or 0 where so many are not left.

    `owed` was spent already, beyond what was drawn. `minute` is what the worker spends in a minute.
    """
    left = most - budget.taken - owed
    if need > left:
        return BudgetState(taken=budget.taken + owed), 0
    part = min(minute, BUDGET_PART * left / max(1, workers), left)
    granted = max(need, int(part))
    return BudgetState(taken=budget.taken + owed + granted), granted


def give_back(budget: BudgetState, tokens: int) -> BudgetState:
    return BudgetState(taken=budget.taken - tokens)


def _holds(held: Holding, now: float) -> bool:
    return now < held.ends_at <= now + 2.0 * LEASE_SECONDS


def _even_share(worker: str, wants: Mapping[str, float]) -> float:
    """The worker's part where each gets what it wants, or an even part of what those leave that want less."""
    left, sharing = 1.0, len(wants)
    for name, want in sorted(wants.items(), key=lambda item: item[1]):
        part = min(want, left / sharing)
        if name == worker:
            return part
        left, sharing = left - part, sharing - 1
    raise AssertionError("the worker is one of them")


def _pause_after(held: Pause | None, ask: Ask, now: float) -> Pause | None:
    held = None if held is None or ask.resumes or not now < held.until <= now + LONGEST_PAUSE else held
    if ask.pause_seconds <= 0.0:
        return held
    until = now + min(ask.pause_seconds, LONGEST_PAUSE)
    return Pause(max(until, held.until) if held else until, ask.limited)
