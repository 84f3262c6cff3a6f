"""A real uvicorn, or another server, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def serving(
    app: str, folder: Path, environment: Mapping[str, str], *options: str, program: tuple[str, str] | None = None
) -> AsyncIterator[str]:
    """Its URL. At the end it is told to stop, and must do so by itself, with nothing to complain of.

    `program` is a script that serves by itself, and its port.
    """
    port = program[1] if program else str(free_port())
    command = program or ("-m", "uvicorn", app, "--port", port, *options)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error::ResourceWarning", *command),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert process.stderr
    said = b""
    async with asyncio.timeout(30):
        while b"running on" not in said.lower():
            line = await process.stderr.readline()
            said += line
            assert line, said.decode()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        _, rest = await process.communicate()
        said += rest
    assert b"Traceback" not in said, said.decode()
    assert b"shutdown complete" in said or b"Stopping parent process" in said, said.decode()
