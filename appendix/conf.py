"""Sphinx settings of the appendix: it renders executed notebooks and runs nothing."""

project = "CaRot compendium"
author = "The authors of the CaRot compendium"
html_title = "CaRot compendium"
extensions = ["myst_nb", "sphinx-mathjax-offline"]
nb_execution_mode = "off"  # papermill has run them
myst_enable_extensions = ["dollarmath", "colon_fence"]
numfig = True
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_theme = "sphinx_book_theme"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}
html_copy_source = False
html_show_sourcelink = False
templates_path = []
exclude_patterns = []
