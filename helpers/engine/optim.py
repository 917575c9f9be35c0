"""Muon: momentum whose update is the nearest (semi-)orthogonal matrix, for convolutions and linear layers.

torch has a Muon for matrices only; a convolution's kernel is a matrix too, (outputs, inputs * height * width).
Sources: Jordan et al., Muon, 2024 (the Newton-Schulz iteration and its coefficients); Liu et al., Muon is Scalable for
LLM Training, 2025, sec. 2.2 (the scale, by which one learning rate fits Muon and AdamW).
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def _polynomial(gram: Tensor) -> Tensor:
    factor = torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)  # b G + c G^2
    factor.diagonal().add_(3.4445)  # + a I
    return factor


def orthogonalised(matrix: Tensor, steps: int = 5) -> Tensor:
    """About U V^T for matrix = U S V^T, (m, n): a x + b x^3 + c x^5, repeated, sends (0, 1] to roughly [0.7, 1.2]."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide / (wide.norm() + 1e-7)
    # x becomes P x with P = a I + b G + c G^2 and G = x x^T. All the P are polynomials of the first G, so they commute
    # and G becomes P G P: the iteration needs only the small side, and the long one enters twice instead of ten times.
    gram = x @ x.T
    whole = factor = _polynomial(gram)
    for _ in range(steps - 1):
        gram = factor @ gram @ factor
        factor = _polynomial(gram)
        whole = factor @ whole
    return whole @ x if matrix.shape[0] <= matrix.shape[1] else (whole @ x).T


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; `lr` compares with AdamW's (an update has a root mean square of 0.2 lr)."""

    def __init__(self, params: Iterable, lr: float = 1e-2, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; parameters need two dimensions or more."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                average = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(average, group["momentum"]).flatten(1)
                update = orthogonalised(ahead) * (0.2 * max(ahead.shape) ** 0.5)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-group["lr"])


def one_cycle(step: int, steps: int, peak: float, warmup: float = 0.15) -> float:
    """The learning rate of a step: a linear rise over the first `warmup` of the run, then a cosine to zero."""
    done = (step + 1) / steps
    if done < warmup:
        return peak * done / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
