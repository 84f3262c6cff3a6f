#!/usr/bin/env bash
# SQLite 3.54.1, as apsw 3.54.1.0 brings it, Python 3.11 and up, on Linux (/proc/self/io).
#
# A trigger that does nothing (WHEN 0) makes each INSERT of a transaction keep a copy of every page that it changes,
# beyond 64 KiB in a temporary file: some 65 KB for a row of 500 bytes in pages of 32 KiB. That is so for a statement that
# could be aborted half way. NOT NULL and UNIQUE are reasons to abort, and so is any function, as CURRENT_TIMESTAMP.
# INSERT OR FAIL with values alone costs what it costs without the trigger.
#
# Output seen:
#   SQLite 3.54.1, 2,000 rows of 500 bytes: no trigger: less than 5 MB written
#   SQLite 3.54.1, 2,000 rows of 500 bytes: a trigger with WHEN 0: more than 50 MB written
#   SQLite 3.54.1, 2,000 rows of 500 bytes: the same, INSERT OR FAIL: less than 5 MB written
#   SQLite 3.54.1, 2,000 rows of 500 bytes: the same, with CURRENT_TIMESTAMP: more than 50 MB written
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "apsw==3.54.1.0"
cat > "$work/count.py" <<'PYTHON'
import os
import sys

import apsw


def written() -> int:
    with open("/proc/self/io") as file:
        return int(dict(line.split(": ") for line in file)["wchar"])


def trial(number: int, name: str, insert: str, trigger: bool) -> None:
    connection = apsw.Connection(os.path.join(sys.argv[1], f"{number}.db"))
    for pragma in ("page_size = 32768", "journal_mode = WAL", "synchronous = OFF"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE notes (id TEXT PRIMARY KEY NOT NULL, text TEXT NOT NULL, at TEXT NOT NULL)")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO notes VALUES (?, ?, '')", [(f"a {n}", "x" * 500) for n in range(3000)])
    connection.execute("COMMIT")
    if trigger:
        connection.execute("CREATE TRIGGER idle AFTER INSERT ON notes WHEN 0 BEGIN SELECT 1; END")
    connection.execute("BEGIN")
    before = written()
    connection.executemany(insert, [(f"b {n}", "x" * 500) for n in range(2000)])
    megabytes = (written() - before) / 1e6
    connection.execute("COMMIT")
    told = "less than 5 MB" if megabytes < 5 else "more than 50 MB" if megabytes > 50 else f"{megabytes:.0f} MB"
    print(f"SQLite {apsw.sqlite_lib_version()}, 2,000 rows of 500 bytes: {name}: {told} written")


trial(0, "no trigger", "INSERT INTO notes VALUES (?, ?, '')", False)
trial(1, "a trigger with WHEN 0", "INSERT INTO notes VALUES (?, ?, '')", True)
trial(2, "the same, INSERT OR FAIL", "INSERT OR FAIL INTO notes VALUES (?, ?, '')", True)
trial(3, "the same, with CURRENT_TIMESTAMP", "INSERT OR FAIL INTO notes VALUES (?, ?, CURRENT_TIMESTAMP)", True)
PYTHON
"$work/venv/bin/python" "$work/count.py" "$work" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
SQLite 3.54.1, 2,000 rows of 500 bytes: no trigger: less than 5 MB written
SQLite 3.54.1, 2,000 rows of 500 bytes: a trigger with WHEN 0: more than 50 MB written
SQLite 3.54.1, 2,000 rows of 500 bytes: the same, INSERT OR FAIL: less than 5 MB written
SQLite 3.54.1, 2,000 rows of 500 bytes: the same, with CURRENT_TIMESTAMP: more than 50 MB written
SEEN
echo "as described"
