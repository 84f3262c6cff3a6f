"""The pages of the documentation, what builds a site of them (conf.py), and what writes one of them."""
