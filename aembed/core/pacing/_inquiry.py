"""This module finds out by trying which limit a 429 met, where its headers do not say it. It is pure.

Law 7: a 429 that says no more is a question (in flight, requests, tokens, texts, a day, chance), answered by trying,
not a pace. The answers are these:

    in flight      too many at a time: see InFlight. Fewer are sent, the rate stays
    a window       so much in a minute, or in whatever time: all that is sent is refused for a while. The gate closes,
                   the pace that was accepted is measured (Congestion), and is kept to; not yet after the first such
                   while, where much more was accepted before it, or nothing: it may be another job, or an outage
    chance         neither fewer in flight nor a slower pace makes the refusals fewer. Nothing is slowed down

A pace is a hypothesis: it is on trial until its requests have shown that it leaves few refusals (Trial). It is taken
back where it does not.
"""

from __future__ import annotations

from aembed.core.pacing._congestion import Congestion
from aembed.core.pacing._frequency import FREQUENT, UNLIKE_CHANCE
from aembed.core.pacing._in_flight import InFlight, SentRequest, Suspicion
from aembed.core.pacing._reservation import Reservation, Throttling
from aembed.core.pacing._trial import Trial

# Chosen: with FREQUENT that is two refusals. Fewer requests
# say little of a share; more hold up a job that needs a pace.
WATCHED = 50
"""So many requests are watched for the share of refusals that a pace has to better: those that made it worth a trial
were picked, and refused more often than usual."""


class Inquiry:
    """The inquiry; its answers are in `in_flight` (how many at a time) and `congestion` (how many tokens a second)."""

    def __init__(self, most_in_flight: int, first_in_flight: int) -> None:
        self.in_flight = InFlight(most_in_flight, first_in_flight)
        self.congestion = Congestion()
        self._trial: Trial | None = None
        self._was_blocked = self._blocked = False
        self._share = 0.0
        self._watched = self._watched_refusals = 0
        self._watches = False

    @property
    def explains_by_pace(self) -> bool:
        """Whether a window was seen to refuse everything for a while, be its pace known already or not."""
        return self._blocked or (self._was_blocked and self._trial is not None and self._trial.confirmed)

    @property
    def kind(self) -> str:
        """ "window", "in flight" or "chance"; empty where nothing was refused, or nothing was learned from it."""
        if self._trial and self._trial.confirmed:
            return "window"
        if self.in_flight.is_limited:
            return "in flight"
        return "chance" if self.in_flight.proven_chance else ""

    def belief(self) -> str:
        """The limit that was found out, and why."""
        match self.kind:
            case "window":
                pace = 60.0 * self.congestion.rate
                return f"about {pace:,.0f} tokens a minute: at that pace the refusals became few"
            case "in flight":
                limit = self.in_flight.limit
                return f"{limit} requests at a time: so many are accepted, and {limit + 1} were refused"
            case "chance":
                share = self.in_flight.proven_chance
                return f"no limit: {share:.0%} of the requests were refused, at any pace and number in flight"
        return ""

    def note_accepted(self, reservation: Reservation, now: float, in_flight: int) -> None:
        self._count(reservation, refused=False)
        self._watch(reservation, now, refused=False)
        if reservation.sent:
            suspicion = self.in_flight.note_accepted(reservation.sent, in_flight, now)
            if suspicion is Suspicion.WINDOW and not self.explains_by_pace:
                self._suspect(reservation, now)
        if self.congestion.note_accepted(reservation.tokens, reservation.start):
            self._blocked = False
            self._trial = Trial(self._share, now) if self.congestion.is_asked else None

    def forget(self) -> None:
        """The headers tell more of the pace than the refusals did."""
        self.congestion.forget()
        self._trial, self._blocked, self._was_blocked, self._watches = None, False, False, False

    def note_refused(
        self, reservation: Reservation, hint: float | None, now: float, in_flight: int, pace: float
    ) -> tuple[Throttling, bool]:
        """What follows from a 429 whose headers name no exhausted limit.

        The second value says whether a pace was taken back, so that what waits may go sooner.
        """
        sent = reservation.sent
        self._watch(reservation, now, refused=True)
        if sent and (not self.explains_by_pace or self.in_flight.is_try(sent)):
            return self._ask(reservation, sent, hint, now, in_flight, pace)
        return self.note_exhausted(reservation, now, pace)

    def note_exhausted(self, reservation: Reservation, now: float, pace: float) -> tuple[Throttling, bool]:
        """A window has nothing left: its headers say so, or it is known by its pace."""
        is_new = self.congestion.note_refused(reservation.tokens, reservation.start, now, pace)
        undone = is_new and self._count(reservation, refused=True)
        return Throttling(self.congestion.is_too_large(reservation.tokens), closes=True), undone

    def _ask(
        self, reservation: Reservation, sent: SentRequest, hint: float | None, now: float, in_flight: int, pace: float
    ) -> tuple[Throttling, bool]:
        # A request that only tried a higher level again says nothing of the pace.
        undone = False
        if self._trial and not self.in_flight.is_try(sent):
            self.congestion.note_refused(reservation.tokens, reservation.start, now, pace)
            undone = self._count(reservation, refused=True)
        match self.in_flight.note_refused(sent, in_flight, now, hint):
            case Suspicion.WINDOW:
                self._suspect(reservation, now)
                return Throttling(self.congestion.is_too_large(reservation.tokens), closes=True), undone
            case Suspicion.FREQUENT if not self.congestion.is_asked:
                # Refusals come often: where that is hardly chance, a pace is tried at once; else they are watched
                # first.
                share = self.in_flight.frequency.recent_share
                if share >= UNLIKE_CHANCE:
                    self._try_a_pace(reservation, now, share)
                elif not self._watches:
                    self._watches, self._watched, self._watched_refusals = True, 0, 0
            case _:
                pass
        return Throttling(self.congestion.is_too_large(reservation.tokens)), undone

    def _watch(self, reservation: Reservation, now: float, *, refused: bool) -> None:
        if not self._watches:
            return
        self._watched += 1
        self._watched_refusals += refused
        if self._watched == WATCHED:
            self._watches = False
            if self._watched_refusals >= FREQUENT * WATCHED and not self.congestion.is_asked:
                self._try_a_pace(reservation, now, self._watched_refusals / WATCHED)

    def _try_a_pace(self, reservation: Reservation, now: float, share: float) -> None:
        self._watches = self._was_blocked = False
        self._measure(reservation, now, share)
        self.in_flight.expect(share)

    def _suspect(self, reservation: Reservation, now: float) -> None:
        """A window is suspected, and the number in flight is not any more."""
        self._trial, self._blocked, self._was_blocked = None, True, True
        self._measure(reservation, now, self.in_flight.frequency.share)
        self.in_flight.forget()

    def _measure(self, reservation: Reservation, now: float, share: float) -> None:
        """The pace that has been accepted since the first refusal is tried; it is to better that share of refusals."""
        doubted_since = self.in_flight.doubted_since
        at = now if doubted_since is None else doubted_since
        since = min(self.in_flight.first_refused_at, now)
        self.congestion.suspect(reservation.tokens, since, at, blocked=self._was_blocked)
        self._share = share

    def _count(self, reservation: Reservation, *, refused: bool) -> bool:
        """Counts a request in the trial of the pace; returns whether the trial has failed."""
        if self._trial is None:
            return False
        self._trial.count(refused, reservation.start)
        if refused and self._trial.is_believable:
            self.congestion.lower_least()
        if not self._trial.is_undone:
            return False
        was_confirmed = self._trial.confirmed
        self._trial, self._blocked = None, False
        self.congestion.forget()
        if not was_confirmed:  # else the limit has changed: it was a pace, and may be one again
            self.in_flight.blame_chance(self._share)
        return True
