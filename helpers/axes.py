"""The axes in which codes are rounded: the posterior is round in them, so that every number deserves the same step."""

from typing import NamedTuple

import torch
from torch import Tensor

from . import trellis
from .data import Split, in_batches
from .engine import precise
from .models import VAE

STEP = trellis.NOISE**-0.5  # of fineness 1, in posterior widths: the noise of quantisation is the posterior's


class CodeModel(NamedTuple):
    """Where codes lie: z = mean + y @ axes; y of an image follows Gaussians of one class. Kept as codec.safetensors."""

    mean: Tensor  # (d,)
    axes: Tensor  # (d, d), not orthogonal: along each row the posterior has the width 1
    widths: Tensor  # (classes, d), standard deviations of y
    sigma: Tensor  # (), the RMSE of reconstructions in pixels 0..1: the calibrated decoder's own width


def fit_code_model(vae: VAE, split: Split, n: int = 10_000, n_jacobians: int = 50) -> CodeModel:
    """Fitted on the first n images of a split (the training one)."""

    def measured(x: Tensor) -> tuple[Tensor, Tensor]:
        mu = vae.code(x)
        return mu, precise(vae.decode(mu) - x).square().flatten(1).sum(1)

    images = split.head(n).images
    mu, squared_error = in_batches(measured, images, vae.device)
    error = squared_error.sum().item() / images.numel()
    precision = torch.eye(mu.shape[1], dtype=torch.float64) + _metric(vae, mu[:n_jacobians].to(vae.device)) / error
    centred = mu.double() - mu.double().mean(0)
    whiten = torch.linalg.cholesky(precision)  # y = z @ whiten has the covariance 1 under the posterior
    _, turn = torch.linalg.eigh((centred @ whiten).T.cov())
    to_y = whiten @ turn.flip(1)
    widths = torch.from_numpy(trellis.fit_widths((centred @ to_y).numpy())).float()
    return CodeModel(mu.double().mean(0).float(), torch.linalg.inv(to_y).float(), widths, torch.tensor(error).sqrt())


@torch.no_grad()
def _metric(vae: VAE, z: Tensor, eps: float = 0.01) -> Tensor:
    """The mean of J'J over codes z (k, d), J the decoder's Jacobian; / sigma^2 + I: the precision [Laplace]."""
    d = z.shape[1]
    total, moves = torch.zeros(d, d, dtype=torch.float64), eps * torch.eye(d, device=z.device)
    for point in z:
        ahead, behind = precise(vae.decode(torch.cat([point + moves, point - moves]))).flatten(1).split(d)
        jacobian = (ahead - behind) / (2 * eps)  # (d, pixels)
        total += (jacobian @ jacobian.T).cpu()
    return total / len(z)
