#!/usr/bin/env bash
# botocore 1.44.8, Python 3.11 and up.
#
# With logging at DEBUG the logger botocore.auth writes the canonical request of each request that is signed (Signature
# Version 4). Its headers stand in it with their values, and x-amz-security-token is one of them: the session token of
# temporary credentials is in the log as it is. The secret key is not.
#
# The credentials here are made up; nothing is sent.
#
# Output seen:
#   botocore 1.44.8: the session token is in the log of botocore.auth: True
#   botocore 1.44.8: the secret key is in the log of botocore.auth: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "botocore==1.44.8"
cat > "$work/sign.py" <<'PYTHON'
import io
import logging
from importlib.metadata import version

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

log = io.StringIO()
logging.basicConfig(stream=log, level=logging.DEBUG)
credentials = Credentials("AKIDEXAMPLE", "made-up-secret-key", "made-up-session-token")
url = "https://bedrock-runtime.eu-central-1.amazonaws.com/model/amazon.titan-embed-text-v2%3A0/invoke"
SigV4Auth(credentials, "bedrock", "eu-central-1").add_auth(AWSRequest("POST", url, data=b"{}"))
for what, value in (("session token", credentials.token), ("secret key", credentials.secret_key)):
    print(f"botocore {version('botocore')}: the {what} is in the log of botocore.auth: {value in log.getvalue()}")
PYTHON
"$work/venv/bin/python" "$work/sign.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
botocore 1.44.8: the session token is in the log of botocore.auth: True
botocore 1.44.8: the secret key is in the log of botocore.auth: False
SEEN
echo "as described"
