"""Requests of one pacer, each from its reservation to its answer. Times are seconds."""

from __future__ import annotations

from aembed.core.pacing import Pacer, Reservation, Throttling
from aembed.types import Hints


def send(pacer: Pacer, tokens: float, at: float, *, in_flight: int = 1, texts: int = 1) -> Reservation:
    reservation = pacer.reserve(tokens, at, texts=texts)
    pacer.note_sent(reservation, in_flight, at)
    return reservation


def accept(
    pacer: Pacer,
    tokens: float,
    at: float,
    *,
    hints: Hints | None = None,
    seconds: float = 0.5,
    in_flight: int = 1,
    texts: int = 1,
) -> None:
    reservation = send(pacer, tokens, at, in_flight=in_flight, texts=texts)
    pacer.note_accepted(reservation, hints, at + seconds, in_flight)
    pacer.note_ended(reservation)


def refuse(
    pacer: Pacer,
    tokens: float,
    at: float,
    *,
    hints: Hints | None = None,
    seconds: float = 0.02,
    in_flight: int = 1,
    texts: int = 1,
) -> Throttling:
    reservation = send(pacer, tokens, at, in_flight=in_flight, texts=texts)
    refusal = pacer.note_throttled(reservation, hints, at + seconds, in_flight)
    pacer.note_ended(reservation)
    return refusal


def refuse_alone(pacer: Pacer, tokens: float, at: float, *, hints: Hints | None = None) -> Throttling:
    """As often as makes a window likely: the last one says so."""
    for _ in range(2):
        assert not refuse(pacer, tokens, at, hints=hints).closes
    return refuse(pacer, tokens, at, hints=hints)
