#!/usr/bin/env bash
# uvloop 0.23.0: writing to a transport whose peer has closed raises RuntimeError, where asyncio's ignores the write.
#
# A server answers and closes its side while the client is about to write the last bytes, or none at all. The protocol
# is told by connection_lost. asyncio's transport drops what is written after that; uvloop's write() and writelines()
# raise, write() also for b"". Code that writes an upload in pieces has to ask is_closing() before each of them.
#
# Output seen:
#   asyncio: write dropped, writelines dropped
#   uvloop: write RuntimeError, writelines RuntimeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q uvloop==0.23.0
cat > "$work/write.py" <<'PYTHON'
import asyncio
import sys

import uvloop


class Client(asyncio.Protocol):
    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, error):
        self.lost.set_result(error)


def outcome(call, data):
    try:
        call(data)
    except RuntimeError:
        return "RuntimeError"
    return "dropped"


async def main():
    async def serve(reader, writer):
        await reader.readexactly(5)
        writer.write(b"done")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, *server.sockets[0].getsockname())
    client.transport.write(b"hello")
    await client.lost
    seen = f"write {outcome(client.transport.write, b'')}, writelines {outcome(client.transport.writelines, [b'x'])}"
    server.close()
    return seen


name, factory = sys.argv[1], {"asyncio": None, "uvloop": uvloop.new_event_loop}[sys.argv[1]]
with asyncio.Runner(loop_factory=factory) as runner:
    print(f"{name}: {runner.run(main())}")
PYTHON
for loop in asyncio uvloop; do "$work/venv/bin/python" "$work/write.py" "$loop"; done | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
asyncio: write dropped, writelines dropped
uvloop: write RuntimeError, writelines RuntimeError
SEEN
