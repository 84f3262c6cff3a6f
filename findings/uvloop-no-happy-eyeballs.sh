#!/usr/bin/env bash
# uvloop 0.23.0, Python 3.11 and up.
#
# uvloop's create_connection is not asyncio's: it does not know `happy_eyeballs_delay` and `interleave`, which asyncio
# has had since Python 3.8, and raises TypeError. A library that sets them works in every test on asyncio and fails at
# its first connection in a web app, because uvicorn[standard] takes uvloop by itself where it is installed.
#
# Output seen:
#   asyncio: connected
#   uvloop: TypeError for happy_eyeballs_delay
#   uvloop: TypeError for interleave
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "uvloop==0.23.0"
cat > "$work/connect.py" <<'PYTHON'
import asyncio

import uvloop


async def connect(**options):
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, port, **options)
        transport.close()
        return "connected"
    except TypeError:
        return f"TypeError for {next(iter(options))}"
    finally:
        server.close()


print("asyncio:", asyncio.run(connect(happy_eyeballs_delay=0.25, interleave=1)))
for option, value in {"happy_eyeballs_delay": 0.25, "interleave": 1}.items():
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print("uvloop:", runner.run(connect(**{option: value})))
PYTHON
"$work/venv/bin/python" "$work/connect.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
asyncio: connected
uvloop: TypeError for happy_eyeballs_delay
uvloop: TypeError for interleave
SEEN
echo "as described"
