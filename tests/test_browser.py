"""JupyterLab and the pages in a real browser (Debian's Chromium), without a network.

Skipped where no browser is installed; with BROWSER_REQUIRED=1 its absence is a failure.
"""

import base64
import contextlib
import io
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.engine.files import ROOT, home
from helpers.priors import slerp
from helpers.publish import explorer_page
from helpers.publish.page import asset
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
def opened(browser: Any, path: Path, **options: Any) -> Iterator[Watched]:
    """A file opened from file:// in a context without a network."""
    watched = Watched(browser, path.as_uri(), offline=True, **options)
    watched.page.goto(path.as_uri())
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
    for name in ("unpack.js", "explorer.js"):
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
    reader = explorer_page.reader_of(folder, load_explorer_data(folder))
    count = page.locator("#ex-start option").count()
    for index in (0, 1, count // 2, count - 1):
        page.locator("#ex-start").select_option(str(index))
        z = torch.tensor(page.evaluate("() => [...latentExplorer.codeOf(latentExplorer.place())]"))
        with torch.no_grad():
            expected = reader(z[None])
        # Half a level by the rounding of the canvas, and the rounding of the weights.
        assert np.abs(canvas(page) - 255 * expected.image[0].permute(1, 2, 0).numpy()).max() <= 2
        assert float(page.locator("#ex-size").inner_text()) == pytest.approx(expected.size.item(), abs=0.1)
    first, last = (int(page.locator(f"#ex-{end}").input_value()) for end in ("from", "to"))
    code = "(i) => [...latentExplorer.codeOf(latentExplorer.placeOf(i))]"
    a, b = (torch.tensor(page.evaluate(code, index)) for index in (first, last))
    for far in ("0", "0.5", "1"):
        page.locator("#ex-morph").fill(far)
        with torch.no_grad():
            expected = reader.decoder(slerp(a, b, 3)[round(2 * float(far))][None])
        assert np.abs(canvas(page, "ex-between") - 255 * expected[0].permute(1, 2, 0).numpy()).max() <= 2


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
        with opened(browser, published.with_name(name), viewport={"width": 718, "height": 1000}) as watched:
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


def test_a_figure_grows_without_blur_and_the_page_prints(rendered: Watched) -> None:
    page = rendered.page
    button = page.locator(".picture").first
    before = button.locator("img").bounding_box()["width"]
    button.focus()
    page.keyboard.press("Enter")
    assert button.locator("img").bounding_box()["width"] > 1.2 * before
    assert button.locator("img").evaluate("(image) => getComputedStyle(image).imageRendering") == "pixelated"
    page.keyboard.press("Enter")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.emulate_media(media="screen")


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
    browser: Any, lab: tuple[str, str, Path], name: str, *, last: str = "", first: str = "", **parameters: Any
) -> Iterator[Watched]:
    """A notebook open in JupyterLab, its kernel idle, with parameters as a student would type them.

    `last`: words of the cell it is cut off after, `first`: what its first cell does besides.
    """
    address, token, root = lab
    content = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    end = next(number for number, cell in enumerate(content.cells, 1) if last in cell.source) if last else None
    content.cells = content.cells[:end]
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
    with notebook(browser, lab, "03_vae_training", last="with LiveTraining", first=often, **settings) as watched:
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
