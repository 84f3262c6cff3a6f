"""Two rankings of rows become one, by reciprocal ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aembed.types import Match

# From the paper that found it (Cormack, Clarke, Buettcher: Reciprocal Rank Fusion, SIGIR 2009), where it hardly
# mattered. Smaller, the first of one ranking would come before a row that both have farther down.
DAMPING = 60
# Chosen: with it a row that is anywhere in both rankings comes before the first of a single one (2 / 110 > 1 / 61).
DEPTH = 50
"""Rows of each ranking that are looked at, where fewer are wanted."""


def fuse(nearest: Sequence[Match], named: Sequence[Match], k: int) -> list[Match]:
    """The k best of two rankings, with their ranks; of two that are equal in both the one that holds names."""
    matches = {match.id: match for match in (*nearest, *named)}
    shares: dict[str, float] = dict.fromkeys(matches, 0.0)
    for ranking in (nearest, named):
        for rank, match in enumerate(ranking, 1):
            shares[match.id] += 1 / (DAMPING + rank)
    places = {match.id: place for place, match in enumerate(named)}
    order = sorted(matches, key=lambda id: (-shares[id], places.get(id, len(places)), -matches[id].score, id))
    return with_ranks([matches[id] for id in order[:k]])


def with_ranks(matches: Sequence[Match]) -> list[Match]:
    """`rank` is the place, from 1."""
    return [replace(match, rank=rank) for rank, match in enumerate(matches, 1)]
