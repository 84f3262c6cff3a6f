#!/usr/bin/env bash
# msgspec 0.22.0 and 0.23.0, Python 3.11 and up.
#
# Bytes that are no UTF-8, inside a JSON string, are UnicodeDecodeError in 0.22.0 and msgspec.DecodeError in 0.23.0. Both
# are ValueErrors, so what catches that goes on; what tells a file in another encoding from one that is no JSON by the
# class of the error (to say "convert the file") says something else after an upgrade of a minor version.
#
# Output seen:
#   0.22.0: UnicodeDecodeError, a DecodeError: False, a ValueError: True
#   0.23.0: DecodeError, a DecodeError: True, a ValueError: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/decode.py" <<'PYTHON'
import msgspec

try:
    msgspec.json.decode(b'{"name": "caf\xe9"}')  # Latin-1
except Exception as error:
    is_own, is_value = isinstance(error, msgspec.DecodeError), isinstance(error, ValueError)
    print(f"{msgspec.__version__}: {type(error).__name__}, a DecodeError: {is_own}, a ValueError: {is_value}")
PYTHON
for version in 0.22.0 0.23.0; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install -q "msgspec==$version"
    "$work/$version/bin/python" "$work/decode.py"
done | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
0.22.0: UnicodeDecodeError, a DecodeError: False, a ValueError: True
0.23.0: DecodeError, a DecodeError: True, a ValueError: True
SEEN
echo "as described"
