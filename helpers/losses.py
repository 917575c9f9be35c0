"""The terms of the loss, each in nats per image with all its constants, and the objective made of them.

-ELBO(x) = E_q[-log p(x|z)] + KL(q(z|x) || p(z))        [Kingma & Welling 2014, eq. 3]
           distortion         rate
"""

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .data import LEVEL
from .models import Output, Posterior

LOG_2PI = math.log(2 * math.pi)
Number = TypeVar("Number", float, Tensor)


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


def bits_per_dim(nats_per_image: Number, n_values: int) -> Number:
    """Nats per image, (n,) or one number, -> bits per colour value; the raw file has 8 of a probability."""
    return nats_per_image / (n_values * math.log(2))


def loss_terms(
    output: Output, x: Tensor, labels: Tensor, log_sigma: Tensor | None = None, *, label_smoothing: float = 0.0
) -> dict[str, Tensor]:
    """The terms that a model has for one batch x (n, 3, 32, 32), labels (n,): each (n,), in nats per image."""
    terms = {}
    if output.mean is not None and log_sigma is not None:
        terms["distortion"] = gaussian_nll(x, output.mean.float(), log_sigma)
    if output.posterior is not None:
        terms["rate"] = kl_per_dim(output.posterior).sum(1)
    for name, logits in (("cross_entropy", output.logits), ("code_cross_entropy", output.code_logits)):
        if logits is not None:
            terms[name] = F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)
    return terms


def total_objective(terms: dict[str, Tensor], weights: Mapping[str, float | Tensor]) -> Tensor:
    """What training minimises, a scalar: the means over images of the (beta-)ELBO and of the weighted recognition."""
    recognition = [weights[name] * term for name, term in terms.items() if name not in Elbo._fields]
    objective = torch.stack(recognition).sum(0).mean()
    if "distortion" in terms:  # a model without a rate has distortion alone
        rate = terms.get("rate", torch.zeros_like(terms["distortion"]))
        objective = Elbo(terms["distortion"], rate).objective(weights.get("rate", 0.0)) + objective
    return objective
