"""Stage 5."""

from aembed.core.pacing._pacer import Pacer, Reservation

__all__ = ["Pacer", "Reservation"]
