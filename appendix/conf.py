"""Sphinx settings of the appendix: it renders executed notebooks and runs nothing."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

project = "CaRot compendium"
author = "The authors of the CaRot compendium"
html_title = "CaRot compendium"
extensions = ["myst_nb", "sphinx-mathjax-offline", "sphinxcontrib.bibtex", "numbered_tables"]
nb_code_prompt_show = nb_code_prompt_hide = "Code"
nb_execution_mode = "off"  # papermill has run them
myst_enable_extensions = ["dollarmath", "colon_fence"]
numfig = True
numfig_format = {"figure": "Figure %s", "table": "Table %s"}
math_numfig = True
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "label"
bibtex_default_style = "plain"
html_static_path = ["_static"]
html_css_files = ["appendix.css"]
html_theme = "sphinx_book_theme"
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": False,
    "navbar_persistent": [],
}
html_context = {"default_mode": "auto"}
html_copy_source = False
html_show_sourcelink = False
templates_path = []
exclude_patterns = []
