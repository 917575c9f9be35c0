"""The report: prose source + results + captions -> README.md (Markdown for GitHub) -> report.html (one offline file).

No number is typed twice: the source names it, the results supply it, and a name that does not exist stops the
build, as does a missing figure. The page needs nothing from the network: figures are embedded, formulas are MathML.
"""

import csv
import functools
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import jinja2
import typer

from ..engine import EXERCISE, ROOT, UserError, history_path, read_json, write_whole
from ..measure.metrics import Estimate
from ..measure.rows import Row, load
from ..run import KINDS
from ..show.theme import read_captions
from . import explorer_page
from .page import Page

GLUE = "\N{NO-BREAK SPACE}"  # between the parts of a number, which no line break may part
SOURCE = ROOT / "report" / EXERCISE / "source.md.j2"


class Missing(jinja2.StrictUndefined):
    """A name that no result has: the error says which, and which there are."""

    __format__ = jinja2.StrictUndefined._fail_with_undefined_error

    @property
    def _undefined_message(self) -> str:
        known = f"; there are: {', '.join(self._undefined_obj)}" if isinstance(self._undefined_obj, dict) else ""
        return f"there is no result {self._undefined_name!r}{known}"


def number(value: float, digits: int = 2) -> str:
    """1234.5 -> "1,234.50", with a typographic minus sign."""
    return f"{value:,.{digits}f}".replace("-", "−", 1)


def estimate(result: Row | Estimate, digits: int = 2) -> str:
    """As "23.66 ± 0.02", or without ± where there is no standard error."""
    text = number(result.value, digits)
    return text if result.stderr is None else f"{text}{GLUE}±{GLUE}{number(result.stderr, digits)}"


def percent(result: float | Row, digits: int = 1) -> str:
    """A share as "56.3 %" or "56.3 ± 0.5 %"."""
    share = Estimate(result.value, result.stderr) if isinstance(result, Row) else Estimate(result)
    return f"{estimate(share.scaled(100), digits)}{GLUE}%"


MARKDOWN = jinja2.Environment(undefined=Missing, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
MARKDOWN.filters.update(num=number, est=estimate, pct=percent)


def render_markdown(folder: Path, target: Path) -> str:
    """The source with the results of `folder`, as Markdown that lives in the folder `target`."""
    load_once = functools.cache(load)  # the source asks for the same files again and again
    captions, (rows, provenance) = read_captions(folder), load_once(folder / "metrics.json")

    def figure(name: str) -> str:
        path = folder / f"{name}.png"
        if not path.is_file() or name not in captions:
            raise UserError(f"the report shows {name}.png, which {folder} does not have; run the notebooks first")
        alt = captions[name].replace("[", "(").replace("]", ")")
        return f"![{alt}]({Path(os.path.relpath(path, target)).as_posix()})\n\n*{captions[name]}*"

    def table(name: str) -> list[dict[str, str]]:
        path = folder / f"{name}.csv"
        return list(csv.DictReader(path.open(encoding="utf-8"))) if path.is_file() else []

    def stored(name: str) -> dict[str, Any] | None:
        path = folder / f"{name}.json"
        return read_json(path) if path.is_file() else None

    def results(question: str, model: str = "", split: str = "", file: str = "metrics") -> dict[str, Any]:
        path = folder / f"{file}.json"
        return load_once(path)[0].nested(question, model, split) if path.is_file() else {}

    names: dict[str, Any] = {"figure": figure, "table": table, "stored": stored, "results": results}
    names |= {"m": provenance, "vector": rows.array}
    names |= {kind: read_json(history_path(folder, kind)) for kind in KINDS}
    names |= {name: read_json(folder / f"{name}.json") for name in ("data", "training", "generation", "compression")}
    try:
        text = MARKDOWN.from_string(SOURCE.read_text(encoding="utf-8")).render(names)
    except jinja2.TemplateError as error:
        raise UserError(f"{SOURCE.name}: {error}") from None
    if re.search(r"^\s*\$\$", text, re.M):
        raise UserError(f"{SOURCE.name}: write display formulas as ```math fences; GitHub breaks $$ blocks")
    return f"<!-- Written by helpers/publish/report.py from {SOURCE.name}: edit that file, not this one. -->\n{text}"


def build(folder: Path, target: Path) -> Path:
    """Write README.md and report.html into `target` from the results in `folder`; returns the page."""
    text, page = render_markdown(folder, target), Page(target)
    with ThreadPoolExecutor(1) as beside:  # the export is Python's work, pictures are encoded outside of Python
        explorer = beside.submit(explorer_page.fragment, folder)
        html = page.whole(page.render(text), explorer=explorer.result())
    write_whole(target / "README.md", text)
    write_whole(target / "report.html", html)
    return target / "report.html"


def render(check: Annotated[bool, typer.Option(help="Only say whether README.md is up to date.")] = False) -> None:
    """Render the report from stored results."""
    folder, target = ROOT / "outs" / EXERCISE, ROOT / "report" / EXERCISE
    stored = target / "README.md"
    if not check:
        print(f"wrote {build(folder, target).relative_to(ROOT)}")
    elif not stored.is_file() or stored.read_text(encoding="utf-8") != render_markdown(folder, target):
        raise UserError(f"{stored.relative_to(ROOT)} is not what its source and results give; run `make report`")
    else:
        print("the report is up to date")
