"""all-MiniLM-L6-v2: a window of tokens into a vector."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from aembed.providers._minilm.graph import INPUT, OUTPUT, model_of
from aembed.providers._minilm.weights import Weights, read_weights
from aembed.providers._minilm.words import FIRST, LAST, tokens_of
from aembed.types import Matrix, Vector

WINDOW = 256
"""Tokens, those of both ends included: what the model was made for."""


_ROOM = WINDOW - 2


def windows_of(text: str) -> list[list[int]]:
    """The tokens of the whole text in windows of whole lines and like length, each with its ends.

    A line is cut only where it alone is too long.
    """
    lines = [part for line in text.split("\n") for part in _parts(tokens_of(line))]
    total = sum(map(len, lines))
    count = max(1, -(-total // _ROOM))
    windows: list[list[int]] = [[]]
    for line in lines:
        length = len(windows[-1])
        is_due = len(windows) < count and length + len(line) / 2 > total / count
        if length and (is_due or length + len(line) > _ROOM):
            windows.append([])
        windows[-1] += line
    return [[FIRST, *window, LAST] for window in windows]


def _parts(line: list[int]) -> list[list[int]]:
    count = -(-len(line) // _ROOM)
    borders = [len(line) * number // max(1, count) for number in range(count + 1)]
    return [line[start:end] for start, end in pairwise(borders)]


class MiniLM:
    """Takes a tenth of a second to load. Raises ConfigError where the weights are not the known ones."""

    def __init__(self, weights: Weights | None = None) -> None:
        import onnxruntime

        weights = weights or read_weights()
        self._words, self._positions = weights.words, weights.positions
        options = onnxruntime.SessionOptions()
        # More threads spin where anything else runs, and a window is too small to gain by them.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # The arena keeps what the longest window took for ever, and more.
        options.enable_cpu_mem_arena = False
        # Processors without instructions for int8 products would cut off sums that are too large.
        options.add_session_config_entry("session.x64quantprecision", "1")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model_of(weights), options, providers=["CPUExecutionProvider"])

    def encode(self, texts: Sequence[str]) -> Matrix:
        """One row for each text, 1 long; shape (texts, 384). A longer text is the mean of its windows."""
        rows = []
        for text in texts:
            parts = [_scaled(self.vector(window)) * len(window) for window in windows_of(text)]
            rows.append(_scaled(np.sum(parts, axis=0)))
        return np.stack(rows)

    def vector(self, window: Sequence[int]) -> Vector:
        """The mean of its tokens, of any length; shape (384,)."""
        embeddings = self._words.numbers[window] * self._words.scales[window, None] + self._positions[: len(window)]
        (tokens,) = self._session.run([OUTPUT], {INPUT: embeddings[None]})
        mean: Vector = tokens[0].mean(axis=0)
        return mean


def _scaled(vector: Vector) -> Vector:
    """1 long."""
    scaled: Vector = vector / np.linalg.norm(vector)
    return scaled
