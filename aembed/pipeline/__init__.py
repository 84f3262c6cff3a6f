"""A job: records in, rows out (stages 1 to 9)."""
