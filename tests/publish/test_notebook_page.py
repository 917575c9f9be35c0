"""Executed notebooks as pages."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest

from helpers.engine.errors import UserError
from helpers.engine.files import ROOT
from helpers.publish import notebook_page
from helpers.publish.plan import notebook_path

from ..conftest import run_module


def output_folder(place: Path, *texts: str) -> Path:
    """An output folder whose only executed notebook, 01_x, has these Markdown cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text) for text in texts])
    (place / "notebooks").mkdir()
    nbformat.write(notebook, place / "notebooks" / "01_x.ipynb")
    return place


def test_the_notebooks_of_a_run_are_pages(smoke: Path) -> None:
    for path in (smoke / "notebooks").glob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?!data:|#)', page), path.name
        assert "<h1" in page and "cdnjs" not in page and "require.js" not in page
    assert "<math" in (smoke / "notebooks" / "03_vae_training.html").read_text(encoding="utf-8")


def test_links_lead_to_pages_and_the_contents_hold_every_cell(tmp_path: Path) -> None:
    folder = output_folder(tmp_path, "# One\n\n[next](02_y.ipynb)", "## Two\n\n[far](https://example.org/a.ipynb)")
    (page,) = notebook_page.export_all(folder)
    text = page.read_text(encoding="utf-8")
    assert 'href="02_y.html"' in text and "https://example.org/a.ipynb" in text and 'href="#two"' in text
    assert "<title>One</title>" in text


def test_outside_requests_are_refused(tmp_path: Path) -> None:
    folder = output_folder(tmp_path, '# A page\n\n<img src="https://example.org/x.png" alt="y">')
    with pytest.raises(UserError, match="01_x.ipynb.*not self-contained.*example.org"):
        notebook_page.export_all(folder)
    assert not list(tmp_path.glob("**/*.html"))


@pytest.mark.slow
def test_stock_tools_run_and_export_the_explorer(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "out")
    notebook = nbformat.read(notebook_path("07_latent_explorer"), as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += f'\nprofile, dataset, out = "smoke", "photos", {str(tmp_path / "out")!r}'
    nbformat.write(notebook, tmp_path / "07.ipynb")
    done = run_module("jupyter", "execute", "--inplace", str(tmp_path / "07.ipynb"), PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    done = run_module("jupyter", "nbconvert", "--to", "html", str(tmp_path / "07.ipynb"))
    assert done.returncode == 0 and (tmp_path / "07.html").stat().st_size > 100_000, done.stderr
    page = notebook_page.export(tmp_path / "07.ipynb", tmp_path / "own.html").read_text(encoding="utf-8")
    assert page.count('alt="A still picture') == 2 and "widget-view" not in page
