"""Markdown -> one HTML file that needs nothing from the network: pictures embedded, formulas as MathML."""

import base64
import html
import io
import os
import re
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from PIL import Image

from ..config import ROOT, UserError

ASSETS = ROOT / "report" / "assets"
FONT = ASSETS / "stix-two-math-subset.woff2"
# What a browser would fetch by itself; <a href> is followed only when somebody asks for it.
REQUESTS = re.compile(
    r'<(?:img|script|link|iframe|source|video|audio|object|embed)\b[^>]*?\s(?:src|href|srcset|data)="(?!data:|#)([^"]+)"'
)
CSS_REQUESTS = re.compile(r'(?:@import\s+|url\()["\']?(?!data:|#)([\w/.:]+)')


def mathml(tex: str, display: bool) -> str:
    """LaTeX -> MathML. Raises UserError with the formula when it has an error: never a silent mess."""
    import math_core

    try:
        converter = math_core.LatexToMathML(fancy_error=False)
        found = converter.convert_with_local_state(tex.strip(), displaystyle=display)
    except math_core.LatexError as error:
        raise UserError(f"the formula {tex.strip()!r} is wrong: {error}") from None
    return f'<span class="formula" tabindex="0">{found}</span>' if display else found  # it may scroll on a phone


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a data: address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(png: bytes, alt: str) -> str:
    """An <img> with the picture inside: the same pixels as lossless WebP where that is smaller than the PNG."""
    with Image.open(io.BytesIO(png)) as image:
        width, height = image.size
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", lossless=True, method=4, exact=True)
    webp = buffer.getvalue()
    source = data_uri(webp, "image/webp") if len(webp) < len(png) else data_uri(png, "image/png")
    return f'<img src="{source}" width="{width}" height="{height}" alt="{html.escape(alt, quote=True)}">'


def enlargeable(image: str) -> str:
    """An <img> on a white card that grows to twice its pixels when it is clicked."""
    return f'<button type="button" class="picture" aria-expanded="false" title="Enlarge">{image}</button>'


def markdown_parser(base: Path) -> MarkdownIt:
    """Markdown with tables, anchors and maths, whose pictures are relative to `base`.

    It raises UserError on a wrong formula or a picture that is not there.
    """
    parser = MarkdownIt("commonmark", {"html": True}).enable("table").use(anchors_plugin, max_level=3)
    parser.use(dollarmath_plugin, double_inline=True, renderer=lambda tex, kind: mathml(tex, kind["display_mode"]))

    def image(self: RendererHTML, tokens: list[Token], at: int, options: Any, env: Any) -> str:
        alt = self.renderInlineAsText(tokens[at].children or [], options, env)
        path = Path(os.path.normpath(base / str(tokens[at].attrs["src"])))  # `base` need not exist yet
        if not path.is_file():
            raise UserError(f"the picture {path} is missing; run the notebooks first (`make report`)")
        return picture(path.read_bytes(), alt)

    def fence(self: RendererHTML, tokens: list[Token], at: int, options: Any, env: Any) -> str:
        if tokens[at].info.strip() == "math":
            return mathml(tokens[at].content, True)
        block = RendererHTML.fence(self, tokens, at, options, env)
        return block.replace("<pre>", '<pre tabindex="0">')  # it may scroll, so the keyboard must reach it

    parser.add_render_rule("image", image)
    parser.add_render_rule("fence", fence)
    return parser


def contents(body: str) -> str:
    """A table of contents from the h2 and h3 of a page."""
    entries = re.findall(r'<h([23]) id="([^"]+)"[^>]*>(.*?)</h\1>', body, re.S)
    chapters: list[tuple[str, list[str]]] = []
    for depth, anchor, label in entries:
        link = f'<a href="#{anchor}">{re.sub("</?a[^>]*>", "", label)}</a>'
        if depth == "2" or not chapters:
            chapters.append((link, []))
        else:
            chapters[-1][1].append(f"<li>{link}</li>")
    nested = [(link, f"<ul>{''.join(under)}</ul>" if under else "") for link, under in chapters]
    listed = "".join(f"<li>{link}{under}</li>" for link, under in nested)
    return f'<nav aria-label="Contents"><details open><summary>Contents</summary><ul>{listed}</ul></details></nav>'


def check_offline(page: str) -> None:
    """Raises UserError when a page would ask for anything outside itself."""
    styles = "".join(re.findall(r"<style>(.*?)</style>", page, re.S))
    if outside := REQUESTS.findall(page) + CSS_REQUESTS.findall(styles):
        raise UserError(f"the page is not self-contained: it asks for {outside[0]}")


def whole_page(body: str, *, css: str = "") -> str:
    """A page around a body that has one <h1>, with a table of contents below it."""
    caption = r"<p>(<img [^>]+>)</p>\s*<p><em>(.*?)</em></p>"
    body = re.sub(caption, r"<figure>\1<figcaption>\2</figcaption></figure>", body, flags=re.S)
    body = re.sub(r"(<figure>)(<img [^>]+>)", lambda found: found[1] + enlargeable(found[2]), body)
    wide = r'<div class="wide" tabindex="0" role="region" aria-label="Table"><table>\1</table></div>'
    body = re.sub(r"<table>(.*?)</table>", wide, body, flags=re.S)
    title = re.search(r"<h1[^>]*>(.*?)</h1>", body, re.S)
    body = body.replace("</h1>", "</h1>\n" + contents(body), 1)
    font = data_uri(FONT.read_bytes(), "font/woff2")
    style = (ASSETS / "page.css").read_text() + css
    style += f'@font-face{{font-family:"Report Math";src:url({font})}}math{{font-family:"Report Math",math}}'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{re.sub('<[^>]+>', '', title.group(1)) if title else 'Report'}</title>"
        f"<style>{style}</style></head><body><main>\n{body}</main>"
        f"<script>{(ASSETS / 'page.js').read_text()}</script></body></html>\n"
    )


def render_html(text: str, base: Path, **parts: str) -> str:
    """One self-contained page from Markdown; a comment `<!-- NAME -->` is replaced by the part of that name.

    Raises UserError when the page would ask for anything outside itself.
    """
    page = whole_page(markdown_parser(base).render(text))
    for name, part in parts.items():
        page = page.replace(f"<!-- {name} -->", part)
    check_offline(page)
    return page
