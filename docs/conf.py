"""Sphinx: the site that `nox -s docs` builds. A warning fails the build; nothing is fetched from the network."""

from __future__ import annotations

project = "aembed"
html_title = "aembed"
html_theme = "furo"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns: list[str] = []
myst_heading_anchors = 4
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
templates_path: list[str] = []
