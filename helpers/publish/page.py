"""Markdown -> one HTML file that needs nothing from the network: pictures embedded, formulas as MathML."""

import base64
import functools
import io
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jinja2
import math_core
import numpy as np
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup
from mdit_py_plugins.anchors import anchors_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from PIL import Image

from ..engine import ROOT, UserError
from ..show.theme import image_file

ASSETS = ROOT / "report" / "assets"


def asset(name: str) -> Markup:
    """The text of one of our own files, which a template must not escape."""
    return Markup((ASSETS / name).read_text(encoding="utf-8"))


def base64_of(content: bytes) -> str:
    """Bytes as text that may stand in HTML."""
    return base64.b64encode(content).decode()


TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(ASSETS), undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True
)
TEMPLATES.globals.update(asset=asset, font=lambda: base64_of((ASSETS / "stix-two-math-subset.woff2").read_bytes()))


def mathml(tex: str, display: bool) -> str:
    """LaTeX -> MathML. Raises UserError with the formula when it has an error: never a silent mess."""
    try:
        formula = math_core.LatexToMathML(fancy_error=False).convert_with_local_state(tex.strip(), displaystyle=display)
    except math_core.LatexError as error:
        raise UserError(f"the formula {tex.strip()!r} is wrong: {error}") from None
    return f'<span class="formula" tabindex="0">{formula}</span>' if display else formula  # it may scroll on a phone


# A paragraph that is a picture, and below it one in italics.
CAPTIONED = re.compile(r"<p>(<img [^>]*>)</p>\n<p><em>((?:(?!</p>).)*)</em></p>", re.S)
FIGURE = r"<figure>\1\n<figcaption>\2</figcaption>\n</figure>"  # page.js makes it a button that enlarges
PAGES = {"README.md": "report.html", "appendix.md": "appendix.html"}
PHOTO_COLOURS = 10_000  # a picture of more colours holds photographs; plots have some hundreds or thousands
TALL = 1.3  # height over width of a picture that may fill a sheet of paper
HEADING = re.compile(r'<h([2-4]) id="([^"]+)">(.*?)</h\1>', re.S)
PERMALINK = r' <a class="permalink" href="#\2" aria-label="Link to this section">#</a>'


@functools.lru_cache(maxsize=200)  # a picture that the threads of `Page.render` made is not made again
def web_picture(png: bytes) -> tuple[str, tuple[int, int]]:
    """The source of an <img>, and its size: the smallest file of PNG and WebP. Charts keep every pixel of their file.

    Photographs lose at most three levels of 255, or what WebP of quality 80 loses.
    """
    with Image.open(io.BytesIO(png)) as image:
        exact: Image.Image = image
        files = {png: "png"}
        if image.mode != "P" and image.getcolors(PHOTO_COLOURS) is None:
            steps = np.rint((255 - np.asarray(image.convert("RGB"))) / 7).astype(np.uint8)
            exact = Image.fromarray(255 - 7 * steps)  # white stays white
            files[image_file(image, "WEBP", quality=80)] = "webp"
        files[image_file(exact, "WEBP", lossless=True, method=2, exact=True)] = "webp"
        content = min(files, key=len)
        return f"data:image/{files[content]};base64,{base64_of(content)}", image.size


def embedded(png: bytes, alt: str) -> str:
    """An <img> with the picture inside."""
    source, size = web_picture(png)
    shape = "tall" if size[1] > TALL * size[0] else "usual"
    return Markup('<img src="{}" class="{}" width="{}" height="{}" alt="{}">').format(source, shape, *size, alt)


def picture_bytes(base: Path, token: Token) -> bytes:
    """The file of a picture in Markdown that lives in `base`. Raises UserError when it is not there."""
    path = Path(os.path.normpath(base / str(token.attrs["src"])))  # the base need not exist yet
    if not path.is_file():
        raise UserError(f"the picture {path} is missing; run the notebooks first (`make report`)")
    return path.read_bytes()


class PageRenderer(RendererHTML):
    """Tokens of Markdown -> HTML, with pictures and formulas inside."""

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A picture, embedded. Raises UserError when it is not there."""
        alt = self.renderInlineAsText(tokens[idx].children or [], options, env)
        return embedded(picture_bytes(env["base"], tokens[idx]), alt)

    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A formula, or code."""
        formula = tokens[idx].info.strip() == "math"
        return mathml(tokens[idx].content, True) if formula else super().fence(tokens, idx, options, env)


class Page:
    """Markdown -> HTML, piece by piece, and the page around the pieces; pictures are relative to `base`."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.parser = MarkdownIt("commonmark", {"html": True}, renderer_cls=PageRenderer).enable("table")
        self.parser.use(anchors_plugin, max_level=4)
        self.parser.use(dollarmath_plugin, double_inline=True, renderer=lambda t, kind: mathml(t, kind["display_mode"]))

    def render(self, text: str) -> str:
        """Markdown -> HTML: captioned pictures are figures, tables scroll. UserError: wrong formula, no picture."""
        env = {"base": self.base}
        text = re.sub(r"\$`([^`\n]+)`\$", r"$\1$", text)  # GitHub's way of writing a formula that has _ or \ in it
        for name, page in PAGES.items():  # a page leads to a page
            text = text.replace(f"]({name}", f"]({page}")
        tokens = self.parser.parse(text, env)
        images = [part for token in tokens for part in token.children or [] if part.type == "image"]
        with ThreadPoolExecutor(2) as threads:  # encoding takes most of the time and runs beside Python
            list(threads.map(web_picture, [picture_bytes(self.base, image) for image in images]))
        html = CAPTIONED.sub(FIGURE, self.parser.renderer.render(tokens, self.parser.options, env))
        names = iter(re.findall(r"<p><em>(Table \w+)\. ", html))  # of the tables, in their order
        box = '<div class="wide" tabindex="0" role="region" aria-label="{}"><table>'
        html = re.sub("<table>", lambda _: box.format(next(names, "Table")), html)
        return html.replace("</table>", "</table></div>")

    def whole(self, body: str, **parts: str) -> str:
        """The page around a body, with each part in the place of `<!-- NAME -->`."""
        headings = HEADING.findall(body)  # (level, anchor, text)
        body = HEADING.sub(rf'<h\1 id="\2">\3{PERMALINK}</h\1>', body)
        body = body.replace("<pre>", '<pre tabindex="0">')  # it may scroll, so the keyboard must reach it
        lines = [f'{"  " * (int(level) - 2)}- <a href="#{at}">{text}</a>' for level, at, text in headings]
        links = self.parser.render("\n".join(lines))
        contents = f"<details open><summary>Contents</summary>\n{links}</details>"  # a click folds it up
        body = body.replace("</h1>\n", f'</h1>\n<nav aria-label="Contents">{contents}</nav>\n')
        for name, part in parts.items():
            body = body.replace(f"<!-- {name} -->", part)
        title = Markup("".join(re.findall(r"<h1 [^>]*>(.*?)</h1>", body, re.S)[:1]) or "Report").striptags()
        return TEMPLATES.get_template("page.html.j2").render(title=title, body=Markup(body))
