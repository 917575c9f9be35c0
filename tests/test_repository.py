"""What stands around the code: the environment file, the Makefile, the README's numbers, the published model."""

import importlib.util
import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from helpers.engine.files import ROOT, home
from helpers.measure.rows import load

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def test_environment_yml_asks_for_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"python": SpecifierSet(project["requires-python"])}
    for requirement in map(Requirement, project["dependencies"]):
        wanted[CONDA_NAMES.get(requirement.name, requirement.name)] = requirement.specifier
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    plain = [entry for entry in entries if isinstance(entry, str) and entry != "pip"]
    plain += [entry for entry in pip if not entry.startswith("-e")]
    stated = {re.split(r"[ <>=]", entry)[0]: SpecifierSet(entry.partition(" ")[2]) for entry in plain}
    assert stated == wanted and "-e ." in pip


def test_the_makefile_has_one_python_line_for_each_job() -> None:
    text, readme = (ROOT / "Makefile").read_text(), (ROOT / "README.md").read_text()
    for job in ("report", "train", "smoke", "lab", "test", "clean"):
        assert re.search(rf"^{job}:", text, re.M)
    for line, module in re.findall(r"-m ((helpers[\w.]*)(?: [a-z]+)?)", text):
        assert line in readme and importlib.util.find_spec(module), line


def test_the_published_model_beats_the_linear_code_on_test() -> None:
    table, _ = load(home("cifar10") / "metrics.json")
    psnr = table.row("psnr_pooled")
    assert psnr.n == 10_000 and psnr.value >= 24.0 > table.value("psnr_pooled", model="pca")
    assert table.value("active_units") == 128
    assert table.value("sigma") == pytest.approx(table.value("rmse"), rel=0.05)


def test_the_readme_quotes_the_committed_metrics() -> None:
    table, _ = load(home("cifar10") / "metrics.json")
    labels = {
        "PSNR, pooled (dB)": ("psnr_pooled", 1), "SSIM": ("ssim", 1), "accuracy (%)": ("accuracy", 100),
        "accuracy from the code alone (%)": ("code_accuracy", 100), "rate (nats per image)": ("rate", 1),
        "bits per dimension": ("bpd", 1),
    }  # fmt: skip
    readme = (ROOT / "README.md").read_text()
    for label, (name, factor) in labels.items():
        row = re.search(rf"^\| {re.escape(label)} \|(.*)\|$", readme, re.M).group(1)
        for text, model in zip(row.split("|"), ("vae", "autoencoder", "pca"), strict=True):
            quoted = text.strip()
            if quoted != "–":
                value = factor * table.value(name, model=model)
                assert quoted == f"{value:.{len(quoted.partition('.')[2])}f}", (label, model)
