"""Configuration of Sphinx: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

import samo

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "torch-samo"
author = copyright = "The torch-samo developers"
version = release = samo.__version__

extensions = [
    "catalogue",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosectionlabel",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",  # formulas without the network
]
exclude_patterns = ["_build", "_generated"]
suppress_warnings = ["autosectionlabel.*"]  # sections of the same name, on different pages

# Keeps "--" as typed: the generated pages quote options of the command line.
smartquotes = False

# In docstrings, single backticks are references to objects of this package, or else code.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
autosectionlabel_prefix_document = True

html_theme = "furo"
html_title = "torch-samo"
html_copy_source = False
