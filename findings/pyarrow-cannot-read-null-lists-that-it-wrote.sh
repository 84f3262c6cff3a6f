#!/usr/bin/env bash
# pyarrow 25.0.1: a column of fixed-size lists with a NULL among them is written to Parquet, and cannot be read again.
#
# Vectors are such a column, and NULL is a row that has none yet. write_table() says nothing; read_table() and
# ParquetFile.iter_batches() raise ArrowInvalid. Without the NULL, or as lists of any size, the same column is read.
#
# Output seen:
#   fixed-size, NULL among them: ArrowInvalid
#   fixed-size, no NULL: 3 rows
#   of any size, NULL among them: 3 rows
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyarrow==25.0.1
cat > "$work/read.py" <<'PYTHON'
import sys

import pyarrow as pa
from pyarrow import parquet

FIXED, ANY = pa.list_(pa.float32(), 2), pa.list_(pa.float32())
HOLEY, WHOLE = [[1.0, 2.0], None, [3.0, 4.0]], [[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]]
for name, values, kind in (
    ("fixed-size, NULL among them", HOLEY, FIXED),
    ("fixed-size, no NULL", WHOLE, FIXED),
    ("of any size, NULL among them", HOLEY, ANY),
):
    parquet.write_table(pa.table({"vector": pa.array(values, kind)}), sys.argv[1])
    try:
        print(f"{name}: {parquet.read_table(sys.argv[1]).num_rows} rows")
    except pa.ArrowInvalid as error:
        print(f"{name}: {type(error).__name__}")
PYTHON
"$work/venv/bin/python" "$work/read.py" "$work/rows.parquet" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
fixed-size, NULL among them: ArrowInvalid
fixed-size, no NULL: 3 rows
of any size, NULL among them: 3 rows
SEEN
echo "as described"
