#!/usr/bin/env bash
# pyarrow 25.0.1: ParquetFile(path).iter_batches() keeps in memory all that it has read of the file.
#
# It reads ahead (pre_buffer=True is the default), and what was read of one row group stays when the next one begins: at
# the end the whole file is held, though each batch was dropped at once. With pre_buffer=False it is one row group, and
# with a buffer_size besides only some pages.
#
# Output seen (a file of 40 row groups; of its size so much is allocated before the last batch is taken):
#   ParquetFile(path): all of it
#   pre_buffer=False: a small part
#   pre_buffer=False, buffer_size=1_000_000: a small part
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyarrow==25.0.1
cat > "$work/read.py" <<'PYTHON'
import os
import sys

import pyarrow as pa
from pyarrow import parquet

path = sys.argv[1]
texts = pa.table({"text": [os.urandom(128).hex() for _ in range(5_000)]})
with parquet.ParquetWriter(path, texts.schema, compression="none", use_dictionary=False) as writer:
    for _ in range(40):
        writer.write_table(texts)
del texts
size = os.path.getsize(path)


def share(**options):
    most = 0
    for batch in parquet.ParquetFile(path, **options).iter_batches(1_024):
        del batch
        most = max(most, pa.total_allocated_bytes())
    return "all of it" if most > 0.9 * size else "a small part" if most < 0.15 * size else f"{most / size:.2f}"


print("ParquetFile(path):", share())
print("pre_buffer=False:", share(pre_buffer=False))
print("pre_buffer=False, buffer_size=1_000_000:", share(pre_buffer=False, buffer_size=1_000_000))
PYTHON
"$work/venv/bin/python" "$work/read.py" "$work/rows.parquet" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
ParquetFile(path): all of it
pre_buffer=False: a small part
pre_buffer=False, buffer_size=1_000_000: a small part
SEEN
echo "as described"
