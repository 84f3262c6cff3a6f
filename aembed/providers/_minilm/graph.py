"""The arithmetic of all-MiniLM-L6-v2 as an ONNX model: made in memory, run by onnxruntime.

Each matrix product is one of int8: what goes into it is rounded to 256 steps between its least and its largest number,
and the sums are exact. All else is float32. One window of tokens at a time goes through it, so that a text has the same
vector whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aembed.providers._minilm.protobuf import field
from aembed.providers._minilm.weights import Linear, Norm, Weights

INPUT, OUTPUT = "embeddings", "tokens"
"""Both of shape (1, tokens, 384)."""
HEADS, WIDTH = 12, 384
_EPSILON = 1e-12
_OPSET, _IR = 17, 8
_CONTRIBUTED = "com.microsoft"
"""The operators that onnxruntime has beside ONNX's own."""
_FLOAT, _INT8 = 1, 3
_INTEGER, _INTEGERS = 2, 7
_TYPES = {np.dtype(np.float32): _FLOAT, np.dtype(np.int8): _INT8}


def model_of(weights: Weights) -> bytes:
    """An ONNX model, from the sums of the embeddings to the tokens of the last layer."""
    graph = _Graph()
    x = graph.norm(INPUT, weights.norm)
    for layer in weights.layers:
        queries, keys, values = graph.nodes("Split", [graph.linear(x, layer.attention)], 3, axis=-1)
        seen = graph.node("MultiHeadAttention", [queries, keys, values], _CONTRIBUTED, num_heads=HEADS)
        x = graph.sum_norm(graph.linear(seen, layer.attention_output), x, layer.attention_norm)
        inner = graph.node("Gelu", [graph.linear(x, layer.inner)], _CONTRIBUTED)
        x = graph.sum_norm(graph.linear(inner, layer.output), x, layer.output_norm)
    return graph.model(x)


class _Graph:
    """The messages of onnx.proto, by the numbers of their fields."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._tensors: list[bytes] = []

    def linear(self, x: str, linear: Linear) -> str:
        """Each row is scaled to 1 before it is rounded: one large number costs its own row alone."""
        numbers, scales, bias = (
            self._tensor(each) for each in (linear.matrix.numbers, linear.matrix.scales, linear.bias)
        )
        largest = self.node("ReduceMax", [self.node("Abs", [x])], axes=[-1], keepdims=1)
        rows = self.node("Div", [x, largest])
        product = self.node("DynamicQuantizeMatMul", [rows, numbers, scales], _CONTRIBUTED)
        return self.node("Add", [self.node("Mul", [product, largest]), bias])

    def norm(self, x: str, norm: Norm) -> str:
        inputs = [x, self._tensor(norm.weight), self._tensor(norm.bias)]
        return self.node("LayerNormalization", inputs, axis=-1, epsilon=_EPSILON)

    def sum_norm(self, x: str, other: str, norm: Norm) -> str:
        inputs = [x, other, self._tensor(norm.weight), self._tensor(norm.bias)]
        return self.node("SkipLayerNormalization", inputs, _CONTRIBUTED, epsilon=_EPSILON)

    def node(
        self, operator: str, inputs: Sequence[str], domain: str = "", **attributes: int | float | list[int]
    ) -> str:
        return self.nodes(operator, inputs, 1, domain, **attributes)[0]

    def nodes(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: int,
        domain: str = "",
        **attributes: int | float | list[int],
    ) -> list[str]:
        names = [f"x{len(self._nodes)}.{number}" for number in range(outputs)]
        message = [field(1, name) for name in inputs] + [field(2, name) for name in names]
        message += [field(4, operator), field(7, domain)]
        message += [field(5, _attribute(name, value)) for name, value in attributes.items()]
        self._nodes.append(b"".join(message))
        return names

    def _tensor(self, values: NDArray[Any]) -> str:
        name = f"w{len(self._tensors)}"
        dimensions = [field(1, size) for size in values.shape]
        content = [field(2, _TYPES[values.dtype]), field(8, name), field(9, values.tobytes())]
        self._tensors.append(b"".join(dimensions + content))
        return name

    def model(self, output: str) -> bytes:
        nodes = [*self._nodes, field(1, output) + field(2, OUTPUT) + field(4, "Identity")]
        graph = [field(1, message) for message in nodes] + [field(2, "all-MiniLM-L6-v2")]
        graph += [field(5, message) for message in self._tensors]
        graph += [field(11, _value(INPUT)), field(12, _value(OUTPUT))]
        operators = [
            field(8, field(1, domain) + field(2, version)) for domain, version in (("", _OPSET), (_CONTRIBUTED, 1))
        ]
        return b"".join([field(1, _IR), field(7, b"".join(graph)), *operators])


def _attribute(name: str, value: int | float | list[int]) -> bytes:
    if isinstance(value, list):
        return field(1, name) + b"".join(field(8, each) for each in value) + field(20, _INTEGERS)
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, _INTEGER)
    return field(1, name) + field(2, value) + field(20, _FLOAT)


def _value(name: str) -> bytes:
    """A tensor of one window, of any number of tokens."""
    shape = b"".join(field(1, size) for size in (field(1, 1), field(2, "tokens"), field(1, WIDTH)))
    return field(1, name) + field(2, field(1, field(1, _FLOAT) + field(2, shape)))
