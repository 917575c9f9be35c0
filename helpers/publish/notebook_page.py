"""Executed notebooks -> HTML files that look like the report, made by its Markdown, and need nothing from the network.

Pictures keep their alt text; a widget is replaced by the still picture beside it; links to notebooks lead to pages.
"""

import base64
import re
from pathlib import Path

import nbformat
from nbconvert.exporters.html import HTMLExporter
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from ..engine import UserError, write_whole
from .page import TEMPLATES, Page, asset, embedded

NOTEBOOK_LINK = re.compile(r'(<a href="[\w./-]+)\.ipynb"')


def still_picture(output: NotebookNode) -> str:
    """The PNG of an output, with its alt text."""
    alt = output.metadata.get("image/png", {}).get("alt", "Figure")
    return embedded(base64.b64decode(output.data["image/png"]), alt, enlargeable=True)


def export(notebook: Path, target: Path) -> Path:
    """Write an executed notebook as one HTML file. Raises UserError when the page would need the network."""
    page = Page(notebook.parent)
    filters = {"markdown2html": page.render, "still_picture": still_picture}
    exporter = HTMLExporter(extra_loaders=[TEMPLATES.loader], template_file="notebook.html.j2", filters=filters)
    content = nbformat.read(notebook, as_version=4)
    content.metadata.pop("widgets", None)  # what only a kernel could show
    names = {"name": notebook.stem, "path": str(notebook.parent)}
    body, _ = exporter.from_notebook_node(content, resources={"metadata": names})
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    css = f"{asset('notebook.css')}{light}@media (prefers-color-scheme:dark){{{dark}}}"
    try:
        write_whole(target, page.whole(NOTEBOOK_LINK.sub(r'\1.html"', body), css=css))
    except UserError as error:
        raise UserError(f"{notebook.name}: {error}") from None
    return target


def export_all(folder: Path) -> list[Path]:
    """Every executed notebook of an output folder as HTML beside it."""
    paths = sorted((folder / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    # not .failed.ipynb, .partial.ipynb
    return [export(path, path.with_suffix(".html")) for path in paths if path.suffixes == [".ipynb"]]
