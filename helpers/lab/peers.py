"""Peers in one harness: known models and ours, the same split, the same wall time, the same evaluation.

All have 128 numbers in the code and see the training split only. By their own recipes: pythae 0.1.2 (extra `peers`)
[Chadebec et al. 2022], with its own code; UvA's autoencoder [Lippe 2022] and PyTorch-VAE [Subramanian 2020], written
anew. The fairest opponent is a VAE with UvA's plain convolutions and a learned sigma [Rybkin et al. 2021].
"""

import json
import math
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from torch.nn import functional as F
from typer import Option

from .. import losses, priors
from ..data import EVALUATION_BATCH, Dataset, batches, in_batches, to_bytes
from ..engine import files, runtime, sealed
from ..engine.errors import UserError, did_you_mean
from ..evaluate import evaluate_model
from ..judge import Judge, judge_images
from ..measure import metrics, samples
from ..models import VAE, Autoencoder
from ..run import build_model, load_model
from ..settings import out_dir, profile_settings
from ..sources import load_data
from ..training import fit
from .benchmark import our_speed

try:
    from . import pythae_adapter
except ImportError:  # the extra `peers` is not installed
    pythae_adapter = None  # type: ignore[assignment]

LATENT = 128
CLASSES = 10
half = partial(nn.Conv2d, kernel_size=3, stride=2, padding=1)
double = partial(nn.ConvTranspose2d, kernel_size=3, stride=2, padding=1, output_padding=1)
Model = TypeVar("Model", bound=Autoencoder)
Loss = Callable[[Tensor], Tensor]  # of a batch of images
Trained = tuple[Autoencoder, float]  # a model that the evaluation understands, and images per second in its training


class Then(nn.Module):
    """A foreign network, and a function that turns its output into what our models expect."""

    def __init__(self, body: nn.Module, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.body, self.function = body, function

    def forward(self, x: Tensor, hidden: Tensor | None = None) -> Any:
        return self.function(self.body(x))


def adopt(kind: type[Model], encoder: nn.Module, decoder: nn.Module, sigma: float) -> Model:
    """An Autoencoder or VAE made of foreign networks; its classifiers know nothing. `sigma` 0: learned."""
    without_features = Then(encoder, lambda h: (h, h.new_zeros(len(h), 1)))
    return kind(without_features, decoder, nn.Linear(1, CLASSES), nn.Linear(LATENT, CLASSES), sigma=sigma)


def train_for(
    minutes: float, data: Dataset, model: nn.Module, loss: Loss, lr: float, batch_size: int, decay: float = 1.0
) -> float:
    """Adam on shuffled batches until the time is over, `lr` times `decay` an epoch; returns images per second."""
    optimiser = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, decay)
    order, started, seen = torch.Generator().manual_seed(0), time.perf_counter(), 0
    while True:
        for x, _ in batches(data.train, batch_size, order=order):
            optimiser.zero_grad()
            loss(x).backward()
            optimiser.step()
            seen += len(x)
            if (seconds := time.perf_counter() - started) > 60 * minutes:
                return seen / seconds
        schedule.step()


def uva_networks(outputs: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of UvA tutorial 9, five convolutions each way; its decoder ends in tanh, ours in sigmoid."""
    c, act = 32, nn.GELU
    down = [(3, c, 2), (c, c, 1), (c, 2 * c, 2), (2 * c, 2 * c, 1), (2 * c, 2 * c, 2)]
    layers = [layer for a, b, s in down for layer in (nn.Conv2d(a, b, 3, stride=s, padding=1), act())]
    decoder = nn.Sequential(
        nn.Linear(LATENT, 32 * c), act(), nn.Unflatten(1, (2 * c, 4, 4)),
        double(2 * c, 2 * c), act(), nn.Conv2d(2 * c, 2 * c, 3, padding=1), act(),
        double(2 * c, c), act(), nn.Conv2d(c, c, 3, padding=1), act(),
        double(c, 3), nn.Sigmoid(),
    )  # fmt: skip
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * c, outputs)), decoder


def train_uva(data: Dataset, minutes: float) -> Trained:
    """The autoencoder of UvA tutorial 9: squared error, Adam 1e-3, batches of 256."""
    model = adopt(Autoencoder, *uva_networks(LATENT), 1.0)
    return model, train_for(
        minutes, data, model, lambda x: (model.decode(model.code(x)) - x).square().flatten(1).sum(1).mean(), 1e-3, 256
    )


def train_plain_vae(data: Dataset, minutes: float) -> Trained:
    """The ELBO with a learned sigma on the same plain networks, Adam 1e-3, batches of 256: no class, no second look."""
    model = adopt(VAE, *uva_networks(2 * LATENT), 0.0)

    def loss(x: Tensor) -> Tensor:
        q = model.encode(x)
        mean = model.decode(q.sample(torch.randn_like(q.mu)))
        return losses.Elbo(losses.gaussian_nll(x, mean, model.log_sigma), losses.kl_per_dim(q).sum(1)).objective()

    return model, train_for(minutes, data, model, loss, 1e-3, 256)


def train_pytorch_vae(data: Dataset, minutes: float) -> Trained:
    """PyTorch-VAE's vanilla VAE: mean squared error + 0.00025 KL, Adam 5e-3 (times 0.95 an epoch), batches of 64."""

    def blocks(layer: Callable[[int, int], nn.Module], *sizes: int) -> list[nn.Module]:
        return [nn.Sequential(layer(a, b), nn.BatchNorm2d(b), nn.LeakyReLU()) for a, b in pairwise(sizes)]

    encoder = nn.Sequential(*blocks(half, 3, 32, 64, 128, 256, 512), nn.Flatten(), nn.Linear(512, 2 * LATENT))
    up = [*blocks(double, 512, 256, 128, 64, 32, 32), nn.Conv2d(32, 3, 3, padding=1), nn.Tanh()]
    decoder = nn.Sequential(nn.Linear(LATENT, 512), nn.Unflatten(1, (512, 1, 1)), *up)
    weight = 0.00025
    # a * (sum of squares) + b * KL with a = 1 / 3072 is the ELBO of a Gaussian decoder with sigma^2 = b / (2 a)
    model = adopt(VAE, encoder, nn.Sequential(decoder, nn.Hardtanh(0, 1)), math.sqrt(weight * 3072 / 2))

    def loss(x: Tensor) -> Tensor:
        q = model.encode(x)
        mean = decoder(q.sample(torch.randn_like(q.mu)))
        return F.mse_loss(mean, x) + weight * losses.kl_per_dim(q).sum(1).mean()

    return model, train_for(minutes, data, model, loss, 5e-3, 64, decay=0.95)


def train_pythae(data: Dataset, minutes: float) -> Trained:
    """pythae's VAE, its ResNet networks for CIFAR, its own trainer at its defaults (Adam 1e-4, batches of 64)."""
    if pythae_adapter is None:
        raise UserError("pythae is not installed; pip install -e '.[peers]' brings it")
    theirs = pythae_adapter.resnet_vae(LATENT)
    speed = pythae_adapter.run_trainer(theirs, data.train, minutes)
    encoder = Then(theirs.encoder, lambda output: torch.cat([output.embedding, output.log_covariance], 1))
    decoder = Then(theirs.decoder, lambda output: output["reconstruction"].clamp(0, 1))
    return adopt(VAE, encoder, decoder, 1.0), speed


def train_ours(data: Dataset, minutes: float) -> Trained:
    """Our VAE with the published settings, on as many images as fit into the time, in whole epochs."""
    settings = profile_settings("full")
    epochs = math.ceil((images := 0.97 * 60 * minutes * our_speed(settings, data)) / len(data.train))
    settings = settings.replace(epochs=epochs, n_train=math.ceil(images / epochs))
    model = build_model(settings, CLASSES)
    *_, last = fit(model, data, settings)
    return model, images / last["seconds"]


PEERS: dict[str, Callable[[Dataset, float], Trained]] = {
    "ours": train_ours, "plain VAE": train_plain_vae, "UvA autoencoder": train_uva,
    "PyTorch-VAE": train_pytorch_vae, "pythae": train_pythae,
}  # fmt: skip


def mixture_samples(codes: Tensor, n: int) -> Tensor:
    """n codes (n, d) from ten Gaussians with full covariances fitted to codes (m, d)."""
    mixture = GaussianMixture(10, max_iter=30, reg_covar=1e-4, random_state=0)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # the cap on iterations is meant
        drawn, _ = mixture.fit(codes.numpy()).sample(n)
    return torch.from_numpy(np.random.default_rng(0).permutation(drawn)).float()


@torch.no_grad()
def features_of(model: Autoencoder, codes: Tensor, judge: Judge) -> Tensor:
    """The judge's features of the images of codes (n, LATENT)."""
    images = [to_bytes(model.decode(z.to(model.device))).cpu() for z in codes.split(EVALUATION_BATCH)]
    return judge_images(judge, torch.cat(images))[0]


def peer_row(trained: Trained, data: Dataset, judge: Judge) -> dict[str, Any]:
    """Every number of a model on all test images, and on as many samples by two priors."""
    model, speed = trained
    n, result = len(data.test), evaluate_model(model, data.test)
    estimates, unseen = result.metrics, result.columns["code"]
    names = ("psnr_pooled", "ssim", "rate", "bpd", "active_units")
    row: dict[str, Any] = {name: estimates[name].value for name in names if name in estimates}
    if isinstance(model, VAE):
        posteriors = priors.encode_all(model, data.train)
        known, codes = posteriors[0], priors.posterior_samples(posteriors)
        error = evaluate_model(model, data.validation).metrics["mse_sample"].value  # sigma^2, once it is calibrated
        row |= {"sigma": model.sigma.item(), "calibrated_sigma": math.sqrt(error)}
        model.log_sigma.data.fill_(math.log(error) / 2)
        row["calibrated_bpd"] = evaluate_model(model, data.test).metrics["bpd"].value
    else:
        known = codes = in_batches(model.code, data.train.images, model.device)
    few = data.train.labels[:10_000]
    row["probe_accuracy"] = metrics.linear_probe(known[: len(few)], few, unseen, data.test.labels).value
    real, mixture = judge_images(judge, data.test.images)[0], mixture_samples(codes, n)
    sources = {"reconstructions": unseen, "N(0, I)": priors.standard_normal(n, LATENT), "mixture": mixture}
    row["frechet"] = {k: samples.frechet_distance(features_of(model, z, judge), real) for k, z in sources.items()}
    parameters = sum(p.numel() for name, p in model.named_parameters() if "head" not in name)
    return row | {"n": n, "parameters": parameters, "images_per_second": speed}


def peers(
    minutes: Annotated[float, Option(min=0.01, max=1000, help="wall time of each training")] = 12.0,
    only: Annotated[list[str] | None, Option(metavar="NAME", help=f"of: {', '.join(PEERS)}; may be repeated")] = None,
) -> None:
    """Train other people's models for as long as ours, and measure all of them alike."""
    for name in only or []:
        if name not in PEERS:
            raise UserError(f"there is no peer {name!r}.{did_you_mean(name, PEERS)} Known: {', '.join(PEERS)}")
    data, folder = load_data("cifar10"), out_dir(profile_settings("full"))
    path, (judge, _) = folder / "peers.json", load_model(files.weights_path(folder, "judge"))
    rows = sealed.read_json(path, "delete it and run the peers again") if path.is_file() else {}
    for name in only or PEERS:
        if rows.get(name, {}).get("minutes") == minutes:
            print(f"{name}: in the table already", flush=True)
            continue
        torch.manual_seed(0)
        row = peer_row(PEERS[name](data, minutes), data, judge)
        precision = {} if name == "ours" else {"training_precision": "float32"}  # their own loops know nothing of bf16
        rows[name] = row | {"minutes": minutes, "seed": 0, "environment": runtime.environment() | precision}
        sealed.write_json(path, rows)
        print(f"{name}: {json.dumps(row)}", flush=True)
