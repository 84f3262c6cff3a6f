"""Runs every fault at DEBUG level with a key and texts that must not show, and prints all that can be printed.

On stdout what a program shows of its own accord; on stderr the log; in a file, tracebacks with the values of all
variables, and pickles.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import httpx

from aembed import AembedError, Record, RetryPolicy
from tests.hostile.jobs import KEY, at
from tests.service.faults import (
    Body,
    Cut,
    Drip,
    Fault,
    Flood,
    Hang,
    Mutate,
    Plan,
    Status,
    Truncate,
    gzip_bomb,
    html,
)
from tests.service.mutations import BROKEN, wrong
from tests.service.refusals import bad_input, bad_key, error, quota_exhausted
from tests.service.server import Server

TEXT = "Patient Waldemar Kanarienvogel, born 1961, is allergic to penicillin"


def echo(code: int) -> Status:
    return Status(code, error(f"key {KEY} is no good, Bearer {KEY}; the input {TEXT!r} was refused. {TEXT[:30]}"))


FAULTS: list[Fault | None] = [
    None,
    *[Status(code) for code in (400, 401, 402, 403, 404, 408, 409, 413, 418, 422, 429, 500, 503, 529)],
    *[echo(code) for code in (200, 400, 401, 403, 404, 422, 429, 500)],
    Status(422, {"detail": [{"loc": ["body", "input", 0], "msg": "bad", "input": TEXT}]}),
    Status(307, b"", [("location", "https://elsewhere.test/v1/embeddings")]),
    bad_key(KEY),
    bad_input(0),
    quota_exhausted(),
    html(),
    Body(KEY.encode()),
    Hang(),
    Drip(50.0),
    Truncate(),
    Flood(50_000_000),
    Flood(3_000_000, "headers"),
    gzip_bomb(10_000_000),
    *[Cut(after, reset=reset) for after in (0, 50, 400) for reset in (False, True)],
    *[Mutate(wrong(kind)) for kind in BROKEN],
]


def show(problem: BaseException, deep: BinaryIO) -> None:
    print(repr(problem), str(problem), vars(problem))
    traceback.print_exception(problem, file=sys.stdout)
    held = traceback.TracebackException.from_exception(problem.with_traceback(_library(problem)), capture_locals=True)
    deep.write("".join(held.format()).encode())
    deep.write(pickle.dumps((type(problem), problem.args, {k: str(v) for k, v in vars(problem).items()})))
    seen: BaseException | None = problem
    while (seen := seen.__cause__ or seen.__context__ if seen else None) is not None:
        print(repr(seen), vars(seen))


def _library(problem: BaseException) -> TracebackType | None:
    """Without the frames of this script, which hold the key that the simulated server echoes."""
    frame = problem.__traceback__
    while frame and "/aembed/" not in frame.tb_frame.f_code.co_filename:
        frame = frame.tb_next
    return frame


async def one(fault: Fault | None, client: httpx.AsyncClient | None, folder: Path, deep: BinaryIO) -> None:
    """The same fault twice, so that those that are forgiven once are met as well."""
    async with Server(script=Plan(fault, fault)) as server, at(server, timeout=0.3, http_client=client) as embedder:
        print(repr(embedder), repr(embedder._engine.provider), vars(embedder._engine.provider))
        for text in (TEXT, f"{TEXT} too"):
            try:
                embeddings = await embedder.embed_documents([text])
                print(embeddings, embeddings.failures, embeddings.report, *map(str, embeddings.failures))
            except AembedError as problem:
                show(problem, deep)
        try:
            print(await embedder.embed_into(folder / "canary.db", [Record("an id", TEXT)]))
            await embedder.embed_query(TEXT, timeout=2.0)
        except AembedError as problem:
            show(problem, deep)
        print(repr(embedder))


async def refused() -> None:
    server = Server(port=1)
    async with at(server, retry=RetryPolicy(0, 0.01, 0.01, 0.05)) as embedder:
        try:
            await embedder.embed_documents([TEXT])
        except AembedError as problem:
            print(repr(problem))


async def main(folder: Path) -> None:
    with (folder / "deep").open("wb") as deep:
        for fault in FAULTS:
            await one(fault, None, folder, deep)
            async with httpx.AsyncClient() as client:
                await one(fault, client, folder, deep)
        await refused()


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    asyncio.run(main(Path(sys.argv[1])), debug=False)
