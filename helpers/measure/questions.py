"""What the columns of the splits say: one function for each question, which gives rows; `answers` asks them all."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import LEVEL, SPLITS, Dataset, Split, in_batches, to_unit
from ..engine import bar, precise
from ..losses import bits_per_dim, discretised_nll, gaussian_nll, kl_per_dim
from ..models import VAE, Autoencoder, Posterior
from . import latents, metrics
from .linear import LinearCode
from .metrics import Estimate
from .rows import SEED, Row, kept_rows, matrix, rows_of, vector
from .shifts import CORRUPTIONS, SEVERITIES, file_bits, foreign_sets, made_sets, outlier_scores

LATENT_IMAGES = 5000  # the mutual information that can be seen ends at log n
IMAGES = 500  # of the other questions, most of which read every image many times
BOUND_SAMPLES = (1, 8, 64)
PAIRS = (("train", "test"), ("train", "validation"), ("validation", "test"))
HEADS = {"features": "logits", "code": "code_logits"}


@dataclass(frozen=True)
class SplitResult:
    """What one pass of a model over a split gives; columns and density are for figures and further questions."""

    metrics: dict[str, Estimate]
    columns: dict[str, Tensor]  # per image, (n,) or (n, k): what the metrics are means of
    density: Tensor  # counts (bins, bins) of true and reconstructed pixel values

    @property
    def n(self) -> int:
        """Images."""
        return len(self.columns["mse"])

    def regression(self) -> dict[str, float]:
        """slope, intercept, pixel_r2 and rmse of reconstructed against true pixel values."""
        moments = {name: self.columns[f"pixel_{name}"].mean() for name in ("x", "y", "xx", "yy", "xy")}
        return {name: number.item() for name, number in metrics.regression(**moments).items()}


Results = dict[tuple[str, str], SplitResult]  # by model and split


def answers(
    results: Results, models: dict[str, Autoencoder], code: LinearCode, data: Dataset, earlier: Path, *,
    download: bool = False,
) -> tuple[list[Row], dict[str, dict[str, Any]]]:  # fmt: skip
    """The rows of all questions that the evaluated splits allow, with a progress bar, and notes by question.

    Of a foreign set that is not at hand, those of an `earlier` metrics.json of the same model stay.
    """
    questions = [partial(summary, results), partial(by_class, results, data), partial(spectrum, results)]
    questions += [partial(confusion, results, data), partial(latent, results)]
    notes: dict[str, dict[str, Any]] = {}  # what a question says beside its rows
    missing: list[str] = []
    vae, rows = models["vae"], list[Row]()
    if isinstance(vae, VAE) and all(("vae", split) in results for split in SPLITS):
        usual = results["vae", "validation"].columns["bpd"].mean().item()
        foreign, missing = foreign_sets(IMAGES, download=download)
        today = dict.fromkeys(foreign, datetime.now(UTC).date().isoformat())
        notes = {"out_of_distribution": {"missing": missing, "measured": today}, "probe": {"n_train": len(data.train)}}
        questions += [partial(gaps, results), partial(calibration, results, data)]
        questions += [partial(probe, results, code, data, vae.latent_dim), partial(bound, vae, code, data.test)]
        outside = partial(out_of_distribution, vae, data.test, usual, foreign)
        questions += [partial(corruptions, vae, data.test), outside]
    with bar(questions) as progress:
        for question in progress:
            name = question.func.__name__
            progress.set_description(name)
            rows += question()
            notes[name] = {"about": question.func.__doc__.strip()} | notes.get(name, {})
    print("".join(f"{line}\n" for line in missing), end="")
    return rows + kept_rows(earlier, rows, notes), notes


def summary(results: Results) -> Iterator[Row]:
    """Every metric of every model; posterior mean, and one posterior sample for likelihood and *_sample."""
    for (model, split), result in results.items():
        yield from rows_of("summary", model, split, result.metrics, result.n)


def by_class(results: Results, data: Dataset) -> Iterator[Row]:
    """Reconstruction (posterior mean), likelihood and recognition of every class by itself."""
    for (model, split), result in results.items():
        labels, columns = data.splits[split].labels, result.columns
        for label, name in enumerate(data.class_names):
            chosen = labels == label
            if (n := int(chosen.sum())) == 0:
                continue
            estimates = {"psnr_mean": Estimate.mean(metrics.psnr(columns["mse"][chosen]))}
            estimates |= {
                term: Estimate.mean(columns[term][chosen]) for term in ("ssim", "bpd", "bpd_density") if term in columns
            }
            if "logits" in columns:
                estimates["recall"] = metrics.accuracy(columns["logits"][chosen], labels[chosen])
                for term, head in (("f1", "logits"), ("code_f1", "code_logits")):
                    estimates[term] = metrics.f1(columns[head].argmax(1), labels, torch.tensor([label]))
            place = f"{name.replace('.', '_')}."  # a dot would be another level
            yield from rows_of("by_class", model, split, estimates, n, place)


def spectrum(results: Results) -> Iterator[Row]:
    """Power of images and errors (posterior mean) by cycles per image (16: and beyond); sums: mean square and MSE."""
    for (model, split), result in results.items():
        for name in ("image", "error"):
            yield from rows_of("spectrum", model, split, vector(name, result.columns[f"spectrum_{name}"]), result.n)


def confusion(results: Results, data: Dataset) -> Iterator[Row]:
    """counts.TRUE.PREDICTED by the head on the features."""
    from sklearn.metrics import confusion_matrix

    for (model, split), result in results.items():
        if "logits" in result.columns:
            predicted, labels = result.columns["logits"].argmax(1), data.splits[split].labels
            counts = confusion_matrix(labels, predicted, labels=range(len(data.class_names)))
            yield from rows_of("confusion", model, split, matrix("counts", counts), result.n)


def latent(results: Results) -> Iterator[Row]:
    """On test: the rate by dimension, its two parts, correlations; complete sums over n images, one z for each."""
    for (model, split), result in results.items():
        if split != "test" or "logvar" not in result.columns:
            continue
        every = Posterior(result.columns["code"], result.columns["logvar"])
        q = Posterior(every.mu[:LATENT_IMAGES], every.logvar[:LATENT_IMAGES])
        z = q.sample(torch.randn(q.mu.shape, generator=torch.Generator().manual_seed(SEED)))
        (n, d), rate = q.mu.shape, result.columns["rate"][:LATENT_IMAGES].double().mean().item()
        floor = max(0.0, latents.gaussian_kl(q) - d * (d + 3) / (4 * n))  # less what estimating moments adds
        pairs = latents.correlation(z)
        numbers = {"aggregate_kl_gaussian": floor, "mutual_information_ceiling": rate - floor}
        numbers |= {"correlation_mean": pairs.mean().item(), "correlation_max": pairs.max().item()}
        estimates = latents.aggregate_posterior(q, z) | {name: Estimate(number) for name, number in numbers.items()}
        yield from rows_of("latent", model, split, vector("kl_per_dim", kl_per_dim(every)), result.n)
        yield from rows_of("latent", model, split, estimates, n)


def gaps(results: Results) -> Iterator[Row]:
    """Overfitting in numbers: first split minus second; variances add up; n is that of the smaller split."""
    for model in dict.fromkeys(model for model, _ in results):
        for first, second in (pair for pair in PAIRS if all((model, split) in results for split in pair)):
            a, b = results[model, first], results[model, second]
            known = [name for name, value in a.metrics.items() if value.stderr is not None]
            differences = {name: a.metrics[name].minus(b.metrics[name]) for name in known}
            yield from rows_of("gaps", model, f"{first}_minus_{second}", differences, min(a.n, b.n))


def calibration(results: Results, data: Dataset) -> Iterator[Row]:
    """By head, before and after temperature scaling fitted on validation; bins.I: share, confidence, accuracy."""
    labels = data.test.labels
    for (model, split), result in results.items():
        for head, column in HEADS.items():
            if split != "test" or column not in result.columns or (model, "validation") not in results:
                continue
            seen = results[model, "validation"].columns[column]
            temperature = metrics.fit_temperature(seen, data.validation.labels)
            fitted = {"temperature": Estimate(temperature)}
            yield from rows_of("calibration", model, split, fitted, len(seen), f"{head}.")
            for suffix, divisor in (("", 1.0), ("_scaled", temperature)):
                logits = result.columns[column] / divisor
                estimates = {
                    f"ece{suffix}": metrics.ece(logits, labels),
                    f"cross_entropy{suffix}": metrics.cross_entropy(logits, labels),
                    **matrix(f"bins{suffix}", metrics.calibration_bins(logits, labels)),
                }
                yield from rows_of("calibration", model, split, estimates, len(labels), f"{head}.")


def probe(results: Results, code: LinearCode, data: Dataset, d: int) -> Iterator[Row]:
    """A logistic regression on the standardised codes of each model, fitted on n_train training images."""
    train, test = data.train, data.test
    codes = {place: result.columns["code"] for place, result in results.items() if "code" in result.columns}
    codes |= {("pca", name): code.encode(to_unit(data.splits[name].images), d) for name in ("train", "test")}
    for model in dict.fromkeys(model for model, _ in codes):
        known, unseen = codes[model, "train"], codes[model, "test"]
        accuracy = metrics.linear_probe(known, train.labels, unseen, test.labels)
        yield from rows_of("probe", model, "test", {"accuracy": accuracy}, len(test))


def bound(vae: VAE, code: LinearCode, split: Split) -> Iterator[Row]:
    """The importance-weighted bound with k samples; uniform, PNG, WebP and linear densities on the same images."""
    images, values = split.images[: IMAGES // 2], split.images[0].numel()  # decoded 64 times each
    x, weights = to_unit(images), log_weights(vae, images, max(BOUND_SAMPLES))
    of_levels = weights + values * math.log(LEVEL)
    for k in BOUND_SAMPLES:
        bits = latents.importance_bound(of_levels, k).scaled(-bits_per_dim(1.0, values))
        estimates = {"nats": latents.importance_bound(weights, k), "bpd_density": bits}
        yield from rows_of("bound", "vae", "test", estimates, len(images), f"k{k}.")
    others = {
        "uniform": torch.full((len(images),), 8.0),
        "png": file_bits(images, "PNG", optimize=True) / values,
        "webp": file_bits(images, "WEBP", lossless=True) / values,
    }
    for model, column in others.items():
        yield from rows_of("bound", model, "test", {"bpd": Estimate.mean(column)}, len(images))
    for model, d in (("probabilistic_pca", vae.latent_dim), ("mean_image", 0)):
        bits = Estimate.mean(bits_per_dim(code.nll(x, d), values))
        yield from rows_of("bound", model, "test", {"bpd_density": bits}, len(images))


def log_weights(vae: VAE, images: Tensor, samples: int) -> Tensor:
    """log p(x, z) - log q(z|x) of seeded samples z, with the density of x, (n, samples)."""
    noise = torch.Generator(vae.device).manual_seed(SEED)

    def weigh(x: Tensor) -> Tensor:
        q, columns = vae.encode(x), []
        for _ in range(samples):
            z = q.sample(torch.randn(q.mu.shape, generator=noise, device=x.device))
            prior = latents.log_normal(z) - latents.log_posterior(q, z)
            columns.append(prior - gaussian_nll(x, vae.decode(z), vae.log_sigma))
        return torch.stack(columns, 1)

    return in_batches(weigh, images, vae.device)


def corruptions(vae: VAE, test: Split) -> Iterator[Row]:
    """Five corruptions of CIFAR-10-C (Hendrycks & Dietterich 2019) at three severities, made here; posterior mean."""
    some = test.head(IMAGES)
    clean, sets = to_unit(some.images), {"clean.": some.images}
    for kind, corrupt in CORRUPTIONS.items():
        sets |= {f"{kind}.severity_{severity}.": corrupt(some.images, severity) for severity in SEVERITIES}
    for place, images in sets.items():
        estimates = quality(vae, images, clean, some.labels)
        yield from rows_of("corruptions", "vae", "test", estimates, len(some), place)
        if place != "clean.":
            own = {"psnr_clean": Estimate.of(metrics.psnr, metrics.mse_per_image(clean, to_unit(images)))}
            yield from rows_of("corruptions", "input", "test", own, len(some), place)


def quality(model: Autoencoder, images: Tensor, clean: Tensor, labels: Tensor) -> dict[str, Estimate]:
    """Accuracy on uint8 images (n, 3, h, w), and PSNR of their reconstruction against them and against `clean`."""

    def read(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        code, features, _ = model.read(x)
        return model.head(features), model.code_head(code), model.decode(code)

    logits, code_logits, y = in_batches(read, images, model.device)
    return {
        "accuracy": metrics.accuracy(logits, labels),
        "code_accuracy": metrics.accuracy(code_logits, labels),
        "psnr_clean": Estimate.of(metrics.psnr, metrics.mse_per_image(clean, y)),
        "psnr_corrupted": Estimate.of(metrics.psnr, metrics.mse_per_image(to_unit(images), y)),
    }


def describe(vae: VAE, images: Tensor) -> dict[str, Tensor]:
    """Per image (n,), of uint8 images: -ELBO and file sizes in bits per value, MSE, largest class probability."""
    values, noise = images[0].numel(), torch.Generator(vae.device).manual_seed(SEED)

    def read(x: Tensor) -> dict[str, Tensor]:
        code, features, q = vae.read(x)
        assert q is not None  # a VAE has one
        sampled = vae.decode(q.sample(torch.randn(q.mu.shape, generator=noise, device=x.device)))
        nats = discretised_nll(x, sampled, vae.log_sigma) + kl_per_dim(q).sum(1)
        confidence = vae.head(features).softmax(1).amax(1)
        bpd = precise(nats) * bits_per_dim(1.0, values)
        return {"bpd": bpd, "mse": metrics.mse_per_image(x, vae.decode(code)), "confidence": confidence}

    # WebP's fastest setting: within 4 % of the size of the slower ones, in a thirtieth of the time.
    return in_batches(read, images, vae.device) | {
        "png": file_bits(images, "PNG") / values,
        "webp": file_bits(images, "WEBP", lossless=True, method=0, quality=0) / values,
    }


def out_of_distribution(vae: VAE, test: Split, usual_bpd: float, foreign: dict[str, Tensor]) -> Iterator[Row]:
    """Foreign uint8 images, given and made here, against test images: the AUROC of six scores."""
    inside = test.images[:IMAGES]
    seen = {name: describe(vae, images) for name, images in ({"test": inside} | made_sets(inside) | foreign).items()}
    usual = outlier_scores(seen["test"], usual_bpd)
    for name, columns in seen.items():
        scores = outlier_scores(columns, usual_bpd)
        areas = {f"auroc_{score}": metrics.auroc(usual[score], scores[score]) for score in scores if name != "test"}
        means = {column: Estimate.mean(values) for column, values in columns.items()}
        yield from rows_of("out_of_distribution", "vae", "test", areas | means, len(columns["mse"]), f"{name}.")
