"""The terms of the loss, each in nats per image with all its constants, and the objective made of them.

-ELBO(x) = E_q[-log p(x|z)] + KL(q(z|x) || p(z))        [Kingma & Welling 2014, eq. 3]
           distortion         rate
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import LEVEL
from .models import Output, Posterior

LOG_2PI = math.log(2 * math.pi)


class Elbo(NamedTuple):
    """Distortion and rate, nats per image, each (n,). Not reduced: the caller takes the mean over images."""

    distortion: Tensor  # one-sample estimate of E_q[-log p(x|z)], summed over the 3*32*32 values
    rate: Tensor  # KL(q(z|x) || N(0, I)), exact, summed over the d latents

    @property
    def negative(self) -> Tensor:
        """-ELBO = distortion + rate (n,). What is REPORTED: always with weight 1."""
        return self.distortion + self.rate

    def objective(self, beta: float | Tensor = 1.0) -> Tensor:
        """What is MINIMISED: the mean over images of distortion + beta * rate, a scalar."""
        return (self.distortion + beta * self.rate).mean()


class Terms(NamedTuple):
    """Everything that one batch says about a model; the ELBO and the classification terms are kept apart."""

    elbo: Elbo
    cross_entropy: Tensor  # features head, nats per image (n,)
    code_cross_entropy: Tensor  # code head, nats per image (n,)
    logits: Tensor
    code_logits: Tensor | None


def gaussian_nll(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """-log N(x; mean, sigma^2 I), a density, nats per image (n,); nothing is dropped."""
    standardised = (x - mean) * torch.exp(-log_sigma)
    return (0.5 * (standardised.square() + LOG_2PI) + log_sigma).flatten(1).sum(1)


def kl_per_dim(q: Posterior) -> Tensor:
    """KL(q(z_j|x) || N(0, 1)) in nats, (n, d) [Kingma & Welling 2014, appendix B]."""
    return 0.5 * (q.mu.square() + q.logvar.exp() - 1 - q.logvar)


def discretised_nll(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """-log P(x) of the 8-bit values under the same Gaussian, a probability, nats per image (n,).

    A level owns the mass between its neighbours' midpoints; the two outermost levels own the tails, so the 256
    masses sum to 1 [Salimans et al., PixelCNN++, ICLR 2017, sec. 2.1, there with a logistic].
    """
    centred, scale = x - mean, torch.exp(-log_sigma)
    upper, lower = (centred + LEVEL / 2) * scale, (centred - LEVEL / 2) * scale
    # Mirror to the left tail, where float32 keeps the small masses that it rounds away next to 1.
    swap = centred > 0
    upper, lower = torch.where(swap, -lower, upper), torch.where(swap, -upper, lower)
    inner = torch.special.ndtr(upper) - torch.special.ndtr(lower)
    top, bottom = x > 1 - LEVEL / 2, x < LEVEL / 2
    edge = torch.where(top, (mean - 1 + LEVEL / 2) * scale, (LEVEL / 2 - mean) * scale)
    mass = torch.where(top | bottom, torch.special.ndtr(edge), inner)
    # Beyond about 13 sigma the float32 mass is 0; the density times the width of a level takes over there.
    log_density = math.log(LEVEL) - log_sigma - 0.5 * ((centred * scale).square() + LOG_2PI)
    return -torch.where(mass > 1e-30, mass.clamp_min(1e-38).log(), log_density).flatten(1).sum(1)


def bits_per_dim(nats_per_image: float, n_values: int) -> float:
    """Nats of a probability (not of a density) per image -> bits per colour value; the raw file has 8."""
    return nats_per_image / (n_values * math.log(2))


def loss_terms(
    output: Output, x: Tensor, labels: Tensor, log_sigma: Tensor | None, *, label_smoothing: float = 0.0
) -> Terms:
    """The terms for one batch x (n, 3, 32, 32), labels (n,). The term of what a model does not have is 0."""
    nothing = x.new_zeros(len(x))
    distortion = nothing if output.mean is None else gaussian_nll(x, output.mean.float(), log_sigma)
    rate = nothing if output.posterior is None else kl_per_dim(output.posterior).sum(1)
    entropies = [
        nothing
        if logits is None
        else F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)
        for logits in (output.logits, output.code_logits)
    ]
    return Terms(Elbo(distortion, rate), *entropies, output.logits, output.code_logits)


def total_objective(
    terms: Terms, *, beta: float | Tensor = 1.0, class_weight: float = 0.0, code_weight: float = 0.0
) -> Tensor:
    """What training minimises, a scalar: the (beta-)ELBO and the two weighted classification terms."""
    recognition = class_weight * terms.cross_entropy + code_weight * terms.code_cross_entropy
    return terms.elbo.objective(beta) + recognition.mean()
