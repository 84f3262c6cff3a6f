#!/usr/bin/env bash
# SQLite 3.44.2, as apsw 3.44.2.0 brings it, and every earlier one with json_each; 3.45 and later read it right.
#
# A text in JSON ends at \u0000 where json_each and json_extract read it, as a value and as a key: "a\u0000b" is equal
# to 'a'. A filter for one text so finds the rows of others. Debian 12 has SQLite 3.40, Ubuntu 22.04 has 3.37.
#
# Output seen:
#   SQLite 3.44.2: the value "a\u0000b" is 'a': yes; the key "a\u0000b" is 'a': yes
#   SQLite 3.54.1: the value "a\u0000b" is 'a': no; the key "a\u0000b" is 'a': no
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
cat > "$work/read.py" <<'PYTHON'
import apsw

connection = apsw.Connection(":memory:")
text = '{"a\\u0000b": "a\\u0000b"}'
key, value = connection.execute("SELECT key = 'a', value = 'a' FROM json_each(?)", (text,)).fetchone()
said = ["no", "yes"]
print(
    f"SQLite {apsw.sqlite_lib_version()}: the value \"a\\u0000b\" is 'a': {said[value]}; "
    f"the key \"a\\u0000b\" is 'a': {said[key]}"
)
PYTHON
for version in 3.44.2.0 3.54.1.0; do
    "$work/venv/bin/pip" install -q "apsw==$version"
    "$work/venv/bin/python" "$work/read.py"
done | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
SQLite 3.44.2: the value "a\u0000b" is 'a': yes; the key "a\u0000b" is 'a': yes
SQLite 3.54.1: the value "a\u0000b" is 'a': no; the key "a\u0000b" is 'a': no
SEEN
echo "as described"
