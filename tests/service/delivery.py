"""Writes one exchange to its connection: the proper reply, or the scripted fault."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from email.utils import formatdate
from typing import Any

import msgspec

from tests.service import refusals
from tests.service.connection import Connection
from tests.service.faults import Body, Cut, Drip, Fault, Flood, Framing, Hang, Headers, Late, Mutate, Status, Truncate
from tests.service.service import Exchange

_REASONS = {200: "OK", 307: "Temporary Redirect", 400: "Bad Request", 429: "Too Many Requests", 500: "Server Error"}
_FLOOD_CHUNK = b" " * 65_536
_DRIPS_PER_SECOND = 20
_ONE_WRITE_BYTES = 65_536
JSON = "application/json"


def head(code: int, *layers: Headers) -> bytes:
    """A later layer replaces the names that it has; within one layer a name may stand twice."""
    kept: list[tuple[str, str]] = []
    for layer in layers:
        names = {name for name, _ in layer}
        kept = [pair for pair in kept if pair[0] not in names] + list(layer)
    lines = [f"HTTP/1.1 {code} {_REASONS.get(code, 'Status')}", *(f"{name}: {value}" for name, value in kept)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def message(body: bytes, code: int = 200, headers: Iterable[Headers] = (), framing: Framing = "length") -> bytes:
    """A whole HTTP reply."""
    match framing:
        case "length":
            return head(code, _usual(("content-length", str(len(body)))), *headers) + body
        case "chunked":
            chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            return head(code, _usual(("transfer-encoding", "chunked")), *headers) + chunks
        case "close":
            return head(code, _usual(("connection", "close")), *headers) + body


def _usual(*more: tuple[str, str]) -> Headers:
    return [("date", formatdate(usegmt=True)), ("content-type", JSON), *more]


async def deliver(connection: Connection, exchange: Exchange, seconds: float) -> None:
    """Writes the answer `seconds` after its request arrived. Raises ConnectionResetError if the client is gone."""
    loop = asyncio.get_running_loop()
    if seconds:
        await asyncio.sleep(exchange.at + seconds - loop.time())
    headers = _headers(exchange, loop.time())
    if exchange.fault is None:
        await _reply(connection, exchange, headers)
    else:
        await _fail(connection, exchange, exchange.fault, headers)


async def _reply(connection: Connection, exchange: Exchange, headers: Headers) -> None:
    assert exchange.call is not None
    size = exchange.call.pieces_bytes()
    if size is None or size < _ONE_WRITE_BYTES:
        await connection.write(message(_proper(exchange), headers=[headers]))
        return
    await connection.write(head(200, _usual(("content-length", str(size))), headers))
    for piece in exchange.call.pieces():
        await connection.write(piece)


def intact(fault: Fault | None) -> bool:
    """Whether what `deliver` wrote was the whole, right reply."""
    match fault:
        case None | Late() | Drip() | Mutate(intact=True) | Cut(after_bytes=None):
            return True
        case _:
            return False


def _proper(exchange: Exchange) -> bytes:
    assert exchange.call is not None
    return b"".join(exchange.call.pieces())


def _edited(exchange: Exchange, fault: Mutate) -> bytes:
    assert exchange.call is not None
    changed: Any = fault.change(exchange.call.as_json())
    return changed if isinstance(changed, bytes) else msgspec.json.encode(changed)


def _headers(exchange: Exchange, now: float) -> Headers:
    return [
        ("x-request-id", f"req_{exchange.number:032x}"),
        ("openai-processing-ms", str(round((now - exchange.at) * 1000))),
        ("openai-version", "2020-10-01"),
        *exchange.headers.items(),
    ]


async def _fail(connection: Connection, exchange: Exchange, fault: Fault, own: Headers) -> None:
    match fault:
        case Status(code, body, headers):
            await connection.write(message(_status_body(code, body), code, [own, headers]))
        case Body(content, code, content_type, headers, framing):
            layers = [own, [("content-type", content_type)], headers]
            await connection.write(message(content, code, layers, framing))
            _end_if_unframed(connection, framing)
        case Hang():
            await asyncio.Event().wait()
        case Late(seconds):
            await asyncio.sleep(seconds)
            await _reply(connection, exchange, own)
        case Cut(after_bytes, reset, framing):
            await connection.write(message(_proper(exchange), headers=[own], framing=framing)[:after_bytes])
            connection.reset() if reset else connection.close()
        case Truncate(share):
            reply = _proper(exchange)
            await connection.write(message(reply[: int(len(reply) * share)], headers=[own]))
        case Drip(bytes_per_second):
            await _drip(connection, message(_proper(exchange), headers=[own]), bytes_per_second)
        case Flood():
            await _flood(connection, fault, own)
        case Mutate():
            await connection.write(message(_edited(exchange, fault), headers=[own]))


def _status_body(code: int, body: Mapping[str, Any] | bytes | None) -> bytes:
    if isinstance(body, bytes):
        return body
    return msgspec.json.encode(refusals.usual_body(code) if body is None else body)


def _end_if_unframed(connection: Connection, framing: Framing) -> None:
    if framing == "close":
        connection.close()


async def _drip(connection: Connection, reply: bytes, bytes_per_second: float) -> None:
    size = max(1, int(bytes_per_second / _DRIPS_PER_SECOND))
    for start in range(0, len(reply), size):
        await asyncio.sleep(size / bytes_per_second)
        await connection.write(reply[start : start + size])


async def _flood(connection: Connection, fault: Flood, own: Headers) -> None:
    for chunk in _flood_chunks(fault, own):
        await asyncio.sleep(0)
        await connection.write(chunk)
    connection.close()


def _flood_chunks(fault: Flood, own: Headers) -> Iterator[bytes]:
    times = -(-fault.size_bytes // len(_FLOOD_CHUNK))
    if fault.where == "headers":
        yield head(200, own, _usual())[:-2]
        yield from (b"x-more-%d: %b\r\n" % (i, b"x" * 65_000) for i in range(times))
        return
    framing = {
        "length": ("content-length", str(times * len(_FLOOD_CHUNK))),
        "chunked": ("transfer-encoding", "chunked"),
        "close": ("connection", "close"),
    }
    yield head(200, own, _usual(framing[fault.framing]))
    chunked = b"%x\r\n%b\r\n" % (len(_FLOOD_CHUNK), _FLOOD_CHUNK)
    yield from (chunked if fault.framing == "chunked" else _FLOOD_CHUNK for _ in range(times))
    if fault.framing == "chunked":
        yield b"0\r\n\r\n"
