#!/usr/bin/env bash
# openai 3.57.0, httpx 0.28.1, respx 0.23.1, Python 3.11 and up.
#
# Since openai-python rests on httpx2, tools that patch httpx do not see its requests: with respx's mock in force a
# request of AsyncOpenAI passes by it and goes out to the network, where a test believed that it had an answer ready.
# Nothing warns: the mock only counts 0 calls. What fails comes with a cause that `except httpx.HTTPError` does not
# catch. Given an `httpx.AsyncClient` the same SDK is mocked as ever.
#
# Output seen:
#   own client: calls of the mock 0, APIConnectionError caused by httpx2.ConnectError, an httpx.HTTPError: False
#   given httpx.AsyncClient: calls of the mock 1, answered [1.0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "openai==3.57.0" "httpx==0.28.1" "respx==0.23.1"
cat > "$work/seen.py" <<'PYTHON'
import asyncio

import httpx
import openai
import respx

URL = "http://127.0.0.1:9/v1"  # nothing listens on the port named discard
REPLY = {
    "object": "list",
    "model": "m",
    "data": [{"object": "embedding", "index": 0, "embedding": [1.0]}],
    "usage": {"prompt_tokens": 1, "total_tokens": 1},
}


async def asked(http_client):
    with respx.mock(assert_all_called=False) as router:
        route = router.post(f"{URL}/embeddings").respond(json=REPLY)
        client = openai.AsyncOpenAI(api_key="k", base_url=URL, max_retries=0, http_client=http_client)
        try:
            reply = await client.embeddings.create(model="m", input="x", encoding_format="float")
            end = f"answered {reply.data[0].embedding}"
        except openai.APIConnectionError as error:
            cause = error.__cause__
            named = f"{type(cause).__module__.split('.')[0]}.{type(cause).__name__}"
            end = f"APIConnectionError caused by {named}, an httpx.HTTPError: {isinstance(cause, httpx.HTTPError)}"
        return f"calls of the mock {route.call_count}, {end}"


async def main():
    print("own client:", await asked(None))
    print("given httpx.AsyncClient:", await asked(httpx.AsyncClient()))


asyncio.run(main())
PYTHON
"$work/venv/bin/python" "$work/seen.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
own client: calls of the mock 0, APIConnectionError caused by httpx2.ConnectError, an httpx.HTTPError: False
given httpx.AsyncClient: calls of the mock 1, answered [1.0]
SEEN
echo "as described"
