"""A Sphinx extension: tables of notebooks get a caption above them and a number of their own.

MyST-NB wraps whatever a cell with the metadata `mystnb: figure` shows as a figure; a wrapped
output that holds no image is a table.
"""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.writers.html5 import HTML5Translator


class TableFigure(nodes.figure):
    """A table with a caption, numbered among the tables."""


class NumberTables(SphinxTransform):
    """Turns the figures that hold no image into tables."""

    default_priority = 700  # before Sphinx collects what has a number

    def apply(self) -> None:
        """Go through one document."""
        for figure in list(self.document.findall(nodes.figure)):
            if next(figure.findall(nodes.image), None) is None:
                figure.__class__ = TableFigure
                figure["classes"].append("table")
                captions = [node for node in figure if isinstance(node, nodes.caption)]
                figure[:] = captions + [node for node in figure if node not in captions]


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    writer = (HTML5Translator.visit_figure, HTML5Translator.depart_figure)
    app.add_enumerable_node(TableFigure, "table", html=writer)
    app.add_transform(NumberTables)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
