"""Vectors that are hard to tell apart, or hard to compute with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from aembed.types import Matrix

Random: TypeAlias = np.random.Generator


def plain(random: Random, n: int, d: int) -> Matrix:
    return random.standard_normal((n, d), dtype=np.float32)


def of_one_direction(random: Random, n: int, d: int) -> Matrix:
    """As models give them: cosines of 0.7 to 0.95, and one dimension ten times as wide as the others."""
    widths = np.ones(d)
    widths[d // 3] = 10
    common = np.sin(1 + np.arange(d)) / np.sqrt(d / 2)
    return (common + 0.45 * random.standard_normal((n, d)) * widths / np.sqrt((widths**2).sum())).astype(np.float32)


def equal(random: Random, n: int, d: int) -> Matrix:
    return np.tile(np.sin(1 + np.arange(d)).astype(np.float32), (n, 1))


def some_equal(random: Random, n: int, d: int) -> Matrix:
    rows = of_one_direction(random, n, d)
    return rows[random.integers(0, max(1, n // 10), n)]


def near_ties(random: Random, n: int, d: int) -> Matrix:
    """They differ by a few of the last places of float32."""
    rows = equal(random, n, d).view(np.int32) + random.integers(-3, 4, (n, d), np.int32)
    return rows.view(np.float32)


def scaled(random: Random, n: int, d: int) -> Matrix:
    """Of one direction, from subnormal to the largest float32; and some zeros."""
    exponents = random.uniform(-44, 37, (n, 1))
    rows = (of_one_direction(random, n, d).astype(np.float64) * 10.0**exponents).astype(np.float32)
    rows[random.random(n) < 0.1] = 0
    return rows


def zeros(random: Random, n: int, d: int) -> Matrix:
    return np.zeros((n, d), np.float32)


def axes(random: Random, n: int, d: int) -> Matrix:
    rows = np.zeros((n, d), np.float32)
    rows[np.arange(n), random.integers(0, d, n)] = random.choice([-1, 1], n)
    return rows


def largest(random: Random, n: int, d: int) -> Matrix:
    signs: Matrix = random.choice(np.array([-1, 1], np.float32), (n, d)) * np.finfo(np.float32).max
    return signs


def opposite(random: Random, n: int, d: int) -> Matrix:
    rows = equal(random, n, d)
    rows[::2] *= -1
    return rows + 1e-3 * plain(random, n, d)


KINDS: Mapping[str, Callable[[Random, int, int], Matrix]] = {
    each.__name__: each
    for each in (plain, of_one_direction, equal, some_equal, near_ties, scaled, zeros, axes, largest, opposite)
}
