#!/usr/bin/env bash
# msgspec 0.23.0: a field of the type msgspec.Raw is taken over without a look at its bytes.
#
# A document that is no UTF-8 is refused where the same field is a str. As a Raw it decodes without an error, and so does
# a list of such fields; the error comes when the Raw is decoded, which may be in another place, or never. Whoever uses
# Raw to put a decision off has to expect there what the first pass refuses elsewhere.
#
# Output seen:
#   as a str: DecodeError
#   as a Raw: b'"\xff"'
#   when the Raw is decoded: DecodeError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q msgspec==0.23.0
cat > "$work/read.py" <<'PYTHON'
import msgspec


class Text(msgspec.Struct):
    value: str


class Unread(msgspec.Struct):
    value: msgspec.Raw


document = b'{"value": "\xff"}'


def said(type, content):
    try:
        return bytes(msgspec.json.decode(content, type=type).value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return type_of(error)


def type_of(error):
    return type(error).__name__


print("as a str:", said(Text, document))
unread = msgspec.json.decode(document, type=Unread).value
print("as a Raw:", bytes(unread))
try:
    msgspec.json.decode(unread, type=str)
except (msgspec.DecodeError, UnicodeDecodeError) as error:
    print("when the Raw is decoded:", type_of(error))
PYTHON
"$work/venv/bin/python" "$work/read.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
as a str: DecodeError
as a Raw: b'"\xff"'
when the Raw is decoded: DecodeError
SEEN
echo "as described"
