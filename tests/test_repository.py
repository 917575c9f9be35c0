"""What stands around the code: the environment file, the Makefile, the README's numbers, the published model."""

import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import tomllib
import venv
from pathlib import Path

import cmarkgfm
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from helpers.engine import read_json
from helpers.engine.files import ROOT, home
from helpers.measure.rows import load

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "jupyter-client": "jupyter_client"}


def test_environment_yml_asks_for_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {"python": SpecifierSet(project["requires-python"])}
    for requirement in map(Requirement, project["dependencies"]):
        wanted[CONDA_NAMES.get(requirement.name, requirement.name)] = requirement.specifier
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    plain = [entry for entry in entries if isinstance(entry, str) and entry != "pip"]
    plain += [entry for entry in pip if not entry.startswith("-e")]
    stated = {re.split(r"[ <>=]", entry)[0]: SpecifierSet(entry.partition(" ")[2]) for entry in plain}
    assert stated == wanted and "-e ." in pip


def test_the_makefile_has_one_python_line_for_each_job() -> None:
    text, readme = (ROOT / "Makefile").read_text(encoding="utf-8"), (ROOT / "README.md").read_text(encoding="utf-8")
    for job in ("report", "train", "smoke", "lab", "quick", "test", "clean"):
        assert re.search(rf"^{job}:", text, re.M)
    for line, module in re.findall(r"-m ((helpers[\w.]*)(?: [a-z]+)?)", text):
        assert line in readme and importlib.util.find_spec(module), line


def test_what_a_user_of_the_course_needs_lies_at_the_top() -> None:
    folders = ("helpers", "notebooks", "outs", "report", "tests")
    for name in (*folders, "README.md", "Makefile", "pyproject.toml", "environment.yml", "constraints.txt"):
        assert (ROOT / name).exists(), name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert licence.startswith("MIT License") and project["license"] == citation["license"] == "MIT"
    assert citation["version"] == project["version"] and citation["authors"] and citation["cff-version"] == "1.2.0"
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert container["postCreateCommand"] in ("make smoke", "make report")


def test_constraints_pin_every_package_and_name_no_host() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"https?:|file:|@|--", text)
    pinned = {canonicalize_name(r.name): r.specifier for r in map(Requirement, filter(None, text.splitlines()[2:]))}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in map(Requirement, project["dependencies"] + project["optional-dependencies"]["test"]):
        (pin,) = pinned[canonicalize_name(requirement.name)]
        assert pin.operator == "==" and requirement.specifier.contains(pin.version), requirement.name


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a checkout as make needs, in a folder with an odd name; pip finds nothing to install."""
    place = tmp_path / "a copy, été"
    for folder in ("helpers", "tests", "outs/exercise_03/notebooks", "outs/my_long_run", "data"):
        (place / folder).mkdir(parents=True)
    (place / "helpers" / "notebook.py").touch()
    shutil.copy(ROOT / "Makefile", place)
    project = '[project]\nname = "no"\ndependencies = ["no-such-thing"]\n'
    (place / "pyproject.toml").write_text(project, encoding="utf-8")
    return place


def make(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make -C place arguments` in another folder, without a network."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "MAKEFLAGS", "MAKELEVEL")}
    return subprocess.run(
        ["make", "-C", str(place), *arguments], cwd=place.parent, env=environment | {"PIP_NO_INDEX": "1"},
        capture_output=True, text=True, encoding="utf-8", timeout=120,
    )  # fmt: skip


def test_make_clean_removes_what_make_made_and_nothing_else(checkout: Path) -> None:
    """Also where there is no git, as in a zip that was downloaded."""
    mine = ["data/x", "notes.txt", ".env", "outs/my_long_run/vae.safetensors", "outs/exercise_03/pca.safetensors"]
    made = [".venv/x", ".mypy_cache/x", "helpers/__pycache__/x"]
    for name in (*mine, *made):
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).touch()
    done = make(checkout, "clean")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert all((checkout / name).exists() for name in mine) and not any((checkout / name).exists() for name in made)


def test_make_outside_the_checkout_is_one_line(checkout: Path) -> None:
    """`make -f checkout/Makefile clean` would clean the folder one is in."""
    done = make(checkout.parent, "-f", str(checkout / "Makefile"), "clean")
    assert done.returncode == 2 and "call make in the folder of this Makefile" in done.stderr


@pytest.mark.parametrize("state", ["none", "half-made", "whole", "another Python", "dead"])
def test_make_sees_what_its_environment_needs(checkout: Path, state: str) -> None:
    place, arguments = checkout / ".venv", ["-n", "report"]
    if state != "none":
        venv.create(place, symlinks=True)
    if state in ("whole", "another Python"):
        package = next(place.glob("lib/python*/site-packages"))
        shutil.copytree(Path(importlib.util.find_spec("pip").origin).parent, package / "pip")
        (package / "pip-1.dist-info").mkdir()
        (package / "pip-1.dist-info" / "METADATA").write_text("Name: pip\nVersion: 1\n", encoding="utf-8")
        shutil.copy(checkout / "pyproject.toml", place / ".installed")
    if state == "another Python":
        arguments.append("PYTHON=echo 3.99; true")
    if state == "dead":
        (place / "bin" / "python").unlink()
    text = make(checkout, *arguments).stdout
    needs = {"half-made": "-m ensurepip", "whole": ""}.get(state, "-m venv --clear .venv")
    assert needs in text and ("pip install" in text) == (state != "whole"), text
    assert ("--clear" in text) == ("--clear" in needs)


@pytest.mark.slow
def test_an_installation_that_fails_is_tried_again(checkout: Path) -> None:
    for _ in range(2):
        done = make(checkout, "report")
        assert done.returncode and "error: the installation did not finish; the same command" in done.stderr
        assert not (checkout / ".venv" / ".installed").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX")
def test_make_lab_works_for_root_and_for_this_machine_only(checkout: Path) -> None:
    line = make(checkout, "-n", "lab").stdout
    assert "--ip=127.0.0.1" in line and ("--allow-root" in line) == (os.geteuid() == 0)
    opened = line.partition("default_url=/lab/tree/")[2].split()[0]
    assert (ROOT / opened).is_file()


def test_the_published_model_beats_the_linear_code_on_test() -> None:
    table, _ = load(home("cifar10") / "metrics.json")
    psnr = table.row("psnr_pooled")
    assert psnr.n == 10_000 and psnr.value >= 24.0 > table.value("psnr_pooled", model="pca")
    assert table.value("active_units") == 128
    sampled = table.value("mse_sample") ** 0.5
    assert table.value("sigma") == pytest.approx(sampled, rel=0.01)  # the calibrated decoder, so the closed form holds:
    closed = math.log2(255 * sampled * math.sqrt(2 * math.pi * math.e)) + table.value("rate") / 3072 / math.log(2)
    assert table.value("bpd_density") == pytest.approx(closed, abs=1e-4)


def test_the_readme_quotes_the_committed_codec() -> None:
    measured = read_json(home("cifar10") / "compression.json")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = {"PCA with our coder": "PCA, coded as ours"}
    targets = re.findall(r"(\d\d) dB \|", re.search(r"^\| \| 24 dB.*$", readme, re.M).group(0))
    for label in ("ours", "PCA with our coder", "AVIF", "JPEG XL", "WebP"):
        *cells, bits = re.search(rf"^\| {label} \|(.*)\|$", readme, re.M).group(1).replace(" ", "").split("|")
        wanted = [measured["table"][target].get(names.get(label, label)) for target in targets]
        assert cells == ["–" if value is None else f"{value:.0f}" for value in wanted], label
        whole = measured["lossless"].get(label)
        assert bits == ("–" if whole is None else f"{8 * whole / 3072:.2f}"), label
    for part in ("decoder", "pixels"):
        assert f"{measured['weights'][part]:,}" in readme


def test_the_readme_quotes_the_committed_metrics() -> None:
    table, _ = load(home("cifar10") / "metrics.json")
    labels = {
        "PSNR, pooled (dB)": ("psnr_pooled", 1), "SSIM": ("ssim", 1), "accuracy (%)": ("accuracy", 100),
        "accuracy from the code alone (%)": ("code_accuracy", 100), "rate (nats per image)": ("rate", 1),
        "bits per dimension (probability of the 8-bit image)": ("bpd", 1),
    }  # fmt: skip
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for label, (name, factor) in labels.items():
        row = re.search(rf"^\| {re.escape(label)} \|(.*)\|$", readme, re.M).group(1)
        for text, model in zip(row.split("|"), ("vae", "autoencoder", "pca"), strict=True):
            quoted = text.strip()
            if quoted != "–":
                value = factor * table.value(name, model=model)
                assert quoted == f"{value:.{len(quoted.partition('.')[2])}f}", (label, model)


def first_screen() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## ")[0]


def test_the_first_screen_says_what_it_is_what_it_reaches_how_to_start_and_how_to_read() -> None:
    text, makefile = first_screen(), (ROOT / "Makefile").read_text(encoding="utf-8")
    plain = re.sub(r"\]\([^)]*\)", "]", text)
    assert len(plain.split()) < 380 and "![" not in text  # the pictures follow: the first alone fills a screen
    for part in ("classifies, compresses, decompresses and generates", "**What it reaches.**", "**How to start.**",
                 "**How to read it.**", "MIT", "CC BY 4.0"):  # fmt: skip
        assert part in text, part
    assert re.findall(r"^\| (5 minutes|90 minutes|a course) \|", text, re.M) == ["5 minutes", "90 minutes", "a course"]
    jobs = re.findall(r"^make (\w+)", text, re.M)
    assert jobs == ["report", "test", "lab"] and all(re.search(rf"^{job}:", makefile, re.M) for job in jobs)


def test_the_numbers_of_the_first_screen_are_the_committed_ones() -> None:
    table, _ = load(home("cifar10") / "metrics.json")
    measured = read_json(home("cifar10") / "compression.json")
    text, bits = first_screen(), {name: 8 * size / 3072 for name, size in measured["lossless"].items()}
    psnr = [table.value("psnr_pooled", model=model) for model in ("vae", "pca")]
    minutes = read_json(home("cifar10") / "vae_history.json")["records"][-1]["seconds"] / 60
    assert f"trained on two CPU cores in {minutes:.0f} minutes" in text
    said = f"recognises {100 * table.value('accuracy'):.1f} % and reconstructs with {psnr[0]:.2f} dB"
    assert said in text and f"reaches {psnr[1]:.2f} dB" in text
    assert f"{bits['ours']:.2f} bits a value (JPEG XL: {bits['JPEG XL']:.2f})" in text
    for row in (*measured["table"].values(), measured["lossless"]):  # "smaller at every quality that we compared"
        assert all(row["ours"] < row[name] for name in ("AVIF", "JPEG XL", "WebP") if row.get(name))


def anchor(heading: str) -> str:
    """The place of a heading, as GitHub names it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", ["README.md", "report/exercise_03/README.md"])
def test_github_shows_the_readme(name: str) -> None:
    """Links lead somewhere, tables are tables, nothing of the HTML is dropped."""
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    read = cmarkgfm.github_flavored_markdown_to_html(text)
    fenced = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    places = {anchor(heading) for heading in re.findall(r"^#+ (.+)$", fenced, re.M)}
    for link in re.findall(r"(?:href|src)=\"([^\"]+)\"", read):
        file, _, place = link.partition("#")
        if not link.startswith(("https://", "http://")):
            assert not file or (path.parent / file).exists(), link
            assert not place or file or place in places, link
    assert read.count("<table>") == len(re.findall(r"^\| ?:?-+", fenced, re.M)) and read.count("<img ") == text.count(
        "!["
    )
    shown = {"details", "div", "summary"}  # cmark-gfm and GitHub's sanitiser let these through
    assert set(re.findall(r"<(\w+)", re.sub(r"`[^`]*`|<!--.*?-->", "", fenced, flags=re.S))) <= shown
    assert len(text.encode()) < 500_000  # GitHub cuts a README at 500 KiB (docs.github.com, About READMEs)
