"""The report: prose source + metrics + captions -> README.md (Markdown for GitHub) -> report.html (one offline file).

    python -m helpers.show.report [--check]

No number is typed twice: the source names it, the results supply it, and a name that does not exist stops the
build, as does a missing figure. The page needs nothing from the network: figures are embedded, formulas are MathML.
"""

import argparse
import base64
import csv
import html
import json
import os
import re
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin

from ..config import EXERCISE, ROOT, UserError, exit_with, write_whole
from .figures import read_captions

SOURCE = ROOT / "report" / EXERCISE / "source.md.j2"
FONT = ROOT / "report" / "assets" / "stix-two-math-subset.woff2"
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
    found = {}
    for name, file in RESULTS.items():
        try:
            found[name] = json.loads((folder / file).read_text(), object_hook=Results)
        except FileNotFoundError:
            raise UserError(f"{folder / file} is missing; run the notebooks first (`make report`)") from None
        except ValueError as error:
            raise UserError(f"{folder / file} is damaged ({error}); run the notebooks again") from None
    return found


def minus(text: str) -> str:
    """A typographic minus sign in front of a negative number."""
    return text.replace("-", "−", 1) if text.startswith("-") else text


def number(value: float, digits: int = 2) -> str:
    """1234.5 -> "1,234.50"."""
    return minus(f"{value:,.{digits}f}")


def estimate(result: dict[str, Any], digits: int = 2) -> str:
    """{"value", "stderr"} -> "23.66 ± 0.02", or without ± where there is no standard error."""
    text = number(result["value"], digits)
    return text if result.get("stderr") is None else f"{text} ± {number(result['stderr'], digits)}"


def percent(result: Any, digits: int = 1) -> str:
    """A share, or {"value", "stderr"} of one, as "56.3 %" or "56.3 ± 0.5 %"."""
    if not isinstance(result, dict):
        return f"{number(100 * result, digits)} %"
    return f"{estimate({k: None if v is None else 100 * v for k, v in result.items()}, digits)} %"


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
        return json.loads(path.read_text(), object_hook=Results) if path.is_file() else None

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


# --- Markdown -> one HTML file ----------------------------------------------------------------------------------

CSS = """
:root{color-scheme:light dark;--fg:#1b1f24;--bg:#fff;--dim:#57606a;--line:#d0d7de;--code:#f6f8fa;--link:#0550ae}
@media(prefers-color-scheme:dark){:root{--fg:#e6edf3;--bg:#0d1117;--dim:#9da7b3;--line:#30363d;--code:#161b22;
--link:#79b8ff}figure img{background:#fff;border-radius:6px;padding:6px}}
*{box-sizing:border-box}
body{max-width:52rem;margin:2rem auto;padding:0 1rem;font:17px/1.6 system-ui,sans-serif;
color:var(--fg);background:var(--bg)}
h1,h2,h3{line-height:1.25}h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}a{color:var(--link)}
figure{margin:1.5rem 0;text-align:center}img{max-width:100%;height:auto}figcaption{color:var(--dim);font-size:.9em}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:1rem auto;font-size:.92em}
th,td{border:1px solid var(--line);padding:.25rem .6rem}
pre,code{background:var(--code);border-radius:4px}pre{padding:.8rem;overflow-x:auto}
blockquote{border-left:4px solid var(--line);margin-left:0;padding-left:1rem;color:var(--dim)}
nav{font-size:.92em;border:1px solid var(--line);border-radius:6px;padding:.4rem 1rem}
nav ul{padding-left:1.2rem;margin:.3rem 0}
math[display=block]{margin:1rem 0;overflow-x:auto}
@media print{body{max-width:none;font-size:11pt}nav{display:none}figure{break-inside:avoid}}
"""


def mathml(tex: str, display: bool) -> str:
    """LaTeX -> MathML. Raises UserError with the formula when it has an error: never a silent mess."""
    import math_core

    try:
        converter = math_core.LatexToMathML(fancy_error=False)
        return converter.convert_with_local_state(tex.strip(), displaystyle=display)
    except math_core.LatexError as error:
        raise UserError(f"the formula {tex.strip()!r} is wrong: {error}") from None


def data_uri(path: Path, kind: str) -> str:
    """The content of a file as a data: address."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def font_css() -> str:
    """A maths font for stretched brackets and sums (SIL Open Font License, beside it)."""
    source = data_uri(FONT, "font/woff2")
    return f'@font-face{{font-family:"Report Math";src:url({source})}}math{{font-family:"Report Math",math}}'


def render_html(text: str, base: Path) -> str:
    """One self-contained page from Markdown whose pictures are relative to `base`."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table").use(anchors_plugin, max_level=3)
    parser.use(dollarmath_plugin, double_inline=True, renderer=lambda tex, kind: mathml(tex, kind["display_mode"]))

    def image(self: RendererHTML, tokens: list[Token], at: int, options: Any, env: Any) -> str:
        alt = self.renderInlineAsText(tokens[at].children or [], options, env)
        path = os.path.normpath(base / str(tokens[at].attrs["src"]))  # `base` need not exist yet
        source = data_uri(Path(path), "image/png")
        return f'<img src="{source}" alt="{html.escape(alt, quote=True)}">'

    def fence(self: RendererHTML, tokens: list[Token], at: int, options: Any, env: Any) -> str:
        if tokens[at].info.strip() == "math":
            return mathml(tokens[at].content, True)
        return RendererHTML.fence(self, tokens, at, options, env)

    parser.add_render_rule("image", image)
    parser.add_render_rule("fence", fence)
    body = parser.render(text)
    caption = r"<p>(<img [^>]+>)</p>\s*<p><em>(.*?)</em></p>"
    body = re.sub(caption, r"<figure>\1<figcaption>\2</figcaption></figure>", body, flags=re.S)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    body = body.replace("</h1>", "</h1>\n" + contents(body), 1)
    title = re.search(r"<h1[^>]*>(.*?)</h1>", body, re.S)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{re.sub('<[^>]+>', '', title.group(1)) if title else 'Report'}</title>"
        f"<style>{CSS}{font_css()}</style></head><body><main>\n{body}</main></body></html>\n"
    )
    if outside := re.findall(r'<(?:img|script|link|iframe)[^>]+(?:src|href)="(?!data:|#)([^"]+)"', page):
        raise UserError(f"the page is not self-contained: it asks for {outside[0]}")
    return page


def contents(body: str) -> str:
    """A table of contents from the h2 and h3 of a page."""
    entries = re.findall(r'<h([23]) id="([^"]+)">(.*?)</h\1>', body, re.S)
    lines, level = [], 1
    for depth, anchor, label in [(int(d), a, t) for d, a, t in entries]:
        lines.append("<ul>" * (depth - level) + "</ul>" * (level - depth))
        lines.append(f'<li><a href="#{anchor}">{label}</a></li>')
        level = depth
    return f'<nav aria-label="Contents">{"".join(lines)}{"</ul>" * (level - 1)}</nav>'


def build(folder: Path, target: Path) -> Path:
    """Write README.md and report.html into `target` from the results in `folder`; returns the page."""
    text = render_markdown(folder, target)
    page = render_html(text, target)
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
    try:
        main()
    except UserError as error:
        exit_with(error)
