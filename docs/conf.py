"""Sphinx's settings; ``make docs`` builds docs/_build/html from here."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # nbops.nn and nbops.keras import TensorFlow

here = Path(__file__).parent
sys.path[:0] = [str(here.parent), str(here / "extensions")]

import nbops  # noqa: E402

project = "nbops"
author = "The nbops developers"
copyright = "the nbops developers, BSD-3-Clause"
release = version = nbops.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "numpydoc", "sphinx_copybutton", "reference"]
exclude_patterns = ["_build", "extensions", "tutorial.md"]  # tutorial.ipynb is made from it
default_role = "py:obj"  # `relu` in a docstring links to it
highlight_language = "none"  # a block that names no language is output, not Python

html_theme = "furo"
html_title = f"nbops {version}"
html_static_path = ["static"]
html_css_files = ["style.css"]

# The notebook is checked in with its results; a test runs it.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc's sections say it, in words
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
