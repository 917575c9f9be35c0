"""Every metric -> metrics.json and metrics.csv: the VAE on every split, beside the autoencoder, PCA and the mean image.

"Reconstruction" is the decoded posterior MEAN; the likelihood and every *_sample use one posterior SAMPLE per image.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from torch import Tensor

from .data import LEVEL, SPLITS, Dataset, Split, in_batches
from .engine import UserError, bar, check_ours, precise, program, results_folder, weights_path
from .losses import Elbo, bits_per_dim, discretised_nll, gaussian_nll, kl_per_dim
from .measure import metrics
from .measure.linear import LinearCode, linear_code
from .measure.metrics import Estimate
from .measure.questions import Results, SplitResult, answers
from .measure.rows import SEED, provenance, write_metrics
from .models import VAE, Autoencoder
from .run import load_model
from .settings import Settings, out_dir, profile_settings
from .sources import load_data

TRAIN_IMAGES = 5_000  # as many as CIFAR-10 has for validation; with 10,000 the error of train - test is a sixth smaller
# Of images x and their reconstructions y, one number an image. What stands here is measured for every model and split.
IMAGE_TERMS = {"mse": metrics.mse_per_image, "mae": metrics.mae_per_image, "ssim": metrics.ssim_per_image}
Columns = dict[str, Tensor]  # per image, (n,) or (n, k), by name
Tick = Callable[[int], object]  # hears how many images were seen


def model_columns(model: Autoencoder, x: Tensor, noise: torch.Generator) -> tuple[Tensor, Columns]:
    """The reconstruction of x from the code (of a VAE the posterior mean), and everything else about a batch."""
    code, features, q = model.read(x)
    columns = {"code": code, "logits": model.head(features), "code_logits": model.code_head(code)}
    if q is not None:
        mean = model.decode(q.sample(torch.randn(code.shape, generator=noise, device=x.device)))
        columns |= {f"{name}_sample": term(x, mean) for name, term in IMAGE_TERMS.items()}
        columns["logvar"], columns["rate"] = q.logvar, kl_per_dim(q).sum(1)
        columns["distortion"] = gaussian_nll(x, mean, model.log_sigma)
        for name, nats in (("bpd", discretised_nll(x, mean, model.log_sigma)), ("bpd_density", columns["distortion"])):
            columns[name] = bits_per_dim(precise(nats) + precise(columns["rate"]), x[0].numel())
        columns["bpd_density"] -= math.log2(LEVEL)
    return model.decode(code), columns


def collect(
    split: Split, describe: Callable[[Tensor], tuple[Tensor, Columns]], device: torch.device | str, tick: Tick
) -> tuple[Columns, Tensor]:
    """All columns over a split and the density of its pixel values; `describe` gives a reconstruction and columns."""
    density = torch.zeros(64, 64, dtype=torch.int64)

    def measure(x: Tensor) -> Columns:
        nonlocal density
        y, columns = describe(x)
        columns |= {name: term(x, y) for name, term in IMAGE_TERMS.items()}
        columns |= {"spectrum_image": metrics.radial_spectrum(x), "spectrum_error": metrics.radial_spectrum(x - y)}
        columns |= {f"pixel_{name}": mean for name, mean in metrics.pixel_moments(precise(x), precise(y)).items()}
        density += metrics.pixel_density(x, y).cpu()
        tick(len(x))
        return columns

    return in_batches(measure, split.images, device), density


def evaluate_model(model: Autoencoder, split: Split, tick: Tick = int) -> SplitResult:
    """All metrics of a model on all images of a split."""
    noise = torch.Generator(model.eval().device).manual_seed(SEED)
    columns, density = collect(split, lambda x: model_columns(model, x, noise), model.device, tick)
    estimates = reconstruction(columns) | pixel_errors(columns) | classification(columns, split.labels)
    estimates["sigma"] = Estimate(model.sigma.item())
    if "rate" in columns:
        estimates |= reconstruction(columns, "_sample") | likelihood(columns)
    return SplitResult(estimates, columns, density)


def evaluate_linear(code: LinearCode, split: Split, d: int, tick: Tick = int) -> SplitResult:
    """Reconstruction and likelihood (probabilistic PCA) of the linear code of d numbers; d = 0: the mean image."""

    def describe(x: Tensor) -> tuple[Tensor, Columns]:
        return code.reconstruct(x, d), {"bpd_density": bits_per_dim(code.nll(x, d), x[0].numel())}

    columns, density = collect(split, describe, "cpu", tick)
    estimates = reconstruction(columns) | pixel_errors(columns)
    estimates["bpd_density"] = Estimate.mean(columns["bpd_density"])
    return SplitResult(estimates, columns, density)


def reconstruction(columns: Columns, suffix: str = "") -> dict[str, Estimate]:
    """Means of IMAGE_TERMS, and PSNR pooled and as a mean over images."""
    mse = columns[f"mse{suffix}"].double()
    means = {name + suffix: Estimate.mean(columns[name + suffix]) for name in IMAGE_TERMS}
    pooled = {f"psnr{suffix or '_pooled'}": Estimate.of(metrics.psnr, mse)}
    return means | pooled | {f"psnr_mean{suffix}": Estimate.mean(metrics.psnr(mse))}


def pixel_errors(columns: Columns) -> dict[str, Estimate]:
    """R2, slope and RMSE, pooled over pixel values, with the standard errors that images give."""
    moments = [columns[f"pixel_{name}"] for name in ("x", "y", "xx", "yy", "xy")]

    def estimate(name: str) -> Estimate:
        return Estimate.of(lambda *means: metrics.regression(*means)[name], *moments)

    return {name: estimate(name) for name in ("pixel_r2", "slope", "rmse")}


def classification(columns: Columns, labels: Tensor) -> dict[str, Estimate]:
    """Of both heads; F1 and calibration of the one on the features."""
    return {
        "accuracy": metrics.accuracy(columns["logits"], labels),
        "code_accuracy": metrics.accuracy(columns["code_logits"], labels),
        "cross_entropy": metrics.cross_entropy(columns["logits"], labels),
        "code_cross_entropy": metrics.cross_entropy(columns["code_logits"], labels),
        "macro_f1": metrics.f1(columns["logits"].argmax(1), labels, labels.unique()),
        "ece": metrics.ece(columns["logits"], labels),
    }


def likelihood(columns: Columns) -> dict[str, Estimate]:
    """The two terms of the loss, the ELBO, bits per colour value, and how many latents are active."""
    distortion, rate = columns["distortion"].double(), columns["rate"].double()
    means = {"distortion": distortion, "rate": rate, "elbo": -Elbo(distortion, rate).negative}
    means |= {name: columns[name] for name in ("bpd", "bpd_density")}
    active = {"active_units": Estimate(metrics.active_units(columns["code"]))}
    return {name: Estimate.mean(column) for name, column in means.items()} | active


def evaluate_all(
    models: dict[str, Autoencoder], code: LinearCode, data: Dataset, names: Sequence[str] = SPLITS
) -> Results:
    """Results by model (those given, "pca" and "mean_image") and split; validation is for the VAE alone.

    What was chosen by the validation images was chosen for the VAE; the others stand beside it on train and test.
    """
    lengths = {"pca": models["vae"].latent_dim, "mean_image": 0}
    places = [(m, name) for m in (*models, *lengths) for name in names if m == "vae" or name != "validation"]
    results: Results = {}
    with bar(total=sum(len(data.splits[name]) for _, name in places), desc="evaluating", unit=" images") as progress:
        for m, name in places:
            split, tick = data.splits[name], progress.update
            if m in models:
                results[m, name] = evaluate_model(models[m], split, tick)
            else:
                results[m, name] = evaluate_linear(code, split, lengths[m], tick)
    return results


def main(
    split: Annotated[Literal["all", "train", "validation", "test"], typer.Option(help="which images")] = "all",
    weights: Annotated[Path | None, typer.Option(help="of a VAE (default: the published models)")] = None,
    out: Annotated[Path | None, typer.Option(help="what to write (default: metrics.json beside the weights)")] = None,
    download: Annotated[bool, typer.Option("--download", help="fetch SVHN and CIFAR-100 if missing")] = False,
) -> None:
    """Compute and store every metric of the VAE, the published autoencoder, PCA and the mean image."""
    started, path = time.perf_counter(), weights or weights_path(out_dir(profile_settings()), "vae")
    out = out or path.with_name("metrics.json" if split == "all" else f"metrics_{split}.json")
    if out.suffix != ".json" or out.is_dir() or not results_folder(out.parent):
        raise UserError(f"--out {out} must name a file that ends in .json; a .csv with the same rows goes beside it")
    check_ours(out, b'{\n "dataset"')
    check_ours(out.with_suffix(".csv"), b"question,")
    vae, trained = load_model(path)
    if not isinstance(vae, VAE):
        raise UserError(f"{path} holds no VAE; --weights needs one")
    settings = Settings.from_dict(trained["settings"])
    data = load_data(settings.dataset).limited(settings.n_train, settings.n_eval)
    beside = weights_path(path.parent, "autoencoder")
    models: dict[str, Autoencoder] = {"vae": vae}
    if beside.is_file() and not weights:
        models["autoencoder"] = load_model(beside)[0]
    code = linear_code(data, path.parent, vae.latent_dim)
    data = data.limited(TRAIN_IMAGES, 0)
    results = evaluate_all(models, code, data, SPLITS if split == "all" else (split,))
    rows, notes = answers(results, models, code, data, out, download=download)
    write_metrics(rows, provenance(data, trained, notes), out)
    print(f"wrote {out} in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    program(main)
