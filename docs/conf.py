"""How Sphinx builds these pages: `python -m sphinx -W -b html docs site`, without network or GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import cellkit

sys.path.insert(0, str(Path(__file__).resolve().parent / "_ext"))

project = "cellkit"
author = "the authors of cellkit"
copyright = "the authors of cellkit, BSD-3-Clause"  # noqa: A001 - the name Sphinx wants
version = release = cellkit.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_click",
    "formulas",
    "stagepages",
    "recipepages",
]
exclude_patterns = ["_ext", "_static", "README.md"]
# Docstrings put names into single backticks.
default_role = "code"
nitpicky = False

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = "cellkit"
html_static_path = ["_static"]
html_css_files = ["pictures.css"]
html_show_sourcelink = False
html_copy_source = False
# Formulas become MathML, which browsers show by themselves: nothing is fetched.
html_math_renderer = "mathml"
