#!/usr/bin/env bash
# lancedb 0.40.0, Python 3.11 and up, Linux; needs strace.
#
# merge_insert and add return when the rows are in the page cache. No file that lancedb writes to a local folder is
# synced, nor is a folder, also not when the table is optimized or the process ends: after a power cut rows that were
# acknowledged may be gone, or a version may name files that are empty. duckdb syncs its log once a commit.
#
# Output seen:
#   lancedb 0.40.0: 20 merges, 2000 rows, 0 fsync and fdatasync
#   duckdb 1.4.4: 20 inserts, 2000 rows, at least one fdatasync each: True
set -euo pipefail
command -v strace > /dev/null || { echo "install strace"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "lancedb==0.40.0" "pyarrow>=16" "duckdb==1.4.4" numpy
cat > "$work/merge.py" <<'PYTHON'
import sys

import lancedb
import numpy as np
import pyarrow

kind = pyarrow.list_(pyarrow.float32(), 64)
schema = pyarrow.schema([("id", pyarrow.string()), ("vector", kind)])
table = lancedb.connect(sys.argv[1]).create_table("rows", schema=schema)
for number in range(20):
    ids = pyarrow.array([f"{number}-{row}" for row in range(100)])
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.ones(6_400, np.float32)), 64)
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    merge.execute(pyarrow.Table.from_arrays([ids, vectors], schema=schema))
table.optimize()
print(table.count_rows())
PYTHON
cat > "$work/insert.py" <<'PYTHON'
import sys

import duckdb

connection = duckdb.connect(f"{sys.argv[1]}/rows.db")
connection.execute("CREATE TABLE rows (id VARCHAR PRIMARY KEY, vector FLOAT[64])")
for number in range(20):
    connection.execute(f"INSERT INTO rows SELECT '{number}-' || range, array_value({', '.join(['1'] * 64)}) FROM range(100)")
print(connection.execute("SELECT count(*) FROM rows").fetchone()[0])
PYTHON
syncs() {
    mkdir "$work/$1"
    strace -f -e trace=fsync,fdatasync,sync_file_range,sync,syncfs,msync -o "$work/$1.trace" \
        "$work/venv/bin/python" "$work/$1.py" "$work/$1" > "$work/$1.rows"
    grep -cE '(fsync|fdatasync|sync_file_range|sync|syncfs|msync)\(' "$work/$1.trace" || true
}
merged=$(syncs merge)
inserted=$(syncs insert)
{
    echo "lancedb 0.40.0: 20 merges, $(cat "$work/merge.rows") rows, $merged fsync and fdatasync"
    echo "duckdb 1.4.4: 20 inserts, $(cat "$work/insert.rows") rows, at least one fdatasync each: $([ "$inserted" -ge 20 ] && echo True || echo False)"
} | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
lancedb 0.40.0: 20 merges, 2000 rows, 0 fsync and fdatasync
duckdb 1.4.4: 20 inserts, 2000 rows, at least one fdatasync each: True
SEEN
echo "as described"
