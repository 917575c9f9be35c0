"""The report: prose source + metrics + captions -> README.md (Markdown for GitHub) -> report.html (one offline file).

    python -m helpers.show.report [--check]

No number is typed twice: the source names it, the results supply it, and a name that does not exist stops the
build, as does a missing figure. The page needs nothing from the network: figures are embedded, formulas are MathML.
"""

import argparse
import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import jinja2

from ..config import EXERCISE, ROOT, UserError, program, write_whole
from ..schemas import read_json
from .figures import read_captions
from .page import picture, render_html

GLUE = "\N{NO-BREAK SPACE}"  # between the parts of a number, which no line break may part
SOURCE = ROOT / "report" / EXERCISE / "source.md.j2"
RESULTS = {
    "m": "metrics.json",
    "vae": "vae_history.json",
    "autoencoder": "autoencoder_history.json",
    "reference": "reference_history.json",
    "sharp": "sharp_history.json",
    "data": "data.json",
    "training": "training.json",
    "generation": "generation.json",
    "compression": "compression.json",
}


class Results(dict):
    """A JSON object with attribute access. Raises UserError on a name that is not there, and lists those that are."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self:
            raise UserError(f"the report names a result {name!r} that does not exist; there are: {', '.join(self)}")
        return self[name]


def read_results(folder: Path) -> dict[str, Results]:
    """Every result file of an output folder. Raises UserError when one is missing or damaged."""
    return {name: named(read_json(folder / file)) for name, file in RESULTS.items()}


def named(content: dict[str, Any]) -> Results:
    """A JSON object whose parts can be reached by name."""
    return json.loads(json.dumps(content), object_hook=Results)


def minus(text: str) -> str:
    """A typographic minus sign in front of a negative number."""
    return text.replace("-", "−", 1) if text.startswith("-") else text


def number(value: float, digits: int = 2) -> str:
    """1234.5 -> "1,234.50"."""
    return minus(f"{value:,.{digits}f}")


def estimate(result: dict[str, Any], digits: int = 2) -> str:
    """{"value", "stderr"} -> "23.66 ± 0.02", or without ± where there is no standard error."""
    text = number(result["value"], digits)
    return text if result.get("stderr") is None else f"{text}{GLUE}±{GLUE}{number(result['stderr'], digits)}"


def percent(result: Any, digits: int = 1) -> str:
    """A share, or {"value", "stderr"} of one, as "56.3 %" or "56.3 ± 0.5 %"."""
    if not isinstance(result, dict):
        return f"{number(100 * result, digits)}{GLUE}%"
    return f"{estimate({k: None if v is None else 100 * v for k, v in result.items()}, digits)}{GLUE}%"


def render_markdown(folder: Path, target: Path) -> str:
    """The source with the results of `folder`, as Markdown that lives in the folder `target`."""
    captions = read_captions(folder)

    def figure(name: str) -> str:
        path = folder / f"{name}.png"
        if not path.is_file() or name not in captions:
            raise UserError(f"the report shows {name}.png, which {folder} does not have; run the notebooks first")
        alt = captions[name].replace("[", "(").replace("]", ")")
        return f"![{alt}]({Path(os.path.relpath(path, target)).as_posix()})\n\n*{captions[name]}*"

    def table(name: str) -> list[dict[str, str]]:
        path = folder / f"{name}.csv"
        return list(csv.DictReader(path.open())) if path.is_file() else []

    def stored(name: str) -> Results | None:
        path = folder / f"{name}.json"
        return named(read_json(path)) if path.is_file() else None

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(num=number, est=estimate, pct=percent)
    environment.globals.update(figure=figure, table=table, stored=stored, **read_results(folder))
    try:
        text = environment.from_string(SOURCE.read_text()).render()
    except jinja2.TemplateError as error:
        raise UserError(f"{SOURCE.name}: {error}") from None
    check_markdown(text)
    return f"<!-- Written by helpers/show/report.py from {SOURCE.name}: edit that file, not this one. -->\n{text}"


def check_markdown(text: str) -> None:
    """Raises UserError on what GitHub would break although our own page is right."""
    if re.search(r"^\s*\$\$", text, re.M):
        raise UserError(f"{SOURCE.name}: write display formulas as ```math fences; GitHub breaks $$ blocks")


def still(folder: Path) -> str:
    """The picture of what the explorer's sliders do, as an <img>; "" where notebook 7 has not run."""
    path = folder / "latent_directions.png"
    return picture(path.read_bytes(), read_captions(folder).get(path.stem, "")) if path.is_file() else ""


def build(folder: Path, target: Path) -> Path:
    """Write README.md and report.html into `target` from the results in `folder`; returns the page."""
    from . import explorer_page  # here: --check needs no torch

    text = render_markdown(folder, target)
    page = render_html(text, target, explorer=explorer_page.fragment(folder, still(folder)))
    write_whole(target / "README.md", text)
    write_whole(target / "report.html", page)
    return target / "report.html"


def main(argv: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="helpers.show.report", description="Render the report from stored results.")
    parser.add_argument("--check", action="store_true", help="only say whether the stored README.md is up to date")
    folder, target = ROOT / "outs" / EXERCISE, ROOT / "report" / EXERCISE
    if not parser.parse_args(argv).check:
        print(f"wrote {build(folder, target).relative_to(ROOT)}")
        return
    stored = target / "README.md"
    if not stored.is_file() or stored.read_text() != render_markdown(folder, target):
        raise UserError("report/exercise_03/README.md is not what its source and results give; run `make report`")
    print("the report is up to date")


if __name__ == "__main__":
    program(main)
