"""The map of a store: a file with an int8 copy of its vectors, which tells in a few milliseconds which rows can be
among the nearest ones. Those rows alone are read from the database and scored exactly.

Here is what a map holds and proves, whatever store it is of: `_codes` has the copy and how far it can be off,
`_products` the integer arithmetic, `_file` the format, `_shortlist` the choice.
"""
