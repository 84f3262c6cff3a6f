"""What the SQLite store and the SQLite column are made of, each file as its namesake in `_postgresql`."""
