"""Known answers of the evaluation's metrics, each against a closed form or an independent library."""

import csv
import io
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.metrics import confusion_matrix, f1_score, log_loss, roc_auc_score
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.functional.image import structural_similarity_index_measure

from helpers.data import Dataset, Split
from helpers.evaluate import analyses, evaluate_all, evaluate_linear, linear_code, store, two_views
from helpers.losses import bits_per_dim, kl_per_dim
from helpers.measure import latents, metrics, shifts
from helpers.measure.linear import LinearCode
from helpers.measure.metrics import Estimate
from helpers.measure.results import csv_rows
from helpers.measure.robustness import outlier_scores
from helpers.models import Posterior
from helpers.storage import load_model, weights_path


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def images(n: int = 6) -> Tensor:
    return torch.randint(256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


# --- estimates --------------------------------------------------------------------------------------------------


def test_the_delta_method_agrees_with_the_bootstrap() -> None:
    mse = seeded(400).square()
    found = Estimate.of(lambda m: metrics.psnr(m[0]), mse[:, None])
    rng = np.random.default_rng(0)
    repeats = [metrics.psnr(mse.numpy()[rng.integers(400, size=400)].mean()) for _ in range(1000)]
    assert found.value == pytest.approx(metrics.psnr(mse.mean().item()), abs=1e-5)
    assert found.stderr == pytest.approx(np.std(repeats), rel=0.1)


def test_the_delta_method_of_a_mean_is_the_mean() -> None:
    values = seeded(50)
    assert Estimate.of(lambda m: m[0], values[:, None]) == pytest.approx(Estimate.mean(values))


def test_a_gap_has_the_variances_of_both_sides() -> None:
    assert Estimate(3.0, 0.3).minus(Estimate(1.0, 0.4)) == pytest.approx((2.0, 0.5))
    assert Estimate(3.0).minus(Estimate(1.0, 0.4)).stderr is None


# --- images -----------------------------------------------------------------------------------------------------


def test_ssim_agrees_with_torchmetrics() -> None:
    x, y = seeded(2, 4, 3, 32, 32).abs().clamp(0, 1)
    _, local = structural_similarity_index_measure(y, x, data_range=1.0, reduction="none", return_full_image=True)
    theirs = local[..., 5:-5, 5:-5].flatten(1).mean(1)
    assert metrics.ssim_per_image(x, y).tolist() == pytest.approx(theirs.tolist(), abs=1e-4)


def test_mae_of_a_known_shift() -> None:
    x = torch.full((2, 3, 8, 8), 0.5)
    assert metrics.mae_per_image(x, x - 0.25).tolist() == [0.25, 0.25]


def test_the_spectrum_of_a_wave_stands_at_its_frequency_and_sums_to_the_mean_square() -> None:
    wave = torch.cos(2 * math.pi * 5 * torch.arange(32) / 32).expand(1, 3, 32, 32)
    power = metrics.radial_spectrum(wave)[0]
    assert power[5].item() == pytest.approx(0.5, abs=1e-5) and power.sum().item() == pytest.approx(0.5, abs=1e-5)
    assert metrics.radial_spectrum(torch.full((1, 3, 32, 32), 0.5))[0, 0].item() == pytest.approx(0.25)
    x = seeded(5, 3, 32, 32)
    expected = np.abs(np.fft.fft2(x.numpy(), norm="forward")) ** 2
    assert metrics.radial_spectrum(x).sum(1).tolist() == pytest.approx(expected.sum((2, 3)).mean(1), rel=1e-4)


def test_the_pixel_regression_has_errors_that_shrink_with_the_number_of_images() -> None:
    moments = metrics.PixelMoments()
    x = seeded(100, 3, 8, 8).abs().clamp(0, 1)
    moments.add(x, 0.8 * x + 0.02 * seeded(100, 3, 8, 8))
    few, line = moments.estimates(), moments.regression()
    assert few["slope"].value == pytest.approx(line.slope) and few["pixel_r2"].value == pytest.approx(line.r2)
    moments.sums = moments.sums * 4
    assert moments.estimates()["slope"].stderr == pytest.approx(few["slope"].stderr / 2, rel=0.01)


# --- classification ---------------------------------------------------------------------------------------------


def test_f1_and_confusion_agree_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, predicted = torch.randint(4, (2, 300), generator=generator)
    theirs = f1_score(labels, predicted, average=None)
    assert [metrics.f1(predicted, labels, i).value for i in range(4)] == pytest.approx(theirs)
    assert metrics.macro_f1(predicted, labels).value == pytest.approx(theirs.mean())
    assert metrics.macro_f1(predicted, labels).stderr > 0
    assert metrics.confusion(predicted, labels, 4).tolist() == confusion_matrix(labels, predicted).tolist()


def test_ece_of_full_confidence_at_four_fifths_is_one_fifth_and_torchmetrics_agrees() -> None:
    sure = torch.tensor([[50.0, 0.0]]).repeat(100, 1)
    labels = (torch.arange(100) >= 80).long()
    assert metrics.ece(sure, labels).value == pytest.approx(0.2)
    logits, truth = 2 * seeded(500, 5), torch.arange(500) % 5
    theirs = multiclass_calibration_error(logits.double().softmax(1), truth, num_classes=5, n_bins=15)
    assert metrics.ece(logits, truth).value == pytest.approx(theirs.item(), abs=1e-6)


def test_the_fitted_temperature_undoes_a_scaling_and_changes_no_decision() -> None:
    logits = 2 * seeded(4000, 5)
    labels = Categorical(logits=logits).sample()
    temperature = metrics.fit_temperature(3 * logits, labels)
    assert temperature == pytest.approx(3, rel=0.1)
    assert metrics.accuracy(3 * logits / temperature, labels) == metrics.accuracy(logits, labels)
    loss = metrics.cross_entropy(logits, labels).value
    assert loss == pytest.approx(log_loss(labels, logits.double().softmax(1)), abs=1e-6)


def test_two_views_average_probabilities() -> None:
    a, b = seeded(2, 7, 4)
    assert torch.allclose(two_views(a, b).exp(), (a.softmax(1) + b.softmax(1)) / 2, atol=1e-6)


def test_auroc_ties_negation_and_scikit_learn() -> None:
    same, inside = torch.ones(20), seeded(300)
    outside = inside[:200] + 1
    assert metrics.auroc(same, same).value == 0.5
    assert metrics.auroc(inside, outside).value + metrics.auroc(-inside, -outside).value == pytest.approx(1)
    theirs = roc_auc_score([0] * 300 + [1] * 200, torch.cat([inside, outside]))
    assert metrics.auroc(inside, outside).value == pytest.approx(theirs)
    rng, repeats = np.random.default_rng(0), []
    for _ in range(300):
        a, b = (v.numpy()[rng.integers(len(v), size=len(v))] for v in (inside, outside))
        repeats.append(metrics.auroc(torch.from_numpy(a), torch.from_numpy(b)).value)
    assert metrics.auroc(inside, outside).stderr == pytest.approx(np.std(repeats), rel=0.25)


def test_a_linear_probe_reads_what_is_linear() -> None:
    codes, noise = seeded(600, 3), seeded(600, 3).flip(0)
    labels = (codes[:, 0] > 0).long()
    assert metrics.linear_probe(codes[:400], labels[:400], codes[400:], labels[400:]).value > 0.95
    assert metrics.linear_probe(noise[:400], labels[:400], noise[400:], labels[400:]).value < 0.65


# --- codes and likelihood ---------------------------------------------------------------------------------------


def test_the_aggregate_posterior_agrees_with_torch_distributions() -> None:
    q, z = Posterior(seeded(30, 4), 0.3 * seeded(30, 4)), seeded(30, 4)
    parts = Independent(Normal(q.mu.double(), (q.logvar / 2).double().exp()), 1)
    mixture = MixtureSameFamily(Categorical(logits=torch.zeros(30).double()), parts)
    assert torch.allclose(latents.log_aggregate(q, z, batch=7), mixture.log_prob(z.double()))
    assert torch.allclose(latents.log_posterior(q, z).double(), parts.log_prob(z.double()), atol=1e-4)


def test_the_two_parts_of_the_rate_of_known_posteriors() -> None:
    z = seeded(2000, 2)
    nothing = Posterior(torch.zeros(2000, 2), torch.zeros(2000, 2))  # collapsed: q(z|x) = p(z) for every image
    found = latents.aggregate_posterior(nothing, z)
    assert [found[name].value for name in found] == pytest.approx([0, 0], abs=1e-9)
    assert latents.gaussian_kl(nothing) == pytest.approx(0, abs=1e-9)
    apart = Posterior(1000 * torch.arange(50.0)[:, None], torch.zeros(50, 1))  # n codes that never overlap
    found = latents.aggregate_posterior(apart, apart.sample(seeded(50, 1)))
    assert found["mutual_information"].value == pytest.approx(math.log(50))
    # q(z|x) = N(mu, s2) with mu ~ N(0, 1 - s2) makes q(z) = p(z): I = -d/2 log s2, and no KL is left.
    mu = math.sqrt(0.75) * seeded(4000, 2)
    q = Posterior(mu, torch.full_like(mu, math.log(0.25)))
    found = latents.aggregate_posterior(q, q.sample(torch.randn(4000, 2, generator=torch.Generator().manual_seed(1))))
    assert found["mutual_information"].value == pytest.approx(math.log(4), abs=0.06)
    assert found["aggregate_kl"].value == pytest.approx(0, abs=0.03) and latents.gaussian_kl(q) < 0.005
    total = sum(found[name].value for name in found)
    assert total == pytest.approx(kl_per_dim(q).sum(1).mean().item(), abs=0.06)


def test_the_gaussian_kl_of_a_shifted_wide_aggregate() -> None:
    q = Posterior(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.log(torch.tensor([[1.0, 4.0], [1.0, 4.0]])))
    assert latents.gaussian_kl(q) == pytest.approx(0.5 + 0.806853, abs=1e-5)
    marginal = latents.marginal_kl(Posterior(q.mu[:, :1], q.logvar[:, :1]), seeded(2, 1) + 1)
    assert marginal.shape == (1,) and torch.isfinite(marginal).all()


def test_correlation_of_a_copied_latent_is_one() -> None:
    z = seeded(100, 2)
    pairs = latents.correlation(torch.cat([z, -z[:, :1]], 1))
    assert len(pairs) == 3 and pairs.max().item() == pytest.approx(1)
    theirs = np.abs(np.corrcoef(z.numpy().T))[0, 1]
    assert latents.correlation(z).item() == pytest.approx(theirs, abs=1e-6)


def linear_model(d: int = 3, k: int = 2) -> tuple[LinearCode, Tensor, np.ndarray]:
    """A probabilistic PCA of d values with k components, some points, and its covariance."""
    basis = torch.linalg.qr(seeded(d, d)).Q.T
    variances = torch.tensor([4.0, 2.0, 0.5])[:d]
    code = LinearCode(torch.full((d,), 0.3), basis[:k], variances / variances.sum(), variances.sum())
    rest = variances[k:].mean()
    along = torch.cat([variances[:k], rest.expand(d - k)])
    return code, seeded(20, d), (basis.T @ torch.diag(along) @ basis).double().numpy()


def test_probabilistic_pca_agrees_with_scipy() -> None:
    code, x, covariance = linear_model()
    theirs = -multivariate_normal(code.mean.numpy(), covariance).logpdf(x.numpy()) + 3 * math.log(255)
    assert code.nll(x, 2).tolist() == pytest.approx(theirs, rel=1e-5)
    mean_only = -multivariate_normal(code.mean.numpy(), np.eye(3) * 6.5 / 3).logpdf(x.numpy()) + 3 * math.log(255)
    assert code.nll(x, 0).tolist() == pytest.approx(mean_only, rel=1e-5)


def test_the_importance_bound_of_a_linear_model_is_exact_and_never_falls_with_k() -> None:
    # z ~ N(0, 1), x = w z + m + noise: with q the exact posterior every weight equals p(x), whatever z is.
    w, noise, x = torch.tensor([1.5, -0.5]).double(), 0.3, seeded(10, 2).double()
    variance = 1 / (1 + w.square().sum() / noise**2)
    posterior = Posterior((x @ w)[:, None] * variance / noise**2, variance.log().expand(10, 1))

    def log_weights(q: Posterior) -> Tensor:
        rows = []
        for seed in range(64):
            z = q.sample(torch.randn(10, 1, generator=torch.Generator().manual_seed(seed)).double())
            likelihood = Normal(z * w, noise).log_prob(x).sum(1)
            rows.append(likelihood + latents.log_normal(z) - latents.log_posterior(q, z))
        return torch.stack(rows)

    truth = multivariate_normal([0, 0], np.outer(w, w) + noise**2 * np.eye(2)).logpdf(x).mean()
    for k in (1, 8, 64):
        assert latents.importance_bound(log_weights(posterior), k).value == pytest.approx(truth, abs=1e-8)
    wider = log_weights(Posterior(posterior.mu, posterior.logvar + 1))
    bounds = [latents.importance_bound(wider, k).value for k in (1, 8, 64)]
    assert bounds[0] < bounds[1] < bounds[2] < truth + 0.1
    assert bounds[0] == pytest.approx(wider.mean().item())
    assert bounds[2] == pytest.approx((logsumexp(wider.numpy(), 0) - math.log(64)).mean())


# --- shifts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", shifts.CORRUPTIONS)
def test_corruptions_keep_the_form_repeat_and_grow_with_severity(kind: str, photos: Dataset) -> None:
    some = photos.test.images[:40]
    errors = []
    for severity in shifts.SEVERITIES:
        changed = shifts.CORRUPTIONS[kind](some, severity)
        assert changed.shape == some.shape and changed.dtype == torch.uint8
        errors.append((changed.float() - some.float()).square().mean().item())
    assert errors == sorted(errors) and errors[0] > 0
    assert torch.equal(changed, shifts.CORRUPTIONS[kind](some, 5))


def test_corruptions_do_what_their_names_say() -> None:
    grey = torch.full((50, 3, 32, 32), 128, dtype=torch.uint8)
    noise = shifts.gaussian_noise(grey, 5).float().std().item() / 255
    assert noise == pytest.approx(0.10, rel=0.02)
    assert torch.equal(shifts.defocus_blur(grey, 5), grey) and torch.equal(shifts.contrast(grey, 5), grey)
    x = images().float()
    less = shifts.contrast(images(), 5).float()
    assert (less.std() / x.std()).item() == pytest.approx(0.15, abs=0.01)


def test_foreign_sets_keep_what_they_should(photos: Dataset) -> None:
    some = photos.test.images[:10]
    found = shifts.made_sets(some)
    assert all(made.shape == some.shape and made.dtype == torch.uint8 for made in found.values())
    assert found["constant"].float().flatten(2).std(2).max() == 0
    assert torch.equal(255 - found["inverted"], some) and torch.equal(found["upside_down"].flip(2), some)
    patches = found["shuffled_patches"]
    assert torch.equal(patches.flatten(2).sort(2).values, some.flatten(2).sort(2).values)
    assert not torch.equal(patches, some)
    corner = patches[0, :, :8, :8]
    tiles = some[0].unfold(1, 8, 8).unfold(2, 8, 8).reshape(3, 16, 8, 8)
    assert any(torch.equal(corner, tiles[:, i]) for i in range(16))


def test_a_missing_copy_is_one_clear_line_and_nothing_is_fetched(tmp_path) -> None:
    found, missing = shifts.foreign_sets([tmp_path], 10)
    assert not found and len(missing) == 2 and all("--download" in line for line in missing)
    assert not list(tmp_path.iterdir())


def test_a_file_of_noise_is_longer_than_one_of_a_constant() -> None:
    noise, constant = images(2), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        assert shifts.file_bits(noise, kind, **options).min() > 20 * shifts.file_bits(constant, kind, **options).max()


def test_the_corrected_score_takes_the_file_off_the_bits() -> None:
    seen = {name: torch.tensor([value]) for name, value in
            {"bpd": 6.0, "mse": 0.1, "confidence": 0.9, "png": 5.5, "webp": 4.5}.items()}  # fmt: skip
    scores = outlier_scores(seen, usual_bpd=6.25)
    assert scores["elbo_minus_png"].item() == 0.5 and scores["elbo_minus_webp"].item() == 1.5
    assert scores["typicality"].item() == 0.25 and scores["confidence"].item() == pytest.approx(-0.9)


# --- the whole evaluation ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def content(trained, photos: Dataset, tmp_path_factory) -> dict:
    """metrics.json of the tiny VAE on few photos."""
    from helpers.evaluate import metrics_content

    data = photos.limited(512, 60)
    vae, about = load_model(weights_path(trained, "vae"))
    code = linear_code(data, tmp_path_factory.mktemp("pca"), vae.latent_dim)
    results = evaluate_all(vae, None, code, data)
    blocks = analyses.analyse(results, vae, None, code, data)
    from helpers.config import Settings

    return metrics_content(results, data, Settings.from_dict(about["settings"]), about["run"], blocks)


def test_every_block_says_its_units_and_reaches_the_table(content: dict, tmp_path) -> None:
    store(content, tmp_path / "metrics.json")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "metrics.csv").read_text())))
    blocks = {name for name, block in content.items() if isinstance(block, dict) and "models" in block}
    assert blocks == {row["metric"].split(".")[0] for row in rows} & blocks and len(blocks) == 10
    assert all(row["n"] and row["unit"] and row["split"] and row["value"] for row in rows)
    assert len(rows) == len({(row["model"], row["split"], row["metric"]) for row in rows})
    first = next(row for row in csv_rows(content) if row["model"] == "vae" and row["metric"] == "psnr_pooled")
    assert first["value"] == content["models"]["vae"]["train"]["psnr_pooled"]["value"]


def test_the_blocks_agree_with_the_table(content: dict) -> None:
    table = content["models"]["vae"]
    gap = content["gaps"]["models"]["vae"]["train_minus_test"]["psnr_mean"]
    assert gap["value"] == pytest.approx(table["train"]["psnr_mean"]["value"] - table["test"]["psnr_mean"]["value"])
    error = content["spectrum"]["models"]["vae"]["test"]["error"]["value"]
    assert sum(error) == pytest.approx(table["test"]["mse"]["value"], rel=1e-4)
    clean = content["corruptions"]["models"]["vae"]["clean"]
    assert clean["accuracy"]["value"] == pytest.approx(table["test"]["accuracy"]["value"])
    assert clean["psnr_clean"] == clean["psnr_corrupted"]
    bound = content["bound"]["models"]["vae"]
    assert bound["k1"]["bpd"]["value"] >= bound["k8"]["bpd"]["value"] >= bound["k64"]["bpd"]["value"]
    assert bound["k1"]["bpd"]["value"] == pytest.approx(table["test"]["bpd"]["value"], abs=0.05)
    latent = content["latent"]["models"]["vae"]["test"]
    assert sum(latent["kl_per_dim"]["value"]) == pytest.approx(table["test"]["rate"]["value"], rel=1e-4)
    assert latent["aggregate_kl_gaussian"]["value"] <= table["test"]["rate"]["value"]


def test_the_mean_image_explains_nothing_and_uniform_costs_eight_bits(content: dict, photos: Dataset) -> None:
    assert abs(content["models"]["mean_image"]["train"]["slope"]["value"]) < 0.1
    assert content["bound"]["models"]["uniform"]["bpd"]["value"] == 8 == bits_per_dim(3072 * math.log(256), 3072)
    flat = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    code = LinearCode(torch.full((3072,), 128 / 255), torch.eye(3072)[:1], torch.ones(3072) / 3072, torch.tensor(30.72))
    found = evaluate_linear(code, Split(flat, torch.zeros(4, dtype=torch.long)), 0).metrics
    assert found["mse"].value == pytest.approx(0, abs=1e-12)
    # sigma = 0.1 at perfect reconstruction: log2(255 * 0.1 * sqrt(2 pi)) bits a value.
    assert found["bpd"].value == pytest.approx(math.log2(25.5 * math.sqrt(2 * math.pi)), abs=1e-4)
