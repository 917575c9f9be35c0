"""Every metric of a model, and the program that stores them."""

import math
from pathlib import Path

import pytest
import torch

from helpers.data import Dataset, to_unit
from helpers.evaluate import evaluate_model, main
from helpers.losses import bits_per_dim
from helpers.measure.rows import load
from helpers.models import VAE
from helpers.run import load_model, load_vae

from .conftest import assert_one_line_error, refused, run_module


def test_the_pixel_regression_has_errors_that_shrink_with_the_number_of_images(trained: Path, photos: Dataset) -> None:
    vae, _ = load_model(trained / "vae.safetensors")
    few, many = (evaluate_model(vae, photos.test.take(torch.arange(50).repeat(k))).metrics for k in (1, 4))
    for name in ("slope", "pixel_r2", "rmse"):
        assert many[name].value == pytest.approx(few[name].value)
        assert many[name].stderr == pytest.approx(few[name].stderr / 2, rel=0.02)


def test_evaluation_repeats_to_the_last_digit(trained: Path, photos: Dataset) -> None:
    vae, _ = load_model(trained / "vae.safetensors")
    assert evaluate_model(vae, photos.test).metrics == evaluate_model(vae, photos.test).metrics


class Constant(torch.nn.Module):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return torch.full((len(z), 3, 32, 32), 0.5)


class Nothing(torch.nn.Module):
    def forward(self, x: torch.Tensor, hidden: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(x), 8), torch.zeros(len(x), 2)  # the posterior is the prior


def test_a_foreign_network_is_evaluated_like_ours(photos: Dataset) -> None:
    model = VAE(Nothing(), Constant(), torch.nn.Linear(2, 10), torch.nn.Linear(4, 10), sigma=0.3)
    metrics = evaluate_model(model, photos.test.head(50)).metrics
    error = (to_unit(photos.test.images[:50]) - 0.5).square().mean().item()
    assert metrics["rate"].value == 0 and metrics["mse"].value == pytest.approx(error, rel=1e-5)
    assert metrics["active_units"].value == 0 and metrics["sigma"].value == pytest.approx(0.3)


@pytest.mark.slow
def test_the_program_writes_every_metric_of_a_split_with_its_provenance(trained: Path, tmp_path: Path) -> None:
    out, weights = tmp_path / "metrics.json", str(trained / "vae.safetensors")
    done = run_module("helpers.evaluate", "--split", "test", "--weights", weights, "--out", str(out))
    assert done.returncode == 0, done.stderr
    refused(lambda: main("no split", out=out, weights=tmp_path / "no"), "does not exist")  # over its own it writes
    table, origin = load(out)
    assert {row.split for row in table.rows} == {"test"} and origin["environment"]["torch"]
    assert table.row("mse").n == 100 and table.value("psnr_pooled", model="pca") > 15
    assert table.value("elbo") == pytest.approx(-table.value("distortion") - table.value("rate"), rel=1e-6)
    assert table.row("psnr_pooled").stderr > 0 and table.row("sigma").stderr is None
    assert table.value("psnr_mean") > table.value("psnr_pooled")


@pytest.mark.slow
def test_the_program_explains_bad_input_in_one_line(tmp_path: Path) -> None:
    missing = run_module("helpers.evaluate", "--weights", str(tmp_path / "no.safetensors"))
    assert_one_line_error(missing, "does not exist")
    assert_one_line_error(run_module("helpers.evaluate", "--split", "tests"), "tests")


def test_a_file_of_somebody_else_is_not_written_over(tmp_path: Path) -> None:
    for name in ("mine.json", "table.csv"):
        (tmp_path / name).write_text("mine", encoding="utf-8")
    for name, words in (("mine.json", "mine.json exists"), ("table.json", "table.csv exists"), ("x.csv", ".json")):
        refused(lambda name=name: main("test", out=tmp_path / name), words)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"mine", b"mine"]


def test_at_the_calibrated_sigma_the_closed_form_gives_the_density_bits(trained: Path, photos: Dataset) -> None:
    """Where sigma is the RMSE of decoded samples, bits = log2(255 sigma sqrt(2 pi e)) + rate, to the last digit."""
    vae, split = load_vae(trained / "vae.safetensors"), photos.test.head(200)
    for uncalibrated in (True, False):  # the error of samples does not change when sigma does
        found = {name: e.value for name, e in evaluate_model(vae, split).metrics.items()}
        sigma = math.sqrt(found["mse_sample"])
        closed = math.log2(255 * sigma * math.sqrt(2 * math.pi * math.e)) + bits_per_dim(found["rate"], 3072)
        assert (found["bpd_density"] != pytest.approx(closed, rel=1e-5)) is uncalibrated
        vae.log_sigma.data.fill_(math.log(sigma))
