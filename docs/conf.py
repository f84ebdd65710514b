"""The site of these pages, by Sphinx: `make docs`."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_site"))

project = "genretree"
author = "the authors of genretree"
project_copyright = "the authors of genretree, MIT licence"
version = release = version_of("genretree")

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "sphinx_click", "notebook"]
exclude_patterns = ["_build", "_site"]
root_doc = "index"

myst_heading_anchors = 3  # so that pages can point into each other, as they do on code hosts
myst_links_external_new_tab = False
suppress_warnings = ["myst.header"]  # CHANGELOG.md is one long list

default_role = "code"  # names in docstrings stand between single backticks
smartquotes_action = "qe"  # no dashes: options begin with two hyphens

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
numpydoc_show_class_members = False  # autodoc lists them itself
add_module_names = False

html_theme = "furo"
html_title = f"genretree {version}"
html_show_sphinx = False
html_copy_source = False
html_static_path: list[str] = []
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#9c2468", "color-brand-content": "#9c2468"},
    "dark_css_variables": {"color-brand-primary": "#f39ac7", "color-brand-content": "#f39ac7"},
}
if "GENRETREE_SITE" in os.environ:  # in a folder next to other versions, by .github/publish_site.py
    html_theme_options["announcement"] = f'genretree {version} · <a href="../versions.html">other versions</a>'
