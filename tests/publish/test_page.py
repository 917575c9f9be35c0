"""Markdown -> a page: figures with captions, tables that scroll, contents, formulas; nothing from the network."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.engine.errors import UserError
from helpers.engine.files import home
from helpers.publish.page import Page, mathml

TEXT = """# A *title* & more

![What is seen](picture.png)

*The caption with $x^2$.*

## First chapter

### A section with $\\sigma$

| a | b |
| - | - |
| 1 | 2 |

## Second chapter

<!-- extra -->

*Not a caption.*
"""


@pytest.fixture
def page(tmp_path: Path) -> Page:
    Image.new("RGB", (40, 20), "red").save(tmp_path / "picture.png")
    return Page(tmp_path)


def test_a_picture_and_its_caption_are_a_figure(page: Page) -> None:
    body = page.render(TEXT)
    figure = body[body.index("<figure>") : body.index("</figure>")]
    assert figure.index("<img") < figure.index("<figcaption>") and 'class="usual"' in figure
    assert 'alt="What is seen"' in figure and 'width="40" height="20"' in figure and "<em>" not in figure
    assert "<math" in figure and "<p>" not in figure and body.count("<figure>") == 1
    assert "<p><em>Not a caption.</em></p>" in body
    alone = page.render("![Alone](picture.png)")
    assert "<figure" not in alone and "<p><img" in alone


def test_tables_scroll_and_the_contents_are_nested(page: Page) -> None:
    whole = page.whole(page.render(TEXT), extra="<b>the part</b>")
    assert whole.count('<div class="wide" tabindex="0" role="region" aria-label="Table"><table>') == 1
    assert whole.count("</table></div>") == 1 and "<b>the part</b>" in whole and "<!-- contents -->" not in whole
    contents = whole[whole.index("<nav") : whole.index("</nav>")]
    first, second = contents.index('href="#first-chapter"'), contents.index('href="#second-chapter"')
    assert first < contents.rindex("<ul>") < contents.index("<math") < second
    link = '<a class="permalink" href="#first-chapter" aria-label="Link to this section">#</a>'
    assert f'<h2 id="first-chapter">First chapter {link}</h2>' in whole and whole.count('class="permalink"') == 3
    assert whole.index("</h1>") < whole.index("<nav") and "<title>A title &amp; more</title>" in whole


def test_a_wrong_formula_and_a_missing_picture_are_named(page: Page) -> None:
    with pytest.raises(UserError, match="formula"):
        mathml(r"\frac{1", True)
    with pytest.raises(UserError, match=r"other\.png is missing"):
        page.render("![x](other.png)")


@pytest.mark.parametrize(
    ("name", "most", "mean", "share"),
    [("loss_plot", 0, 0, 0.8), ("foreign_images", 3, 1.8, 0.6), ("samples", 80, 2, 0.4)],
    ids=["a plot keeps every pixel", "photographs within three levels", "photographs as lossy WebP"],
)
def test_pictures_are_embedded_as_the_smallest_faithful_file(
    page: Page, name: str, most: int, mean: float, share: float
) -> None:
    path = home("cifar10") / f"{name}.png"
    kind, content = re.search(r"data:image/(\w+);base64,([^\"]+)", page.render(f"![Picture]({path})")).groups()
    embedded, original = base64.b64decode(content), np.asarray(Image.open(path).convert("RGB")).astype(int)
    error = np.abs(np.asarray(Image.open(io.BytesIO(embedded)).convert("RGB")) - original)
    assert kind == "webp" and len(embedded) < share * path.stat().st_size
    assert error.max() <= most and error.mean() <= mean
