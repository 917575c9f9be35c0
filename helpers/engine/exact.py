"""Networks whose results are the same to the last bit on every machine: encoder and decoder of a file must agree.

Float32 sums depend on their order, and so on the processor, the threads and the batch. Here every number lies on a
grid: weights are multiples of 2^-16, activations of 2^-12, and their products of 2^-28. Below 2^24 such numbers have at
most 52 bits, which float64 adds without any rounding, in any order. What is not a sum of products comes from a table.
"""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UserError

WEIGHT_BITS, ACTIVATION_BITS = 16, 12
LARGEST = 2.0 ** (52 - WEIGHT_BITS - ACTIVATION_BITS)


def snap(x: Tensor, bits: int = ACTIVATION_BITS) -> Tensor:
    """The nearest multiple of 2^-bits, halves upwards."""
    return (x * 2**bits).add_(0.5).floor_().mul_(2.0**-bits)


def table(function: Callable[[float], float], first: float, last: float, places: int, bits: int) -> Tensor:
    """`function` at multiples of 1 / places from `first` to `last`, rounded to multiples of 2^-bits, float64.

    Mathematical libraries differ by about 1e-16, which no entry shows: a test says how far from a tie the nearest is.
    """
    points = [first + i / places for i in range(round((last - first) * places) + 1)]
    return snap(torch.tensor([function(x) for x in points], dtype=torch.float64), bits)


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + math.exp(-x))


def gelu(x: float) -> float:
    """x times the normal distribution function."""
    return x * 0.5 * math.erfc(-x / math.sqrt(2))


class Lookup(nn.Module):
    """A function of multiples of 2^-12, from a table over [-limit, limit]; beyond it is constant, or x above."""

    values: Tensor

    def __init__(self, function: Callable[[float], float], limit: int, *, linear_above: bool = False) -> None:
        super().__init__()
        self.limit, self.linear_above = limit, linear_above
        self.values = table(function, -limit, limit, 2**ACTIVATION_BITS, ACTIVATION_BITS)

    def forward(self, x: Tensor) -> Tensor:
        place = (x.clamp(-self.limit, self.limit) + self.limit) * 2**ACTIVATION_BITS
        found = self.values[place.long()]
        return torch.where(x > self.limit, x, found) if self.linear_above else found


class Snapped(nn.Module):
    """A linear layer or convolution with snapped weights, whose result is snapped; the sums inside are exact."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = deepcopy(layer).double().requires_grad_(False)
        for parameter in self.layer.parameters():
            parameter.copy_(snap(parameter, WEIGHT_BITS))
        outputs = 1 if isinstance(layer, nn.ConvTranspose2d) else 0  # the dimension of the weights that counts outputs
        sums = self.layer.weight.abs().transpose(0, outputs).flatten(1).sum(1)
        self.gain = (sums + self.layer.bias.abs()).max().item()

    def forward(self, x: Tensor) -> Tensor:
        least, most = x.aminmax() if x.numel() else (x.new_zeros(()), x.new_zeros(()))
        if max(1.0, -least.item(), most.item()) * self.gain >= LARGEST:
            raise UserError("numbers inside the network are too large to be exact; these weights cannot code pixels")
        return snap(self.layer(x))


def exact_copy(module: Any) -> Any:
    """A network in exact arithmetic; inputs are float64 multiples of 2^-12. Layers that only move numbers stay."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        return Snapped(module)
    if isinstance(module, nn.GELU):
        return Lookup(gelu, 8, linear_above=True)
    if isinstance(module, nn.Sigmoid):
        return Lookup(sigmoid, 16)
    copied = deepcopy(module)
    for name, child in module.named_children():
        setattr(copied, name, exact_copy(child))
    return copied.eval()
