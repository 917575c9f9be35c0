"""JupyterLab and the pages in a real browser (Debian's Chromium), without a network.

Skipped where no browser is installed; with BROWSER_REQUIRED=1 its absence is a failure.
"""

import base64
import contextlib
import io
import os
import re
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from helpers.codec import load_codec
from helpers.data import Dataset, to_unit
from helpers.engine.files import ROOT, home
from helpers.engine.vaec import OVERHEAD
from helpers.priors import slerp
from helpers.publish import explorer_page
from helpers.publish.page import asset
from helpers.quality import Plan
from helpers.show.reader import load_explorer_data

from .programs import free_port

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
OFF = ("gpu", "quic", "background-networking", "component-update", "sync")
FLAGS = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in OFF)]
DESKTOP, PHONE = {"width": 1280, "height": 1000}, {"width": 390, "height": 844}
PATIENCE = 180_000  # ms; CI machines are slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        if os.environ.get("BROWSER_REQUIRED") == "1":
            pytest.fail("BROWSER_REQUIRED=1, but no Chromium is installed (Debian: apt-get install chromium)")
        pytest.skip("no Chromium: install it to run the browser tests (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield started
        started.close()


class Watched:
    """A page with no way out: whatever it asks for beyond `home` is blocked and kept, as are errors of its console."""

    def __init__(self, browser: Any, home: str, *, script: str = "", **options: Any) -> None:
        self.context = browser.new_context(**({"viewport": DESKTOP} | options))
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        if script:
            self.page.add_init_script(script)
        self.asked: list[str] = []
        self.errors: list[str] = []
        allowed = (home, home.replace("http", "ws"), "data:", "blob:")

        def gate(route: Any) -> None:
            if route.request.url.startswith(allowed):
                route.continue_()
            else:
                self.asked.append(route.request.url)
                route.abort()

        self.page.route("**/*", gate)
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))


@contextlib.contextmanager
def opened(browser: Any, path: Path, *, at: str = "", **options: Any) -> Iterator[Watched]:
    """A file opened from file://, at a place in it, in a context without a network."""
    watched = Watched(browser, path.as_uri(), offline=True, **options)
    watched.page.goto(f"{path.as_uri()}#{at}")
    try:
        yield watched
    finally:
        watched.context.close()


def ready(page: Any) -> str:
    """Scroll to the explorer and wait for its engine; says which one it is."""
    page.locator("#latent-explorer").scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('.explorer-body').dataset.engine")
    return page.evaluate("() => document.querySelector('.explorer-body').dataset.engine")


CANVAS = "(id) => document.getElementById(id).toDataURL('image/png')"


def canvas(page: Any, name: str = "ex-image") -> np.ndarray:
    """The pixels (32, 32, 3) of a canvas of the explorer, after all pending moves are drawn."""
    page.evaluate("() => new Promise((done) => setTimeout(done, 150))")
    content = page.evaluate(CANVAS, name).partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(int)


def eventually(seen: Callable[[], bool], seconds: int = 30) -> bool:
    """Whether something is seen within so many seconds; other tests compute meanwhile."""
    end = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > end:
            return False
        time.sleep(0.3)
    return True


PRESSED = """() => {
    window.moves = [];
    document.addEventListener("keydown", () => { window.pressed = performance.now(); }, true);
    window.painted = () => window.moves.push(performance.now() - window.pressed);
}"""


def typical_move(page: Any) -> float:
    """The time from a key to the next painting, in ms: the lower quartile, as other tests compute meanwhile."""
    quartiles = statistics.quantiles(page.evaluate("() => window.moves"))
    print(f"{page.title()}: key to paint in ms, quartiles {quartiles}")
    return quartiles[0]


def violations(page: Any) -> list[str]:
    """What axe-core finds serious or critical, in words."""
    from axe_playwright_python.sync_playwright import Axe

    found = [entry for entry in Axe().run(page).response["violations"] if entry["impact"] in ("serious", "critical")]
    return [f"{entry['id']}: {entry['nodes'][0]['html'][:200]}" for entry in found]


@pytest.fixture(scope="module")
def published() -> Path:
    """The committed report: after the few steps of a smoke run a decoder hardly answers, the real one does."""
    page = ROOT / "report" / "exercise_03" / "report.html"
    for name in ("page.css", "page.js", "unpack.js", "explorer.css", "explorer.js", "map.js", "picture.js"):
        assert asset(name) in page.read_text(encoding="utf-8"), f"{name} is newer: make report"
    return page


@pytest.fixture(scope="module")
def rendered(browser: Any, smoke: Path) -> Iterator[Watched]:
    """The report as it is rendered now, with its decoder started."""
    with opened(browser, smoke / "report" / "report.html") as watched:
        assert ready(watched.page) == "decoder"
        yield watched


@pytest.fixture(scope="module")
def explored(browser: Any, published: Path) -> Iterator[Watched]:
    """The committed report with its decoder started, shared by the tests that only move controls."""
    with opened(browser, published) as watched:
        assert ready(watched.page) == "decoder"
        yield watched


def test_the_report_asks_for_nothing_and_shows_every_picture(rendered: Watched) -> None:
    assert not rendered.asked and not rendered.errors
    broken = rendered.page.evaluate("""async () => {
        const images = [...document.images];
        await Promise.all(images.map((image) => image.decode()));
        return images.filter((image) => !image.naturalWidth || image.alt.length < 20).map((image) => image.alt);
    }""")
    assert not broken and rendered.page.locator("main img").count() > 15
    assert rendered.page.locator("math").count() > 10 and rendered.page.locator("nav a").count() > 20


def test_a_key_and_the_mouse_move_the_picture(explored: Watched) -> None:
    page = explored.page
    for name in ("ex-0", "ex-11"):  # the first and the last slider, both at once
        slider, before = page.locator(f"#{name}"), canvas(page)
        slider.focus()
        for _ in range(8):
            page.keyboard.press("ArrowRight")
        value = float(slider.input_value())
        assert page.locator(f"output[for={name}]").inner_text() == f"{value:.1f}".replace("-", "−")
        assert np.abs(canvas(page) - before).max() > 0
    before, box = canvas(page), page.locator("#ex-1").bounding_box()
    page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    assert float(page.locator("#ex-1").input_value()) > 2 and np.abs(canvas(page) - before).max() > 0


def test_its_pixels_are_pytorchs_and_its_morph_is_ours(explored: Watched) -> None:
    page, folder = explored.page, home("cifar10")
    reader, sharp = explorer_page.reader_of(folder, load_explorer_data(folder)), explorer_page.sharp_decoder(folder)
    page.wait_for_function("() => document.getElementById('ex-own').dataset.ready")  # the second decoder comes before
    count, errors = page.locator("#ex-start option").count(), []
    for index in range(0, count, 6):
        page.locator("#ex-start").select_option(str(index))
        z = torch.tensor(page.evaluate("() => [...latentExplorer.codeOf(latentExplorer.place())]"))
        with torch.no_grad():
            expected = reader(z[None])
            second = sharp(z[None])
        shown = [canvas(page, name) for name in ("ex-image", "ex-sharp")]
        exact = [255 * image[0].permute(1, 2, 0).numpy() for image in (expected.image, second)]
        errors.append(np.array(shown) - exact)
        meters = page.locator(".explorer-result meter").evaluate_all("(all) => all.map((meter) => meter.value)")
        assert np.abs(meters - expected.belief[0].numpy()).max() < 0.01
        assert float(page.locator("#ex-size").inner_text()) == pytest.approx(expected.size.item(), abs=0.1)
    # A third of a level by the rounding of the canvas, the rest by the rounding of the weights.
    mean, perceptual = np.sqrt(np.square(errors).mean((0, 2, 3, 4)))
    print(f"levels, root mean square: {mean:.2f} and {perceptual:.2f}")
    assert mean < 1.3 and perceptual < 7 and np.abs(np.array(errors)[:, 0]).max() < 25
    first, last = (int(page.locator(f"#ex-{end}").input_value()) for end in ("from", "to"))
    code = "(i) => [...latentExplorer.codeOf(latentExplorer.placeOf(i))]"
    a, b = (torch.tensor(page.evaluate(code, index)) for index in (first, last))
    for far in ("0", "0.5", "1"):
        page.locator("#ex-morph").fill(far)
        with torch.no_grad():
            expected = reader.decoder(slerp(a, b, 3)[round(2 * float(far))][None])
        assert np.abs(canvas(page, "ex-between") - 255 * expected[0].permute(1, 2, 0).numpy()).max() < 25


def test_the_browser_unpacks_what_python_packed(browser: Any, tmp_path: Path) -> None:
    draw, words = np.random.default_rng(0), [b"far", b"away ", bytes(300), b"the hills"]
    chosen = b"".join(words[i] for i in draw.integers(0, len(words), 3000))  # matches near and far, of all lengths
    (tmp_path / "empty.html").write_text("<title>Empty</title>", encoding="utf-8")
    unpack = f"(text) => {{ {asset('unpack.js')}; return [...unlzma(bytesOf(text))] }}"
    with opened(browser, tmp_path / "empty.html") as watched:
        for content in (b"", b"a", draw.bytes(5000), chosen, draw.bytes(400_000) + chosen + draw.bytes(3) + chosen):
            numbers = watched.page.evaluate(unpack, str(explorer_page.packed(content)))
            assert bytes(numbers) == content


def test_the_explorer_comes_first_and_starts_at_a_photograph(browser: Any, published: Path) -> None:
    with opened(browser, published) as watched:
        page = watched.page
        assert ready(page) == "decoder"
        after = "() => document.getElementById('latent-explorer').compareDocumentPosition("
        assert page.evaluate(
            after + "document.getElementById('task-formalization')) & Node.DOCUMENT_POSITION_FOLLOWING"
        )
        assert page.locator("nav a[href='#move-it-yourself']").count() == 1
        assert page.locator("#ex-start option:checked").inner_text().startswith("horse, test image")
        picture, slider = (page.locator(f"#{name}").bounding_box() for name in ("ex-image", "ex-0"))
        assert picture["x"] + picture["width"] <= slider["x"] and abs(picture["y"] - slider["y"]) < 300
        page.locator("#ex-random").click()
        assert not page.locator("#ex-start").input_value() and not page.locator("#ex-origin-figure").is_visible()


def test_no_table_is_cut_on_paper(browser: Any, published: Path) -> None:
    for name in ("report.html", "appendix.html"):
        with opened(browser, published.with_name(name), viewport={"width": 672, "height": 1000}) as watched:
            watched.page.emulate_media(media="print")
            cut = "(box) => box.scrollWidth > box.clientWidth + 1 && box.textContent.slice(0, 60)"
            found = [box.evaluate(cut) for box in watched.page.locator(".wide").all()]
            assert found and not any(found), name


def test_class_random_temperature_and_reset(explored: Watched) -> None:
    page = explored.page
    name = page.locator("#ex-class option").nth(3).inner_text()
    page.locator("#ex-class").select_option(name)
    offered = page.locator("#ex-start option:not([disabled])")
    assert {offered.nth(i).get_attribute("data-class") for i in range(offered.count())} == {name}
    start = canvas(page)
    page.locator("#ex-random").click()
    assert np.abs(canvas(page) - start).max() > 0
    page.locator("#ex-temperature").fill("0")
    mean = canvas(page)
    page.locator("#ex-random").click()
    assert np.abs(canvas(page) - mean).max() == 0
    page.locator("#ex-reset").click()
    assert np.array_equal(canvas(page), start) and page.locator("#ex-temperature").input_value() == "1"
    page.locator("#ex-class").select_option("")


def test_a_move_shows_within_a_tenth_of_a_second(explored: Watched) -> None:
    page = explored.page
    page.evaluate(PRESSED)
    page.evaluate("""() => {
        const paint = CanvasRenderingContext2D.prototype.putImageData;
        CanvasRenderingContext2D.prototype.putImageData = function (...given) {
            paint.apply(this, given);
            requestAnimationFrame(window.painted);
        };
    }""")
    page.locator("#ex-2").focus()
    for i in range(15):
        page.keyboard.press("ArrowRight" if i < 8 else "ArrowLeft")
        page.wait_for_function(f"() => window.moves.length > {i}")
    assert typical_move(page) < 100


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def choose(page: Any, name: str, content: bytes) -> None:
    """Choose a file as one's own picture and wait until the page has an answer."""
    page.wait_for_function("() => document.getElementById('ex-own').dataset.ready")
    page.evaluate("() => { latentExplorer.own.psnr = 0; }")
    page.set_input_files("#ex-file", {"name": name, "mimeType": "image/png", "buffer": content})
    page.wait_for_function(f"() => document.getElementById('ex-own-class').textContent.startsWith('{name}')")


QUALITY = """(quality) => {
    latentExplorer.own.psnr = 0;
    document.getElementById("ex-quality").value = quality;
    document.getElementById("ex-quality").dispatchEvent(new Event("input"));
}"""


def test_your_own_picture_costs_what_the_codec_says(explored: Watched, cifar10: Dataset) -> None:
    page, codec, n, qualities = explored.page, load_codec(home("cifar10") / "vae.safetensors"), 12, (10, 30, 45)
    images = cifar10.validation.images[:n].permute(0, 2, 3, 1).contiguous().numpy()
    sharp = explorer_page.sharp_decoder(home("cifar10"))
    belief = codec.model.classify(to_unit(cifar10.validation.images[:n])).argmax(1)
    codes, right, found, python = codec.codes(images), 0, [], []
    for i in range(n):
        choose(page, f"picture-{i}.png", png(images[i]))
        said = page.locator("#ex-own-class").inner_text()
        right += said.startswith(f"picture-{i}.png: {cifar10.class_names[belief[i]]} ")
        for quality in qualities:
            page.evaluate(QUALITY, quality)
            page.wait_for_function("() => latentExplorer.own.psnr")
            found.append(page.evaluate("() => [latentExplorer.own.file, latentExplorer.own.psnr]"))
            file = codec.write(images[i : i + 1], codes[i : i + 1], Plan.of(quality))
            error = codec.decompress(file).astype(float) - images[i]
            python.append((len(file), 10 * np.log10(255**2 / np.square(error).mean())))
            with torch.no_grad():
                second = sharp(torch.tensor([page.evaluate("() => [...latentExplorer.own.z]")]))[0].permute(1, 2, 0)
            assert np.sqrt(np.square(canvas(page, "ex-own-sharp") - 255 * second.numpy()).mean()) < 9
        shown = float(page.locator("#ex-own-size").inner_text())
        assert 0 <= found[-1][0] - OVERHEAD - 12 - shown < 8  # without the headers of both parts, and whole words
    differences = (np.array(found) - python).reshape(n, len(qualities), 2).mean(0)
    assert right >= n - 1 and np.all(np.abs(differences[:, 0]) < (1.5, 2, 4))  # bytes of about 25, 45 and 130
    assert np.all(np.abs(differences[:, 1]) < 0.25)  # dB
    assert not explored.errors and not explored.asked


GIVE = """([type, content]) => {
    const transfer = new DataTransfer(), bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
    transfer.items.add(new File([bytes], `${type}.png`, { type: "image/png" }));
    const event = type === "paste" ? new ClipboardEvent(type, { clipboardData: transfer, bubbles: true })
        : new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true });
    document.querySelector("h1").dispatchEvent(event);
}"""


def test_a_picture_is_chosen_pasted_or_dropped_and_a_text_is_refused(explored: Watched) -> None:
    page = explored.page
    photograph = astronaut()
    choose(page, "large.png", png(photograph))
    middle = np.asarray(Image.fromarray(photograph).resize((32, 32), Image.Resampling.BOX)).astype(int)
    large = canvas(page, "ex-own-original")
    assert np.abs(large - middle).mean() < 6
    choose(page, "notes.png", b"these are words")
    assert "no picture that this browser can read" in page.locator("#ex-own-class").inner_text()
    assert np.array_equal(canvas(page, "ex-own-original"), large)  # what was there stays
    for type, shade in (("paste", 200), ("drop", 90)):
        content = png(np.full((40, 60, 3), shade, np.uint8))
        page.evaluate(GIVE, [type, base64.b64encode(content).decode()])
        page.wait_for_function(f"() => document.getElementById('ex-own-class').textContent.startsWith('{type}.png')")
        assert np.abs(canvas(page, "ex-own-original") - shade).max() <= 1
    before = page.evaluate("() => [...latentExplorer.place()]")
    page.locator("#ex-own-explore").click()
    page.wait_for_function("() => !document.getElementById('ex-start').value")
    assert page.evaluate("() => [...latentExplorer.place()]") != before
    assert page.locator("#ex-draw").is_enabled()  # it has a posterior
    sizes = {2500: 0, 900: 60, 32: 180}  # of pictures that come faster than they are read, the last one stays
    contents = [
        base64.b64encode(png(np.full((size, size, 3), shade, np.uint8))).decode() for size, shade in sizes.items()
    ]
    page.evaluate(f"(contents) => contents.forEach((content) => ({GIVE})(['drop', content]))", contents)
    assert eventually(lambda: np.abs(canvas(page, "ex-own-original") - 180).max() <= 1)
    page.wait_for_timeout(2000)
    assert np.abs(canvas(page, "ex-own-original") - 180).max() <= 1  # the slower ones do not come after it


def test_a_picture_that_comes_before_the_encoder_runs_is_kept(browser: Any, published: Path) -> None:
    with opened(browser, published) as watched:
        page = watched.page
        page.evaluate(GIVE, ["drop", base64.b64encode(png(np.full((40, 60, 3), 90, np.uint8))).decode()])
        page.wait_for_function("() => document.getElementById('ex-own-class').textContent.startsWith('drop.png: ')")
        assert np.abs(canvas(page, "ex-own-original") - 90).max() <= 1 and not watched.errors
        box = page.locator("#ex-own").bounding_box()
        assert box["y"] < page.viewport_size["height"] and box["y"] + box["height"] > 0  # it has come into sight


def test_a_swipe_that_scrolls_moves_nothing(browser: Any, published: Path) -> None:
    with opened(browser, published, viewport=PHONE, has_touch=True) as watched:
        page = watched.page
        assert ready(page) == "decoder"
        touch = page.context.new_cdp_session(page)
        state = "() => [...latentExplorer.place(), Number(document.getElementById('ex-quality').value)]"
        page.wait_for_function("() => document.getElementById('ex-own').dataset.ready")
        for name in ("ex-3", "ex-temperature", "ex-quality", "ex-map"):
            page.locator(f"#{name}").evaluate("(box) => box.scrollIntoView({ block: 'center' })")
            before, top = np.array(page.evaluate(state)), page.evaluate("() => scrollY")
            box = page.locator(f"#{name}").bounding_box()
            x, y = box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2
            for kind, up in (("touchStart", 0), *(("touchMove", 20 * i) for i in range(1, 11)), ("touchEnd", None)):
                points = [] if up is None else [{"x": x, "y": y - up}]
                touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
                page.wait_for_timeout(20)
            assert eventually(lambda: page.evaluate("() => scrollY") > top + 50)  # noqa: B023 - called at once
            assert eventually(lambda: np.abs(page.evaluate(state) - before).max() < 0.06), name  # noqa: B023 - slider steps


def test_the_map_moves_the_code_in_its_plane_alone(explored: Watched) -> None:
    page = explored.page
    page.locator("#ex-reset").click()
    seen = page.locator("#ex-map")
    seen.scroll_into_view_if_needed()
    place = "() => [...latentExplorer.place()]"
    before, on = np.array(page.evaluate(place)), "() => latentExplorer.onMap(latentExplorer.place())"
    box, picture = seen.bounding_box(), canvas(page, "ex-map-image")
    assert abs(box["width"] - box["height"]) < 2
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    assert np.abs(page.evaluate(on)).max() < 0.05  # the middle is the mean code
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.up()
    right, up = page.evaluate(on)
    assert right > 0.5 and up > 0.5 and np.abs(canvas(page, "ex-map-image") - picture).max() > 10
    plane = load_explorer_data(home("cifar10")).plane.numpy()
    change = np.array(page.evaluate(place)) - before
    assert np.abs(change - plane.T @ (plane @ change)).max() < 1e-3  # nothing else moved
    seen.focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(on)[0] < right
    page.locator("#ex-temperature").fill("0.5")
    halved = np.array(page.evaluate(on)) / 2  # where the cross is
    seen.focus()
    page.keyboard.press("ArrowUp")
    assert page.locator("#ex-temperature").input_value() == "1"
    assert np.abs(np.array(page.evaluate(on)) - halved)[0] < 1e-3 < page.evaluate(on)[1] - halved[1] < 0.2
    page.locator("#ex-start").select_option("0")
    assert page.locator("#ex-draw").is_disabled()  # a mean code is no image's: it has no posterior


def test_draws_of_the_posterior_differ_as_much_as_it_says(explored: Watched, cifar10: Dataset) -> None:
    page, parts = explored.page, load_explorer_data(home("cifar10"))
    page.locator("#ex-start").select_option("1")
    index = next(i for i, start in enumerate(parts.starts) if start.image >= 0)
    page.locator("#ex-start").select_option(str(index))
    draws, seen = page.evaluate("""() => {
        const { codeOf, onMap, place } = latentExplorer, draws = [], seen = [];
        for (let i = 0; i < 400; i++) {
            document.getElementById("ex-draw").click();
            draws.push([...codeOf(place())]);
            seen.push([...onMap(place())]);
        }
        return [draws, seen];
    }""")
    codec = load_codec(home("cifar10") / "vae.safetensors")
    with torch.no_grad():
        posterior = codec.model.encode(to_unit(cifar10.test.images[parts.starts[index].image][None]))
    scaled = (torch.tensor(draws) - posterior.mu) / (posterior.logvar / 2).exp()
    assert 0.98 < scaled.std() < 1.02 and abs(scaled.mean()) < 0.03  # 400 x 128 standard normal numbers: 6 deviations
    variance, found = np.linalg.eigvalsh(np.cov(np.array(seen).T)), page.evaluate("() => latentExplorer.ellipse()")
    assert np.allclose([found["short"], found["long"]], 2 * np.sqrt(variance), rtol=0.2)  # of 400 draws: +-3.5 %


def test_the_ends_of_a_slider_show_what_it_leads_to(explored: Watched) -> None:
    page = explored.page
    for temperature in ("1", "0.5"):
        for name in ("ex-0", "ex-11"):
            page.locator("#ex-reset").click()
            page.locator("#ex-temperature").fill(temperature)
            page.locator("#ex-temperature").dispatch_event("change")
            for end, value in (("min", "-4"), ("max", "4")):
                page.locator(f"#{name}").fill(value)
                expected = canvas(page)
                assert eventually(lambda: np.array_equal(canvas(page, f"{name}-{end}"), expected))  # noqa: B023 - called at once
    page.locator("#ex-start").select_option(label=page.locator("#ex-start option").last.inner_text())
    assert eventually(lambda: np.array_equal(canvas(page, "ex-11-max"), expected) is False)
    wanted = canvas(page, "ex-11-max")
    page.locator("#ex-temperature").fill("0.5")
    page.locator("#ex-temperature").dispatch_event("change")
    page.locator("#ex-draw").click()  # at the temperature 1, and so are the ends
    assert eventually(lambda: np.array_equal(canvas(page, "ex-11-max"), wanted))


def test_a_link_brings_back_what_was_seen(browser: Any, explored: Watched, published: Path) -> None:
    page = explored.page

    def address() -> str:
        page.wait_for_timeout(300)
        return page.url

    page.locator("#ex-start").select_option("9")
    page.locator("#ex-2").fill("1.5")
    page.locator("#ex-map").focus()
    page.keyboard.press("ArrowUp")
    page.locator("#ex-draw").click()
    page.locator("#ex-3").fill("2")
    page.locator("#ex-temperature").fill("0.8")
    links, pictures = [address()], [canvas(page)]
    page.locator("#ex-random").click()
    page.locator("#ex-1").fill("-2")
    links.append(address())
    pictures.append(canvas(page))
    with opened(browser, published, at=links[0].partition("#")[2]) as watched:
        assert ready(watched.page) == "decoder" and links[0].startswith(published.as_uri() + "#explorer?start=9&")
        for link, picture in zip(links, pictures, strict=True):  # the second one is pasted into a page that is open
            watched.page.evaluate("(link) => { location.href = link; }", link)
            assert np.abs(canvas(watched.page) - picture).max() <= 2
            assert watched.page.locator("#ex-temperature").input_value() == "0.8"
        watched.page.locator("nav a[href='#evaluation']").evaluate("(link) => link.click()")
        watched.page.go_back()
        watched.page.wait_for_timeout(300)
        assert np.abs(canvas(watched.page) - pictures[1]).max() <= 2  # other links leave it alone
        assert not watched.page.locator("#ex-start").input_value() and not watched.errors


def test_a_link_that_makes_no_sense_is_the_usual_beginning(browser: Any, published: Path) -> None:
    link = "explorer?start=9999&temperature=warm&place=abc%3D"
    with opened(browser, published, at=link) as watched:
        assert ready(watched.page) == "decoder" and not watched.errors
        assert watched.page.locator("#ex-start option:checked").inner_text().startswith("horse, test image")
        assert np.isfinite(watched.page.evaluate("() => [...latentExplorer.place()]")).all()


def test_without_webassembly_the_page_says_so(browser: Any, published: Path) -> None:
    with opened(browser, published, script="delete globalThis.WebAssembly") as watched:
        page = watched.page
        assert ready(page) == "none" and not watched.asked and not watched.errors
        assert "no WebAssembly" in page.locator(".explorer-state").inner_text()
        assert not page.locator("#ex-0").is_visible() and not page.locator("#ex-morph").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_report_is_accessible_and_fits(browser: Any, smoke: Path, scheme: str, size: dict[str, int]) -> None:
    with opened(browser, smoke / "report" / "report.html", color_scheme=scheme, viewport=size) as watched:
        ready(watched.page)
        assert not violations(watched.page)
        assert watched.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        card = watched.page.locator(".picture img").first
        assert card.evaluate("(image) => getComputedStyle(image).backgroundColor") == "rgb(255, 255, 255)"


def test_headings_have_permalinks_and_the_contents_mark_the_place(browser: Any, published: Path) -> None:
    with opened(browser, published, viewport={"width": 1440, "height": 600}) as watched:
        page, link = watched.page, watched.page.locator("#generation .permalink")
        assert page.locator(":is(h2, h3, h4)[id] > .permalink").count() == page.locator("nav a").count() > 20
        assert link.evaluate("(link) => getComputedStyle(link).opacity") == "0"
        page.locator("#generation").hover()
        assert link.evaluate("(link) => getComputedStyle(link).opacity") == "1"
        page.get_by_role("heading", name="Generation").get_by_role("link", name="Link to this section").click()
        assert page.url.endswith("#generation")
        marked = page.locator("nav a[aria-current=true]")
        for place in ("generation", "task-formalization", "references"):  # down, up, to the end
            page.evaluate("(place) => document.getElementById(place).scrollIntoView()", place)
            page.locator(f"nav a[aria-current=true][href='#{place}']").wait_for()
            box, contents = marked.bounding_box(), page.locator("nav").bounding_box()
            assert marked.count() == 1
            assert contents["y"] <= box["y"] and box["y"] + box["height"] <= contents["y"] + contents["height"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_figure_opens_in_a_dialog_and_closes_in_three_ways(browser: Any, published: Path, scheme: str) -> None:
    with opened(browser, published, color_scheme=scheme, viewport=DESKTOP) as watched:
        page, button = watched.page, watched.page.locator(".picture").nth(2)
        dialog, before = page.get_by_role("dialog"), button.locator("img").bounding_box()["width"]
        caption = page.locator("figure:has(.picture) figcaption").nth(2).inner_text()
        close = dialog.get_by_role("button", name="Close")
        for shut in (lambda: page.keyboard.press("Escape"), dialog.locator("img").click, close.click):
            button.focus()
            page.keyboard.press("Enter")
            picture = dialog.locator("img")
            assert picture.bounding_box()["width"] > 1.4 * before
            assert picture.evaluate("(image) => getComputedStyle(image).imageRendering") == "auto"
            assert dialog.evaluate("(box) => box.scrollWidth <= box.clientWidth")
            assert dialog.locator("figcaption").inner_text() == caption
            shut()
            dialog.wait_for(state="hidden")
            assert button.evaluate("(button) => document.activeElement === button")
        button.click()
        assert not violations(page)
        page.set_viewport_size(PHONE)
        page.keyboard.press("Escape")
        button.click()
        dialog.get_by_role("button", name="Full size").click()
        natural = picture.evaluate("(image) => image.naturalWidth")
        assert picture.bounding_box()["width"] == natural > PHONE["width"] and not violations(page)
        assert not watched.errors


def test_without_javascript_a_figure_is_a_picture_with_its_caption(browser: Any, published: Path) -> None:
    with opened(browser, published, java_script_enabled=False) as watched:
        page = watched.page
        assert page.locator("figure > img").first.bounding_box()["width"] > 500 and not page.locator(".picture").count()
        assert page.locator("figure > figcaption").first.is_visible() and page.locator("nav a").first.is_visible()


def test_the_report_fits_on_few_sheets_of_paper(browser: Any, published: Path) -> None:
    with opened(browser, published, color_scheme="dark") as watched:
        sheets = re.findall(rb"/Type\s*/Page\b", watched.page.pdf(prefer_css_page_size=True))
        print(len(sheets), "sheets")
        assert 10 <= len(sheets) <= 30
        watched.page.emulate_media(media="print")
        for name in ("nav", ".explorer", ".permalink", "dialog"):
            assert not watched.page.locator(name).first.is_visible(), name
        for name in ("figure", "table"):
            assert watched.page.locator(name).first.evaluate("(box) => getComputedStyle(box).breakInside") == "avoid"
        assert watched.page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("name", ["report.html", "appendix.html"])
def test_a_laptop_shows_whole_tables_and_a_phone_scrolls_them_alone(browser: Any, published: Path, name: str) -> None:
    with opened(browser, published.with_name(name)) as watched:
        page = watched.page
        cut = """() => [...document.querySelectorAll(".wide")].filter((box) => box.scrollWidth > box.clientWidth)
            .map((box) => box.getAttribute("aria-label"))"""
        for width in (1024, 1280, 1344, 1440, 1920):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(cut) == [], width
        page.set_viewport_size(PHONE)
        scrolled = page.evaluate(cut)
        assert scrolled and len(set(scrolled)) == len(scrolled)  # each has a name of its own
        assert page.evaluate("() => document.documentElement.scrollWidth") == PHONE["width"]
        broken = """() => [...document.querySelectorAll("td")].map((cell) => {
            const text = document.createRange();
            text.selectNodeContents(cell);
            return cell.textContent.includes("±") && text.getClientRects().length > 1 && cell.textContent;
        }).filter((text) => text)"""
        assert page.evaluate(broken) == []


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """(address, token, folder) of a JupyterLab for this machine only, with folders of its own."""
    home, root = tmp_path_factory.mktemp("jupyter"), tmp_path_factory.mktemp("lab")
    quiet = home / "settings" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}', encoding="utf-8"
    )
    port = free_port()
    token, address = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    names = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
    names |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
    arguments = [
        "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", "--allow-root",
        f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    environment = os.environ | {name: str(home / folder) for name, folder in names.items()}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    log = home / "log"
    with log.open("w", encoding="utf-8") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *arguments],
            env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(f"{address}/api/status?token={token}", server, log)
        yield address, token, root
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the server ends its kernels itself
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    """Until the server answers. Fails with its log when it ends or does not answer in a minute."""
    for _ in range(300):
        assert server.poll() is None, log.read_text(encoding="utf-8")[-2000:]
        with contextlib.suppress(OSError):
            urllib.request.urlopen(address, timeout=2).close()
            return
        time.sleep(0.2)
    pytest.fail(f"JupyterLab does not answer: {log.read_text(encoding='utf-8')[-2000:]}")


RUNNING = "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status"


@contextlib.contextmanager
def notebook(
    browser: Any, lab: tuple[str, str, Path], name: str, *,
    last: str = "", first: str = "", change: tuple[str, str] = ("", ""), **parameters: Any,
) -> Iterator[Watched]:  # fmt: skip
    """A notebook open in JupyterLab, its kernel idle, with parameters as a student would type them.

    `last`: words of the cell it is cut off after, `first`: what its first cell does besides, `change`: other words.
    """
    address, token, root = lab
    content = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    end = next(number for number, cell in enumerate(content.cells, 1) if last in cell.source) if last else None
    content.cells = content.cells[:end]
    for cell in content.cells:
        cell.source = cell.source.replace(*change)
    cell = next(cell for cell in content.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items()) + f"\n{first}"
    nbformat.write(content, root / f"{name}.ipynb")
    watched = Watched(browser, address)
    try:
        watched.page.goto(f"{address}/lab/tree/{name}.ipynb?token={token}&reset")
        watched.page.wait_for_function(f"() => window.jupyterapp && {RUNNING} === 'idle'")
        yield watched
        assert not watched.asked, watched.asked
    finally:
        watched.context.close()


FINISHED = f"""() => {{
    const cells = [...window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells];
    const failed = document.querySelector("[data-mime-type='application/vnd.jupyter.error']");
    const run = cells.filter((cell) => cell.cell_type === "code").every((cell) => cell.execution_count);
    return failed || (run && {RUNNING} === "idle");
}}"""


def run_all(page: Any) -> None:
    """Run all cells, as the menu does, to the end. Fails when a cell ends in an error."""
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function(FINISHED, timeout=600_000)
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0


def test_the_explorer_in_jupyterlab(browser: Any, lab: tuple[str, str, Path], trained: Path) -> None:
    from playwright.sync_api import TimeoutError as NothingPainted

    folder = lab[2] / "trained"
    shutil.copytree(trained, folder)
    with notebook(browser, lab, "07_latent_explorer", profile="smoke", dataset="photos", out=str(folder)) as watched:
        page = watched.page
        run_all(page)
        picture = page.locator("img.decoded-image").first
        picture.scroll_into_view_if_needed()
        slider, source = page.locator(".noUi-handle").first, picture.get_attribute("src")
        page.evaluate(PRESSED)
        picture.evaluate("(image) => image.addEventListener('load', () => requestAnimationFrame(window.painted))")
        slider.focus()
        for _ in range(15):  # a step of this tiny model may be too small for a single level: then nothing is painted
            seen = page.evaluate("() => window.moves.length")
            page.keyboard.press("ArrowRight")
            with contextlib.suppress(NothingPainted):
                page.wait_for_function(f"() => window.moves.length > {seen}", timeout=5000)
        assert picture.get_attribute("src") != source
        assert page.evaluate("() => window.moves.length") >= 5
        assert typical_move(page) < 200  # 30 to 60 on an idle machine
        source = picture.get_attribute("src")
        page.locator(".class-picker select").first.select_option(index=2)
        page.wait_for_function("(old) => document.querySelector('img.decoded-image').src !== old", arg=source)


def test_the_live_plot_moves_and_leaves_one_picture(browser: Any, lab: tuple[str, str, Path], tmp_path: Path) -> None:
    settings = {"profile": "smoke", "dataset": "photos", "out": str(tmp_path), "epochs": 6, "fresh": True}
    often = "import helpers.show.live\nhelpers.show.live.MAX_DRAWING_FRACTION = 0.5"  # so that few epochs are enough
    few = ("steps: int = 300", "steps: int = 20")  # of the tiny networks, which come first
    last, name = "with LiveTraining", "03_vae_training"
    with notebook(browser, lab, name, last=last, first=often, change=few, **settings) as watched:
        page = watched.page
        page.evaluate("""() => {
            window.seen = new Set(); window.most = 0;
            setInterval(() => {
                for (const cell of document.querySelectorAll(".jp-CodeCell")) {
                    if (!cell.querySelector(".jp-InputArea")?.textContent.includes("with LiveTraining")) continue;
                    const shown = cell.querySelectorAll(".jp-OutputArea img");
                    window.most = Math.max(window.most, shown.length);
                    shown.forEach((image) => window.seen.add(image.src));
                }
            }, 100);
        }""")
        run_all(page)
        seen, most = page.evaluate("() => [window.seen.size, window.most]")
        assert seen >= 3 and most == 1, (seen, most)
