"""Training trains, resumes bit for bit and stores only what it can read again."""

import dataclasses
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import helpers
from helpers.config import ROOT, Settings, UserError, profile_settings
from helpers.data import Dataset, to_unit
from helpers.evaluate import evaluate_linear, evaluate_model, linear_code
from helpers.losses import kl_per_dim
from helpers.models import VAE, build_model
from helpers.optim import Muon, orthogonalised
from helpers.priors import class_gaussians, fit_mixture, sample_class, sample_mixture, slerp
from helpers.runs import experiments
from helpers.runs.benchmark import training_flop
from helpers.runs.experiments import LOOP, loop_settings
from helpers.runs.peer_models import LATENT, adopt
from helpers.storage import history_path, load_history, load_model, weights_path
from helpers.training import fit, load_or_train, one_cycle, train, validate

from .conftest import assert_one_line_error, run_module


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


KEEPING = """
import psutil, torch
from helpers.runtime import freed_memory_kept

def mib():
    return psutil.Process().memory_info().rss / 2**20

before = mib()
with freed_memory_kept():
    with freed_memory_kept():
        del (x := [torch.ones(50_000_000)])[:]  # 191 MiB
    kept = mib() - before
print(kept, mib() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc")
def test_freed_memory_is_kept_inside_the_outermost_block_and_then_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", KEEPING], cwd=ROOT, capture_output=True, text=True, check=True)
    kept, left = map(float, done.stdout.split())
    assert kept > 180 and left < 60, done.stdout


def test_training_lowers_the_loss_and_validation_changes_nothing(photos: Dataset, tiny: Settings) -> None:
    model = build_model(tiny, 10)
    before = validate(model, photos.validation)
    records = list(fit(model, photos, dataclasses.replace(tiny, epochs=4)))
    frozen = {k: v.clone() for k, v in model.state_dict().items()}
    after = validate(model, photos.validation)
    assert all(torch.equal(v, frozen[k]) for k, v in model.state_dict().items())
    assert after["validation_distortion"] < before["validation_distortion"]
    assert [r["epoch"] for r in records] == [1, 2, 3, 4] and records[-1]["lr"] == pytest.approx(0, abs=1e-9)
    wanted = {f"{split}_{term}" for split in ("train", "validation") for term in ("distortion", "rate", "accuracy")}
    assert wanted | {"sigma", "lr", "images_per_second"} <= set(records[0])


def test_validation_sees_every_image_and_repeats(photos: Dataset, tiny: Settings) -> None:
    model = build_model(tiny, 10)
    whole = validate(model, photos.validation, batch_size=500)
    assert whole == validate(model, photos.validation, batch_size=500)
    uneven = validate(model, photos.validation, batch_size=73)
    assert uneven["validation_rate"] == pytest.approx(whole["validation_rate"], rel=1e-4)


@pytest.mark.parametrize("muon_rate", [0.0, 2.5])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    muon_rate: float, photos: Dataset, tiny: Settings, tmp_path: Path
) -> None:
    tiny = dataclasses.replace(tiny, muon_rate=muon_rate)
    whole, stopped, resumed = (build_model(tiny, 10) for _ in range(3))
    expected = list(fit(whole, photos, tiny))
    checkpoint = tmp_path / "c.safetensors"
    next(fit(stopped, photos, tiny, checkpoint))
    found = list(fit(resumed, photos, tiny, checkpoint))
    assert same(whole, resumed)
    times = ("seconds", "images_per_second")
    assert [{k: v for k, v in r.items() if k not in times} for r in found] == [
        {k: v for k, v in r.items() if k not in times} for r in expected
    ]


def test_a_checkpoint_of_other_settings_is_refused(photos: Dataset, tiny: Settings, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    next(fit(build_model(tiny, 10), photos, tiny, checkpoint))
    other = dataclasses.replace(tiny, lr=1e-3)
    with pytest.raises(UserError, match="lr 0.002 -> 0.001"):
        next(fit(build_model(other, 10), photos, other, checkpoint))


def test_a_loss_that_is_not_finite_stops_the_run(photos: Dataset, tiny: Settings) -> None:
    model = build_model(tiny, 10)
    torch.nn.init.constant_(model.encoder.to_code.bias, float("nan"))
    with pytest.raises(UserError, match="step 0"):
        next(fit(model, photos, tiny))


def test_the_seed_decides_the_weights(photos: Dataset, tiny: Settings) -> None:
    one, two, other = (build_model(dataclasses.replace(tiny, seed=seed), 10) for seed in (0, 0, 1))
    assert same(one, two) and not same(one, other)


def test_muon_makes_every_direction_count_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((24, 60), (60, 24)):
        u, _, v = torch.linalg.svd(matrix := torch.randn(shape, generator=generator), full_matrices=False)
        found = orthogonalised(matrix)
        values = torch.linalg.svdvals(found)
        assert 0.6 < values.min() and values.max() < 1.3
        assert (found * (u @ v)).sum() / (found.norm() * (u @ v).norm()) > 0.98  # the nearest orthogonal matrix


def test_the_orthogonalisation_is_the_published_iteration() -> None:
    """The same polynomial applied to the matrix itself, as Jordan (2024) writes it, in float64."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((24, 200), (200, 24), (40, 40)):
        matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
        x = (matrix if shape[0] <= shape[1] else matrix.T) / matrix.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        published = x if shape[0] <= shape[1] else x.T
        assert torch.allclose(orthogonalised(matrix), published, atol=1e-6)
        assert torch.allclose(orthogonalised(matrix.float()).double(), published, atol=2e-4)


def test_a_muon_step_has_the_size_that_its_learning_rate_says() -> None:
    kernel = torch.nn.Parameter(torch.randn(32, 16, 3, 3, generator=torch.Generator().manual_seed(0)))
    before = kernel.detach().clone()
    (1e4 * kernel.sin().sum()).backward()
    Muon([kernel], lr=0.01).step()
    moved = (kernel - before).square().mean().sqrt().item()
    assert moved == pytest.approx(0.2 * 0.01, rel=0.15)  # whatever the size of the gradient


def test_the_reference_classifier_learns_and_takes_no_part_in_a_vae(photos: Dataset, tmp_path: Path) -> None:
    settings = profile_settings("smoke", "reference", "photos", width=8, epochs=6, n_train=1024)
    model, history = train(photos, settings, tmp_path)
    last = history.records[-1]
    assert last["validation_accuracy"] > 0.2 and last["validation_distortion"] == last["validation_rate"] == 0
    stored, _ = load_model(weights_path(tmp_path, "reference"))
    assert stored.features(to_unit(photos.test.images[:2])).shape == (2, 256)
    published = profile_settings("full", "reference")
    assert published.seed != profile_settings().seed
    for module in ("losses", "data"):
        assert "reference" not in (ROOT / "helpers" / f"{module}.py").read_text()


def test_the_arithmetic_of_training_is_counted() -> None:
    settings = profile_settings("smoke", "reference", width=16)
    convolutions = [(3, 24, 2, 31), (24, 16, 3, 31), (16, 16, 3, 15), (16, 128, 3, 15), (128, 128, 3, 7)]
    convolutions += [(128, 256, 3, 7), (256, 256, 3, 3)]
    forward = sum(2 * cin * cout * k * k * size * size for cin, cout, k, size in convolutions) + 2 * 256 * 10
    first = 2 * 3 * 24 * 2 * 2 * 31 * 31  # the images need no gradient
    assert training_flop(settings, 10) == pytest.approx(3 * forward - first)


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("benchmark", ("--rounds", "0"), ("--rounds 0",)),
        ("experiments", ("--only", "beta=4"), ("'beta=4'", "'beta = 4'")),
        ("peers", ("--only", "pythe"), ("'pythe'", "'pythae'")),
        ("peers", ("--minutes", "-1"), ("--minutes -1",)),
    ],
)
def test_the_runs_explain_bad_input(module: str, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_one_line_error(run_module(f"helpers.runs.{module}", *arguments), *words)


def test_every_experiment_differs_from_its_parent_in_what_it_says() -> None:
    settings = loop_settings(profile_settings())
    for name, (parent, change, _) in LOOP.items():
        if parent:
            mine, theirs = settings[name].as_dict(), settings[parent].as_dict()
            assert {k for k in mine if mine[k] != theirs[k]} == set(change), name


def test_a_run_of_the_loop_is_a_row_that_can_be_read_again(tiny: Settings, photos: Dataset, tmp_path: Path) -> None:
    settings = loop_settings(dataclasses.replace(tiny, epochs=1))
    path = tmp_path / "experiments.csv"
    names = "autoencoder", "seed 1"
    experiments.write_rows(path, [{"name": n} | experiments.measure(settings[n], photos) for n in names])
    found = experiments.read_rows(path)
    assert list(found) == ["autoencoder", "seed 1"] and found["autoencoder"]["rate"] == ""
    assert float(found["seed 1"]["psnr_pooled"]) > 5 and found["seed 1"]["n_validation"] == "100"
    assert found["seed 1"]["settings"] == experiments.described(settings["seed 1"])


def test_a_foreign_network_is_evaluated_like_ours(photos: Dataset) -> None:
    class Constant(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.full((len(z), 3, 32, 32), 0.5)

    class Nothing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x), 2 * LATENT)  # the posterior is the prior

    found = evaluate_model(adopt(VAE, Nothing(), Constant(), 0.3), photos.test.head(50)).metrics
    error = (to_unit(photos.test.images[:50]) - 0.5).square().mean().item()
    assert found["rate"].value == 0 and found["mse"].value == pytest.approx(error, rel=1e-5)
    assert found["active_units"].value == 0 and found["sigma"].value == pytest.approx(0.3)


def test_the_schedule_rises_and_ends_at_zero() -> None:
    rates = [one_cycle(step, 100, 1.0) for step in range(100)]
    assert max(rates) == pytest.approx(1, abs=1e-3) and rates.index(max(rates)) < 20 and rates[-1] == pytest.approx(0)


def test_the_sum_of_the_rate_is_the_kl_to_the_prior(trained: Path, photos: Dataset) -> None:
    vae = helpers.load_vae(weights_path(trained, "vae"))
    x = to_unit(photos.test.images[:20])
    q = vae.encode(x)
    assert q.mu.shape == q.logvar.shape == (20, vae.latent_dim) and (kl_per_dim(q) >= -1e-6).all()
    assert vae.decode(q.mu).shape == x.shape and vae.classify(x).shape == (20, 10)


@pytest.mark.parametrize("kind", ["vae", "autoencoder", "reference"])
def test_what_is_hidden_does_not_reach_the_classifier(kind: str, tiny: Settings) -> None:
    model = build_model(dataclasses.replace(tiny, model=kind), 10).eval()
    x, eps = torch.rand(4, 3, 32, 32), torch.zeros(4, tiny.latent_dim)
    inside = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    inside[..., 10:22, 10:22] = True
    changed = x.clone()
    changed[..., 14:18, 14:18] = 1 - x[..., 14:18, 14:18]  # well inside: a kernel at the rim sees both sides
    with torch.no_grad():
        a, b = model(x, eps, inside), model(changed, eps, inside)
        assert torch.equal(a.logits, b.logits)
        assert not torch.equal(model(x, eps).logits, model(changed, eps).logits)
    if kind != "reference":
        assert not torch.equal(a.mean, b.mean)  # the decoder's path does see it


def test_stored_weights_are_used_only_for_equal_settings(photos: Dataset, tiny: Settings, trained: Path) -> None:
    seen: list[float] = []
    _, history = load_or_train(photos, tiny, trained, lambda record, _: seen.append(record["epoch"]))
    assert history.loaded and history.sentence().startswith("Loaded") and seen == [1, 2]
    _, other = load_or_train(photos, dataclasses.replace(tiny, epochs=1), trained / "other")
    assert not other.loaded and other.sentence().startswith("Trained from nothing")


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "missing"])
def test_damaged_weights_are_named(damage: str, trained: Path, tmp_path: Path) -> None:
    content = bytearray(weights_path(trained, "vae").read_bytes())
    path = tmp_path / "vae.safetensors"
    if damage == "flip":
        content[20] ^= 0xFF
    if damage != "missing":
        path.write_bytes({"cut": content[:5000], "text": b"hello"}.get(damage, bytes(content)))
    with pytest.raises(UserError, match="vae.safetensors"):
        load_model(path)


def test_weights_of_another_run_do_not_pass_for_this_one(trained: Path, tmp_path: Path) -> None:
    history_path(tmp_path, "vae").write_bytes(history_path(trained, "vae").read_bytes())
    content = bytearray(weights_path(trained, "vae").read_bytes())
    content[-1] ^= 1
    weights_path(tmp_path, "vae").write_bytes(content)
    with pytest.raises(UserError, match="is not the file"):
        load_history(tmp_path, "vae")


def test_the_settings_travel_in_the_weights(trained: Path, tiny: Settings) -> None:
    _, about = load_model(weights_path(trained, "vae"))
    assert Settings.from_dict(about["settings"]) == tiny and len(about["class_names"]) == 10


def test_evaluate_writes_every_metric_with_its_provenance(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "metrics.json"
    weights = str(weights_path(trained, "vae"))
    done = run_module("helpers.evaluate", "--split", "test", "--weights", weights, "--out", str(out))
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    found = content["models"]["vae"]["test"]
    assert found["n"] == 100 and set(content["units"]) <= set(found) and content["environment"]["torch"]
    assert found["elbo"]["value"] == pytest.approx(-found["distortion"]["value"] - found["rate"]["value"], rel=1e-6)
    assert found["psnr_pooled"]["stderr"] > 0 and found["psnr_mean"]["stderr"] > 0 and found["sigma"]["stderr"] is None
    assert found["psnr_mean"]["value"] > found["psnr_pooled"]["value"]
    assert content["models"]["pca"]["test"]["psnr_pooled"]["value"] > 15


def test_evaluate_explains_bad_input_in_one_line(tmp_path: Path) -> None:
    assert_one_line_error(
        run_module("helpers.evaluate", "--weights", str(tmp_path / "no.safetensors")), "does not exist"
    )


def test_evaluation_repeats_to_the_last_digit(trained: Path, photos: Dataset) -> None:
    vae = helpers.load_vae(weights_path(trained, "vae"))
    assert evaluate_model(vae, photos.test).metrics == evaluate_model(vae, photos.test).metrics


def test_pca_explains_what_it_should(cifar10: Dataset, tmp_path: Path) -> None:
    code = linear_code(cifar10, tmp_path, 128)
    assert code.variance_ratio[0].item() == pytest.approx(0.2908, abs=2e-3)
    found = evaluate_linear(code, cifar10.test, 128).metrics["psnr_pooled"].value
    assert found == pytest.approx(22.94, abs=0.02)
    again = linear_code(cifar10, tmp_path, 64)
    assert torch.equal(again.components, code.components)


# --- priors -----------------------------------------------------------------------------------------------------


def test_a_fitted_mixture_gives_back_the_moments_of_its_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(4000, 3, generator=generator) @ torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 0, 0.5]]) + 1
    drawn = sample_mixture(fit_mixture(codes, components=2), 20_000, seed=1)
    assert drawn.mean(0).tolist() == pytest.approx(codes.mean(0).tolist(), abs=0.1)
    assert torch.allclose(drawn.T.cov(), codes.T.cov(), atol=0.25)


def test_class_codes_come_from_their_own_class() -> None:
    codes, labels = torch.randn(600, 2), torch.arange(600) % 2
    codes[labels == 1] += 100
    assert sample_class(class_gaussians(codes, labels)[1], 50).mean().item() == pytest.approx(100, abs=1)


def test_slerp_starts_and_ends_where_it_should_and_keeps_its_length() -> None:
    a, b = torch.randn(2, 128, generator=torch.Generator().manual_seed(0))
    path = slerp(a, b, 5)
    assert torch.allclose(path[0], a, atol=1e-4) and torch.allclose(path[-1], b, atol=1e-4)
    assert path[2].norm().item() == pytest.approx((a.norm() + b.norm()).item() / 2, rel=1e-4)
    assert torch.allclose(slerp(a, a, 3), a.expand(3, -1), atol=1e-4)
