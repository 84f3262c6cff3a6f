"""Which vectors may stand beside each other."""

from __future__ import annotations

from dataclasses import replace

from aembed.types import Space


def agreed(held: Space | None, asked: Space) -> Space | None:
    """The space that both describe, with the dimensions that either knows; None if they differ."""
    if held is None:
        return asked
    if replace(held, dimensions=None) != replace(asked, dimensions=None):
        return None
    if None not in (held.dimensions, asked.dimensions) and held.dimensions != asked.dimensions:
        return None
    return replace(asked, dimensions=asked.dimensions or held.dimensions)
