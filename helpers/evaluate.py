"""Every metric for every split -> metrics.json and metrics.csv: the VAE beside the autoencoder, PCA and the mean image.

    python -m helpers.evaluate [--split all|train|validation|test] [--weights FILE] [--out FILE] [--download]

A single split gets its table, its classes and its spectra; --split all adds what needs several (`analyses`). All
validation and test images are seen, and as many training images as there are test images (the first, whose order is
random): more would only make the smaller one of the two errors of a gap smaller.
"Reconstruction" is the decoded posterior MEAN; the likelihood terms and every metric called *_sample use one seeded
posterior SAMPLE per image.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import ROOT, Settings, UserError, out_dir, profile_settings, program
from .data import SPLITS, Dataset, Split, batches, load_data
from .losses import bits_per_dim, discretised_nll, gaussian_nll, kl_per_dim
from .measure import analyses, metrics
from .measure.linear import LinearCode, linear_code
from .measure.metrics import Estimate, PixelMoments
from .measure.results import SEED, Results, SplitResult, metrics_content, store
from .models import VAE, Autoencoder, Posterior
from .storage import load_model, weights_path

TRAIN_IMAGES = 10_000
# Of images x and their reconstructions y, one number an image. What stands here is measured for every model and split.
IMAGE_TERMS = {"mse": metrics.mse_per_image, "mae": metrics.mae_per_image, "ssim": metrics.ssim_per_image}


def image_terms(x: Tensor, y: Tensor, suffix: str = "") -> dict[str, Tensor]:
    """Per image (n,): IMAGE_TERMS, their names with a suffix."""
    return {name + suffix: term(x, y) for name, term in IMAGE_TERMS.items()}


def likelihood_terms(model: VAE, x: Tensor, q: Posterior, eps: Tensor) -> dict[str, Tensor]:
    """Per image (n,): distortion and rate of one sample of q(z|x), its discretised distortion, its image errors."""
    mean = model.decode(q.sample(eps))
    return {
        "distortion": gaussian_nll(x, mean, model.log_sigma),
        "mass": discretised_nll(x, mean, model.log_sigma),
        "rate": kl_per_dim(q).sum(1),
        **image_terms(x, mean, "_sample"),
    }


def two_views(logits: Tensor, mirrored: Tensor) -> Tensor:
    """The logarithm of the mean of two class probabilities, (n, classes)."""
    return torch.logaddexp(logits.log_softmax(1), mirrored.log_softmax(1)) - torch.tensor(2.0).log()


def model_columns(
    model: Autoencoder, x: Tensor, noise: torch.Generator, mirror: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """The reconstruction of x from the posterior mean, and everything else about a batch, per image."""
    h, features = model.encoder(x)
    q = model.split(h) if isinstance(model, VAE) else None
    code = h if q is None else q.mu
    row = {"code": code, "logits": model.head(features), "code_logits": model.classify_code(code)}
    if mirror:
        h_mirrored, features_mirrored = model.encoder(x.flip(3))
        code_mirrored = h_mirrored if q is None else model.split(h_mirrored).mu
        row["logits_flip"] = two_views(row["logits"], model.head(features_mirrored))
        row["code_logits_flip"] = two_views(row["code_logits"], model.classify_code(code_mirrored))
    if q is not None:
        eps = torch.randn(len(x), model.latent_dim, generator=noise, device=x.device)
        row |= {"logvar": q.logvar} | likelihood_terms(model, x, q, eps)
    return model.decode(code), row


def _collect(
    split: Split,
    describe: Callable[[Tensor], tuple[Tensor, dict[str, Tensor]]],
    device: torch.device | str,
    tick: Callable[[int], Any],
) -> tuple[dict[str, Tensor], PixelMoments]:
    """Columns by name, over all images of a split; `describe` gives a reconstruction and more columns.

    A column is allocated whole with the first batch: thousands of small pieces, kept between large tensors that come
    and go, would leave holes in memory that nothing fits into.
    """
    moments, table, done = PixelMoments(), {}, 0
    for x, _ in batches(split, device=device):
        y, row = describe(x)
        row |= image_terms(x, y)
        row |= {"spectrum_image": metrics.radial_spectrum(x), "spectrum_error": metrics.radial_spectrum(x - y)}
        moments.add(x, y)
        for name, value in row.items():
            if not done:
                table[name] = torch.empty(len(split), *value.shape[1:], dtype=value.dtype)
            table[name][done : done + len(x)] = value
        done += len(x)
        tick(len(x))
    return table, moments


@torch.no_grad()
def evaluate_model(
    model: Autoencoder, split: Split, tick: Callable[[int], Any] = lambda n: None, *, mirror: bool = True
) -> SplitResult:
    """All metrics of a model on ALL images of a split; `tick` hears of every batch.

    `mirror` adds the accuracies of two views, the image and its mirror image, at the price of a second encoding.
    """
    device = model.log_sigma.device
    noise = torch.Generator(device).manual_seed(SEED)
    model.eval()
    table, moments = _collect(split, lambda x: model_columns(model, x, noise, mirror), device, tick)
    found = _reconstruction(table, moments) | _classification(table, split.labels)
    found["sigma"] = Estimate(model.sigma.item())
    if isinstance(model, VAE):
        found |= _likelihood(table, split.images[0].numel())
    return SplitResult(found, table["mse"], table["logits"].argmax(1), moments, table)


@torch.no_grad()
def evaluate_linear(code: LinearCode, split: Split, d: int, tick: Callable[[int], Any] = lambda n: None) -> SplitResult:
    """Reconstruction and likelihood (probabilistic PCA) of the linear code of d numbers; d = 0: the mean image."""
    table, moments = _collect(split, lambda x: (code.reconstruct(x, d), {"mass": code.nll(x, d)}), "cpu", tick)
    found = _reconstruction(table, moments) | {"bpd": _bpd(table["mass"], split.images[0].numel())}
    return SplitResult(found, table["mse"], torch.empty(0), moments, table)


def _reconstruction(table: dict[str, Tensor], moments: PixelMoments, suffix: str = "") -> dict[str, Estimate]:
    mse = table[f"mse{suffix}"].double()
    pooled = "psnr_sample" if suffix else "psnr_pooled"
    found = {name + suffix: Estimate.mean(table[name + suffix]) for name in IMAGE_TERMS}
    found[pooled] = Estimate.of(lambda m: metrics.psnr(m[0]), mse[:, None])
    found[f"psnr_mean{suffix}"] = Estimate.mean(metrics.psnr(mse))
    return found if suffix else found | moments.estimates()


def _classification(table: dict[str, Tensor], labels: Tensor) -> dict[str, Estimate]:
    heads = {"accuracy": "logits", "code_accuracy": "code_logits"}
    heads |= {f"{name}_flip": f"{column}_flip" for name, column in heads.items()}
    return {
        **{name: metrics.accuracy(table[column], labels) for name, column in heads.items() if column in table},
        "cross_entropy": metrics.cross_entropy(table["logits"], labels),
        "code_cross_entropy": metrics.cross_entropy(table["code_logits"], labels),
        "macro_f1": metrics.macro_f1(table["logits"].argmax(1), labels),
        "ece": metrics.ece(table["logits"], labels),
    }


def _bpd(nats: Tensor, n_values: int) -> Estimate:
    """Bits per colour value from the nats of a probability, per image."""
    return Estimate(*(bits_per_dim(v or 0.0, n_values) for v in Estimate.mean(nats)))


def _likelihood(table: dict[str, Tensor], n_values: int) -> dict[str, Estimate]:
    return {
        **_reconstruction(table, PixelMoments(), "_sample"),
        "distortion": Estimate.mean(table["distortion"]),
        "rate": Estimate.mean(table["rate"]),
        "elbo": Estimate.mean(-table["distortion"].double() - table["rate"].double()),
        "bpd": _bpd(table["mass"].double() + table["rate"].double(), n_values),
        "active_units": Estimate(metrics.active_units(table["code"])),
    }


# --- all of them ---------------------------------------------------------------------------------


def evaluate_all(
    vae: VAE,
    autoencoder: Autoencoder | None,
    code: LinearCode | None,
    data: Dataset,
    names: tuple[str, ...] = SPLITS,
) -> Results:
    """Results by model ("vae", "autoencoder", "pca", "mean_image") and split, with a progress bar in images.

    Training images are seen in one view only: no conclusion rests on a second one.
    """
    from tqdm import tqdm

    def seen(model: Autoencoder) -> Callable[[str], SplitResult]:
        return lambda name: evaluate_model(model, data.splits[name], bar.update, mirror=name != "train")

    def linear(d: int) -> Callable[[str], SplitResult]:
        return lambda name: evaluate_linear(code, data.splits[name], d, bar.update)

    jobs = {"vae": seen(vae)}
    if autoencoder is not None:
        jobs["autoencoder"] = seen(autoencoder)
    if code is not None:
        jobs |= {"pca": linear(vae.latent_dim), "mean_image": linear(0)}
    results: Results = {job: {} for job in jobs}
    total = len(jobs) * sum(len(data.splits[name]) for name in names)
    options = {"file": sys.stdout, "mininterval": 1, "ncols": 88, "unit": " images"}
    with tqdm(total=total, desc="evaluating", **options) as bar:
        for job, run in jobs.items():
            for name in names:
                results[job][name] = run(name)
    return results


def main(argv: list[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="helpers.evaluate", description="Compute and store every metric.")
    parser.add_argument("--split", choices=("all", *SPLITS), default="all")
    parser.add_argument("--weights", type=Path, help="weights of a VAE (default: the published ones)")
    parser.add_argument("--out", type=Path, help="where to write (default: metrics.json beside the weights)")
    parser.add_argument("--download", action="store_true", help="fetch SVHN and CIFAR-100 into data/ if missing")
    options = parser.parse_args(argv)
    started = time.perf_counter()
    weights = options.weights or weights_path(out_dir(profile_settings()), "vae")
    vae, about = load_model(weights)
    if not isinstance(vae, VAE):
        raise UserError(f"{weights} holds an autoencoder; --weights wants a VAE")
    settings, folder = Settings.from_dict(about["settings"]), weights.parent
    data = load_data(settings.dataset).limited(settings.n_train, settings.n_eval)
    beside = weights_path(folder, "autoencoder")
    autoencoder = load_model(beside)[0] if beside.is_file() and not options.weights else None
    code = linear_code(data, folder, settings.latent_dim)
    data = data.limited(TRAIN_IMAGES, 0)
    names = SPLITS if options.split == "all" else (options.split,)
    results = evaluate_all(vae, autoencoder, code, data, names)
    blocks = analyses.analyse(results, vae, autoencoder, code, data, download=options.download)
    content = metrics_content(results, data, settings, about["run"], blocks)
    out = options.out or folder / ("metrics.json" if options.split == "all" else f"metrics_{options.split}.json")
    store(content, out)
    shown = out.resolve().relative_to(ROOT) if out.resolve().is_relative_to(ROOT) else out
    print(f"wrote {shown} in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    program(main)
