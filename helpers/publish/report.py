"""The report and its appendix: prose source + results + captions -> Markdown for GitHub -> one offline page each.

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
SOURCE, APPENDIX, CARD = (ROOT / "report" / EXERCISE / f"{name}.md.j2" for name in ("source", "appendix", "model_card"))
TEXTS = {"README.md": SOURCE, "appendix.md": APPENDIX, "model_card.md": CARD}


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


class Numbers:
    """Figures and tables in the order of a text; names of tables are known from an earlier rendering."""

    def __init__(self, prefix: str, known: dict[str, str] | None = None) -> None:
        self.prefix, self.known = prefix, known or {}
        self.made: dict[str, str] = {}
        self.counts = {"Figure": 0, "Table": 0}

    def next(self, kind: str, name: str = "") -> str:
        """As "Figure 3"; a `name` can be asked for in the next rendering."""
        self.counts[kind] += 1
        number = f"{self.prefix}{self.counts[kind]}"
        if name:
            self.made[name] = number
        return f"{kind} {number}"


def results_of(folder: Path) -> dict[str, Any]:
    """What a source may ask for: provenance, stored results and functions that read them."""
    load_once = functools.cache(load)  # the source asks for the same files again and again
    rows, provenance = load_once(folder / "metrics.json")

    def table(name: str) -> list[dict[str, str]]:
        path = folder / f"{name}.csv"
        return list(csv.DictReader(path.open(encoding="utf-8"))) if path.is_file() else []

    def stored(name: str) -> dict[str, Any] | None:
        path = folder / f"{name}.json"
        return read_json(path) if path.is_file() else None

    def results(question: str, model: str = "", split: str = "", file: str = "metrics") -> dict[str, Any]:
        path = folder / f"{file}.json"
        return load_once(path)[0].nested(question, model, split) if path.is_file() else {}

    names: dict[str, Any] = {"table": table, "stored": stored, "results": results}
    names |= {"m": provenance, "vector": rows.array}
    names |= {kind: read_json(history_path(folder, kind)) for kind in KINDS}
    return names | {
        name: read_json(folder / f"{name}.json") for name in ("data", "training", "generation", "compression")
    }


def render_markdown(folder: Path, target: Path, source: Path | None = None) -> str:
    """A source (that of the report) with the results of `folder`, as Markdown that lives in the folder `target`."""
    source = source or SOURCE
    captions, names = read_captions(folder), results_of(folder)
    numbers = Numbers("")

    def figure(name: str, alt: str) -> str:
        path = folder / f"{name}.png"
        if not path.is_file() or name not in captions:
            raise UserError(f"the report shows {name}.png, which {folder} does not have; run the notebooks first")
        place = Path(os.path.relpath(path, target)).as_posix()
        return f"![{alt}]({place})\n\n*{numbers.next('Figure', name)}. {captions[name]}*"

    names |= {"figure": figure, "number_of": lambda name: numbers.known.get(name, "")}
    names["table_caption"] = lambda text, name="": f"*{numbers.next('Table', name)}. {text}*"
    for _ in range(2):  # the second time it is known which number a table further down has
        numbers = Numbers("A" if source == APPENDIX else "", numbers.made)
        try:
            text = MARKDOWN.from_string(source.read_text(encoding="utf-8")).render(names)
        except jinja2.TemplateError as error:
            raise UserError(f"{source.name}: {error}") from None
    check_markdown(text, source.name)
    return f"<!-- Written by helpers/publish/report.py from {source.name}: edit that file, not this one. -->\n{text}"


def check_markdown(text: str, name: str) -> None:
    """Raises UserError for formulas that GitHub would break."""
    if re.search(r"^\s*\$\$", text, re.M):
        raise UserError(f"{name}: write display formulas as ```math fences; GitHub breaks $$ blocks")
    if re.search(r"(?<!`)\$(?!`)", re.sub(r"\$`[^`\n]+`\$", "", text)):
        raise UserError(f"{name}: write formulas in a line as $`...`$; GitHub reads the _ and \\ of others as Markdown")


def build(folder: Path, target: Path) -> Path:
    """Write report, appendix and model card into `target`, as Markdown and pages; returns the report's page."""
    texts = {name: render_markdown(folder, target, source) for name, source in TEXTS.items()}
    page = Page(target)
    with ThreadPoolExecutor(1) as beside:  # the export is Python's work, pictures are encoded outside of Python
        explorer = beside.submit(explorer_page.fragment, folder)
        appendix = page.whole(page.render(texts["appendix.md"]))
        html = page.whole(page.render(texts["README.md"]), explorer=explorer.result())
    for name, content in (texts | {"appendix.html": appendix, "report.html": html}).items():
        write_whole(target / name, content)
    return target / "report.html"


def render(check: Annotated[bool, typer.Option(help="Only say whether README.md is up to date.")] = False) -> None:
    """Render the report from stored results."""
    folder, target = ROOT / "outs" / EXERCISE, ROOT / "report" / EXERCISE
    if not check:
        print(f"wrote {build(folder, target).relative_to(ROOT)}")
        return
    for name, source in TEXTS.items():
        stored = target / name
        if not stored.is_file() or stored.read_text(encoding="utf-8") != render_markdown(folder, target, source):
            raise UserError(f"{stored.relative_to(ROOT)} is not what its source and results give; run `make report`")
    print("the report is up to date")
