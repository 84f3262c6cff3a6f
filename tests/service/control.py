"""What `POST /script` understands: changes to a running service, as JSON.

{"faults": [{"kind": "status", "code": 500}, null, {"kind": "hang"}]}     the next requests, in order
{"always": {"kind": "status", "code": 503}}                               every request; null ends it
{"random": {"seed": 1, "rate": 0.05}}                                     each with that probability; draws begin anew
{"server": "no base64"}                                             a server of shapes.py beside this file; null ends it
{"limits": {"window": "fixed", "requests_per_minute": 3000, "tokens_per_minute": 1000000}}
{"change": {"tokens_per_minute": 500000}}                                 the same windows with another limit
{"latency": 20}                                                           the scale: 0 none, 1 as recorded
{"latency": {"scale": 1, "fixed": 0.3, "sigma": 0.5, "seed": 7}}          and its other fields; draws begin anew
{"clear_ledger": true}

Of the batch API (tests/service/batches):

{"advance": 3600}                                                         its clock, in seconds
{"list_lag": 30}                                                          seconds until the list has a new batch
{"queue_tokens": 3000000}                                                 so much may be under way
{"batch_service": "voyage"}                                               in whose words it speaks
{"courses": [{"fails": "token_limit_exceeded"}, {"lines": {"3": "neither file"}}]}     of the next batches
{"usual_course": {"validating": 0, "running": 0, "finalizing": 0}}        of all others
{"batch_faults": {"create": [null, {"kind": "lost"}], "content": [{"kind": "cut_off", "after_bytes": 9}]}}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from tests.service.batches.faults import Course, CutOff, Doubled, EndsEarly, Hangs, Lost, Refuse, TakesEffectLater
from tests.service.batches.openai import OpenAIWire
from tests.service.batches.provider import Batches
from tests.service.batches.services import WIRES
from tests.service.faults import Always, Body, Cut, Drip, Fault, Faults, Flood, Hang, Late, Plan, Status, Truncate
from tests.service.ledger import Ledger
from tests.service.limits import RateLimits
from tests.service.service import Service
from tests.service.shapes import SERVERS

KINDS: dict[str, Callable[..., Fault]] = {
    "status": Status,
    "body": lambda content, **rest: Body(content.encode(), **rest),
    "hang": Hang,
    "late": Late,
    "cut": Cut,
    "truncate": Truncate,
    "drip": Drip,
    "flood": Flood,
}


BATCH_KINDS: dict[str, Callable[..., Any]] = {
    "refuse": Refuse,
    "lost": Lost,
    "takes_effect_later": TakesEffectLater,
    "doubled": Doubled,
    "cut_off": CutOff,
    "ends_early": EndsEarly,
    "hangs": Hangs,
}


def fault_of(described: Mapping[str, Any] | None) -> Fault | None:
    """`{"kind": "status", "code": 500}` is Status(500). Raises KeyError or TypeError for what is not one."""
    if described is None:
        return None
    fields = dict(described)
    return KINDS[fields.pop("kind")](**fields)


def apply(service: Service, changes: Mapping[str, Any], now: float) -> None:
    """Raises ValueError, KeyError or TypeError for a change that makes no sense; those before it stand."""
    for name, value in changes.items():
        match name:
            case "faults":
                service.script = Plan(*map(fault_of, value))
            case "always":
                fault = fault_of(value)
                service.script = Always(fault) if fault else None
            case "random":
                service.script = Faults(value["seed"], value["rate"], first=service.received)
            case "server":
                service.script = copy(SERVERS[value]) if value else None
            case "limits":
                service.limits = RateLimits.of(value.pop("window"), **value)
            case "change":
                _change(service.limits, now, **value)
            case "clear_ledger":
                _clear(service)
            case _:
                raise ValueError(f"no such change: {name}")


def apply_to_batches(batches: Batches, wire: OpenAIWire, changes: dict[str, Any]) -> OpenAIWire:
    """Takes what is of the batch API out of the changes, and returns the wire from now on. Raises as `apply` does."""
    for name in [*changes]:
        match name:
            case "advance":
                batches.advance(changes.pop(name))
            case "list_lag":
                batches.list_lag = changes.pop(name)
            case "queue_tokens":
                batches.limits.queue_tokens = changes.pop(name)
            case "batch_service":
                wire = WIRES[changes.pop(name)](batches)
            case "courses":
                batches.plans.add_courses(*map(course_of, changes.pop(name)))
            case "usual_course":
                batches.plans.usual = course_of(changes.pop(name))
            case "batch_faults":
                for verb, described in changes.pop(name).items():
                    batches.plans.add(verb, *map(_batch_fault_of, described))
    return wire


def course_of(described: Mapping[str, Any]) -> Course:
    fields = dict(described)
    lines = {int(number): fault for number, fault in fields.pop("lines", {}).items()}
    return Course(**fields, lines=lines)


def _batch_fault_of(described: Mapping[str, Any] | None) -> Any:
    if described is None:
        return None
    fields = dict(described)
    return BATCH_KINDS[fields.pop("kind")](**fields)


def _change(
    limits: RateLimits, now: float, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
) -> None:
    if limits.requests and requests_per_minute:
        limits.requests.change(requests_per_minute, now)
    if limits.tokens and tokens_per_minute:
        limits.tokens.change(tokens_per_minute, now)


def _clear(service: Service) -> None:
    """Starts a new ledger that knows what is still in flight."""
    old = service.ledger
    service.ledger = Ledger(
        in_flight=old.in_flight,
        max_in_flight=old.in_flight,
        tokens_in_flight=old.tokens_in_flight,
        max_tokens_in_flight=old.tokens_in_flight,
    )
