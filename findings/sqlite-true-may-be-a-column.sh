#!/usr/bin/env bash
# SQLite 3.54.1, as apsw 3.54.1.0 brings it, Python 3.11 and up.
#
# The words TRUE and FALSE are constants only where no column of the tables in the statement has that name. A generated
# condition such as `WHERE true AND ...`, put together from parts, so means every row of one table and other rows of
# the next: here none of two, since the column TRUE holds 0 and NULL. Writing 1 in its place means every row everywhere.
#
# Output seen:
#   SQLite 3.54.1: WHERE true finds 2 of 2 rows of a plain table, 0 of 2 where a column is named TRUE
#   SQLite 3.54.1: WHERE 1 finds 2 of 2 rows of a plain table, 2 of 2 where a column is named TRUE
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "apsw==3.54.1.0"
cat > "$work/count.py" <<'PYTHON'
import apsw

connection = apsw.Connection(":memory:")
connection.execute("CREATE TABLE plain (id); INSERT INTO plain VALUES (1), (2)")
connection.execute('CREATE TABLE flags (id, "TRUE"); INSERT INTO flags VALUES (1, 0), (2, NULL)')
for word in ("true", "1"):
    plain, flags = (
        connection.execute(f"SELECT count(*) FROM {table} WHERE {word}").fetchone()[0] for table in ("plain", "flags")
    )
    print(
        f"SQLite {apsw.sqlite_lib_version()}: WHERE {word} finds {plain} of 2 rows of a plain table, "
        f"{flags} of 2 where a column is named TRUE"
    )
PYTHON
"$work/venv/bin/python" "$work/count.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
SQLite 3.54.1: WHERE true finds 2 of 2 rows of a plain table, 0 of 2 where a column is named TRUE
SQLite 3.54.1: WHERE 1 finds 2 of 2 rows of a plain table, 2 of 2 where a column is named TRUE
SEEN
echo "as described"
