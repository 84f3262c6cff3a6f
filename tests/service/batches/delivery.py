"""Writes an answer of the batch API to its connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from tests.service.batches.wire import Answer
from tests.service.connection import Connection
from tests.service.delivery import JSON, head


async def deliver_answer(connection: Connection, answer: Answer, number: int) -> None:
    """Raises ConnectionResetError if the client is gone."""
    if answer.hangs:
        await asyncio.Event().wait()
    if answer.cut_after == 0:
        connection.close()
        return
    framing = ("transfer-encoding", "chunked") if answer.size is None else ("content-length", str(answer.size))
    usual = [("content-type", JSON), ("x-request-id", f"req_batch_{number:026x}"), framing]
    await connection.write(head(answer.status, usual, answer.headers))
    left = answer.cut_after
    for piece in _pieces(answer):
        await connection.write(piece if left is None else piece[:left])
        if left is not None and (left := left - len(piece)) <= 0:
            break
    if left is not None:
        connection.close()


def _pieces(answer: Answer) -> Iterator[bytes]:
    for piece in answer.pieces():
        if piece:
            yield b"%x\r\n%b\r\n" % (len(piece), piece) if answer.size is None else piece
    if answer.size is None:
        yield b"0\r\n\r\n"
