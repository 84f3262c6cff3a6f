from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stage.postgres import VARIABLE, Pooler, run_sql

own_server = pytest.mark.skipif(VARIABLE in os.environ, reason="the server is not ours")


async def test_the_server_has_pgvector(database: str) -> None:
    (row,) = await run_sql(database, "SELECT '[1,2]'::vector(2) <-> '[1,3]'::vector AS distance")
    assert row["distance"] == 1.0


@own_server
@pytest.mark.parametrize("ending", ["server.stop()", "os._exit(9)", "os.kill(os.getpid(), 9)"])
def test_the_server_ends_with_its_process(ending: str) -> None:
    code = "import os; from tests.stage.postgres import Server; server = Server(); print(server.folder, flush=True); "
    process = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=False)
    folder = Path(process.stdout.strip())
    assert folder.name.startswith("aembed-postgres-"), process.stderr
    assert comes_true(lambda: not folder.exists())


@pytest.mark.parametrize("ending", ["pooler.stop()", "os._exit(9)", "os.kill(os.getpid(), 9)"])
def test_the_pooler_ends_with_its_process(pooler: Pooler, ending: str) -> None:
    url = "postgresql://postgres@127.0.0.1/postgres"
    code = f"import os; from tests.stage.postgres import Pooler; pooler = Pooler({url!r}); "
    code += f"print(pooler.port, flush=True); {ending}"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    with socket.socket() as unserved:
        assert comes_true(lambda: unserved.connect_ex(("127.0.0.1", int(process.stdout))) != 0)


def comes_true(what: Callable[[], bool]) -> bool:
    until = time.monotonic() + 20
    while not what() and time.monotonic() < until:
        time.sleep(0.05)
    return what()
