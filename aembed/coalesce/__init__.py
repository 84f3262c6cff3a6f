"""Many small awaits, few requests."""

from aembed.coalesce.coalescer import Coalescer

__all__ = ["Coalescer"]
