"""The few words of protobuf that an ONNX file is read and written with: whole numbers, float32 and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack

_NUMBER, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_SIZES = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number and the value of each field. What is repeated comes again."""
    at = 0
    while at < len(message):
        key, at = _read_number(message, at)
        kind = key & 7
        if kind == _NUMBER:
            value, at = _read_number(message, at)
            yield key >> 3, value
            continue
        size, at = _read_number(message, at) if kind == _BYTES else (_SIZES[kind], at)
        yield key >> 3, message[at : at + size]
        at += size


def field(number: int, value: int | float | str | bytes) -> bytes:
    if isinstance(value, int):
        return _number(number << 3 | _NUMBER) + _number(value)
    if isinstance(value, float):
        return _number(number << 3 | _FOUR_BYTES) + pack("<f", value)
    content = value.encode() if isinstance(value, str) else value
    return b"".join((_number(number << 3 | _BYTES), _number(len(content)), content))


def _read_number(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while message[at] >= 128:
        value |= (message[at] & 127) << shift
        shift, at = shift + 7, at + 1
    return value | message[at] << shift, at + 1


def _number(value: int) -> bytes:
    """Seven bits a byte, the lowest first. A negative one would be as long as 64 bits."""
    written = bytearray()
    value &= 2**64 - 1
    while value >= 128:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)
