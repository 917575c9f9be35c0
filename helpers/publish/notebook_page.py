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


class NotebookExporter:
    """Notebooks of one folder as HTML with pictures kept aside, because nbconvert parses its pages once more."""

    def __init__(self, folder: Path) -> None:
        self.page, self.pictures = Page(folder), dict[str, str]()
        filters = {"markdown2html": self.page.render, "still_picture": self.still_picture}
        options = {"template_file": "notebook.html.j2", "filters": filters}
        self.exporter = HTMLExporter(extra_loaders=[TEMPLATES.loader], **options)  # its templates are compiled once

    def still_picture(self, output: NotebookNode) -> str:
        """The place in the page for the PNG of an output, with its alt text."""
        alt, name = output.metadata.get("image/png", {}).get("alt", "Figure"), f"picture-{len(self.pictures)}"
        self.pictures[name] = embedded(base64.b64decode(output.data["image/png"]), alt, enlargeable=True)
        return f"<!-- {name} -->"


def export(notebook: Path, target: Path, exporter: NotebookExporter | None = None) -> Path:
    """Write an executed notebook as one HTML file. Raises UserError when the page would need the network."""
    exporter = exporter or NotebookExporter(notebook.parent)
    content = nbformat.read(notebook, as_version=4)
    content.metadata.pop("widgets", None)  # what only a kernel could show
    names = {"name": notebook.stem, "path": str(notebook.parent)}
    body, _ = exporter.exporter.from_notebook_node(content, resources={"metadata": names})
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    css = f"{asset('notebook.css')}{light}@media (prefers-color-scheme:dark){{{dark}}}"
    try:
        write_whole(target, exporter.page.whole(NOTEBOOK_LINK.sub(r'\1.html"', body), css=css, **exporter.pictures))
    except UserError as error:
        raise UserError(f"{notebook.name}: {error}") from None
    return target


def export_all(folder: Path) -> list[Path]:
    """Every executed notebook of an output folder as HTML beside it."""
    paths, exporter = sorted((folder / "notebooks").glob("[0-9][0-9]_*.ipynb")), NotebookExporter(folder / "notebooks")
    # not .failed.ipynb, .partial.ipynb
    return [export(path, path.with_suffix(".html"), exporter) for path in paths if path.suffixes == [".ipynb"]]
