"""Executed notebooks -> HTML files that look like the report and need nothing from the network.

nbconvert walks the cells; text goes through the report's Markdown (formulas become MathML), pictures keep their alt
text, and a widget is replaced by the still picture that it left beside it. Links to notebooks lead to their pages.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import DictLoader, pass_context
from nbconvert.exporters.html import HTMLExporter
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from ..config import UserError, write_whole
from .page import ASSETS, check_offline, enlargeable, markdown_parser, mathml, picture, whole_page

WIDGET = "application/vnd.jupyter.widget-view+json"
TEMPLATE = """{%- extends 'basic/index.html.j2' -%}
{% block data_png scoped %}{{ output | still_picture }}{% endblock %}
{% block data_latex scoped %}{{ output.data['text/latex'] | formula }}{% endblock %}
{% block data_widget_view scoped %}{% endblock %}
"""


class OfflineExporter(HTMLExporter):
    """nbconvert's own walk through the cells with our Markdown, formulas and pictures."""

    def __init__(self, base: Path) -> None:
        self.parser = markdown_parser(base)
        super().__init__(extra_loaders=[DictLoader({"offline.html.j2": TEMPLATE})], template_file="offline.html.j2")

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """Markdown of a cell or of an output."""
        return re.sub(r'(<a href="[\w./-]+)\.ipynb"', r'\1.html"', self.parser.render(source))

    def default_filters(self) -> Iterator[tuple[str, Any]]:
        """nbconvert's filters with ours in their places."""
        yield from super().default_filters()
        yield from {"markdown2html": self.markdown2html, "formula": formula, "still_picture": still_picture}.items()


def formula(source: str) -> str:
    """A text/latex output as MathML."""
    tex = source.strip()
    return mathml(tex.strip("$"), tex.startswith("$$"))


def still_picture(output: NotebookNode) -> str:
    """The PNG of an output, with its alt text."""
    import base64

    alt = output.metadata.get("image/png", {}).get("alt", "Figure")
    return enlargeable(picture(base64.b64decode(output.data["image/png"]), alt))


def without_widgets(notebook: NotebookNode) -> NotebookNode:
    """Live views and their stored state taken out; their still pictures stay."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("data", {}).pop(WIDGET, None) and "image/png" in output.data:
                output.data.pop("text/plain", None)
    notebook.metadata.pop("widgets", None)
    return notebook


def code_css() -> str:
    """Colours of code for light and dark pages."""
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    return (ASSETS / "notebook.css").read_text() + f"{light}@media (prefers-color-scheme:dark){{{dark}}}"


def export(notebook: Path, target: Path) -> Path:
    """Write an executed notebook as one HTML file. Raises UserError when the page would need the network."""
    content = without_widgets(nbformat.read(notebook, as_version=4))
    resources = {"metadata": {"name": notebook.stem, "path": str(notebook.parent)}}
    body, _ = OfflineExporter(notebook.parent).from_notebook_node(content, resources=resources)
    page = whole_page(body.replace("<pre>", '<pre tabindex="0">'), css=code_css())
    try:
        check_offline(page)
    except UserError as error:
        raise UserError(f"{notebook.name}: {error}") from None
    write_whole(target, page)
    return target


def export_all(folder: Path) -> list[Path]:
    """Every executed notebook of an output folder as HTML beside it."""
    found = sorted((folder / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    whole = [path for path in found if path.suffixes == [".ipynb"]]  # not .failed.ipynb, .partial.ipynb
    return [export(path, path.with_suffix(".html")) for path in whole]
