"""The documentation site: `python -m sphinx -W docs build/docs`. Its pages also read well on a forge."""

import sys
from pathlib import Path

# This tree's package, whatever is installed, and the extensions beside this file.
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from ana._version import __version__  # noqa: E402 - see above

project = "ANA"
author = "The ANA authors"
copyright = author  # noqa: A001 - Sphinx's name
release = version = __version__
html_title = f"ANA {__version__}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "site_links",
    "site_docstrings",
]
exclude_patterns = ["_*"]
nitpicky = True
# A TypeVar: signatures of overloads are read from the source, where it has no module.
nitpick_ignore = [("py:class", "Result")]
# Dashes only: quotes in texts are often code.
smartquotes_action = "D"

# The anchors that forges give to headings, too.
myst_heading_anchors = 4

# As docstrings mean it: see site_docstrings.py.
default_role = "literal"
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
# Large, and nothing of them is in the reference.
autodoc_mock_imports = ["mpi4py", "ray"]

html_theme = "furo"
pygments_dark_style = "github-dark"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_use_index = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"
