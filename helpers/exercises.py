"""The exercises of the notebooks: `check` compares an answer with a reference and says what is wrong."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .losses import gaussian_nll, kl_per_dim
from .measure.metrics import auroc
from .models import Posterior
from .notebook import say
from .priors import slerp

CASES = 3  # random inputs that an answer must get right


Inputs = Callable[[torch.Generator], tuple[Any, ...]]


class Task(NamedTuple):
    """What a function must compute, what it is given, and what helps when it does not."""

    reference: Callable[..., Any]
    inputs: Inputs
    hint: str


def normal(*shapes: tuple[int, ...]) -> Inputs:
    """A tensor of standard normal numbers for each shape."""
    return lambda generator: tuple(torch.randn(shape, generator=generator) for shape in shapes)


def whole(*limits: int) -> Inputs:
    """Whole numbers from 1 to each limit."""
    return lambda generator: tuple(int(torch.randint(1, top + 1, (), generator=generator)) for top in limits)


def entropy(counts: Tensor) -> float:
    """Bits a symbol of symbols that occur this often; 0 log 0 is 0."""
    share = counts / counts.sum()
    return -float(torch.special.xlogy(share, share).sum()) / math.log(2)


def middle_of_arc(a: Tensor, b: Tensor) -> Tensor:
    """The middle of the arc between two directions, each made as long as 1."""
    return slerp(a / a.norm(), b / b.norm(), 3)[1]


def distance(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance between Gaussians with the means and the standard deviations of the columns of a and b."""
    return float((a.mean(0) - b.mean(0)).square().sum() + (a.std(0) - b.std(0)).square().sum())


IMAGES = (4, 3, 8, 8)
TASKS = {
    "1.1": Task(lambda x, y: -10 * math.log10((x - y).square().mean()), normal(IMAGES, IMAGES),
                "one mean over images, channels and pixels, then -10 times its logarithm to base 10"),
    "1.2": Task(lambda v, k: float(v[k:].sum() / v.sum()),
                lambda g: (torch.rand(12, generator=g).sort(descending=True).values, *whole(11)(g)),
                "the variances after the first k, divided by all of them"),
    "2.1": Task(lambda n, k, s, p: (n + 2 * p - k) // s + 1, lambda g: (32, *whole(5, 3, 2)(g)),
                "padding adds to both sides, the kernel needs its width once; divide with //"),
    "2.2": Task(lambda i, o, k: i * o * k * k + o, whole(64, 64, 5),
                "an output has a kernel for each input, and a bias"),
    "3.1": Task(lambda m, v: kl_per_dim(Posterior(m, v)).sum(1), normal((5, 8), (5, 8)),
                "half of variance + mean² - 1 - log variance, summed over latents and not over images"),
    "3.2": Task(lambda m, v, e: Posterior(m, v).sample(e), normal((5, 8), (5, 8), (5, 8)),
                "the mean plus the standard deviation, which is exp(logvar / 2), times the noise"),
    "3.3": Task(lambda x, m: gaussian_nll(x, m, torch.tensor(0.1).log()), normal(IMAGES, IMAGES),
                "for each value (x - mean)² / (2 sigma²) + log sigma + log(2 pi) / 2, summed over each image"),
    "4.1": Task(lambda v: float(v.std() / len(v) ** 0.5), normal((50,)), 
                "their standard deviation (with n - 1) over the root of n"),
    "4.2": Task(lambda nats, n: nats / (n * math.log(2)), whole(9000, 3072),
                "from nats to bits divide by log 2, then by the number of values"),
    "4.3": Task(lambda near, far: auroc(near, far).value, normal((30,), (40,)),
                "the share of all pairs in which the foreign image has the higher score"),
    "5.1": Task(middle_of_arc, normal((6,), (6,)),
                "make both as long as 1; the middle of the arc is their sum, as long as 1"),
    "5.2": Task(distance, normal((40, 5), (30, 5)),
                "squared differences of the means, plus squared differences of the standard deviations (with n - 1)"),
    "6.1": Task(entropy, lambda g: (torch.randint(0, 9, (6,), generator=g) + torch.eye(6)[0],),
                "minus the sum of p log2 p; a p of 0 adds nothing"),
    "6.2": Task(lambda x, step: (x / step).round() * step, lambda g: (*normal((20,))(g), 0.1 * whole(9)(g)[0]),
                "divide by the step, round, multiply by the step"),
    "7.1": Task(lambda code, axis, by: code + by * axis / axis.norm(),
                lambda g: (*normal((8,), (8,))(g), 0.3 * whole(9)(g)[0]),
                "make the axis as long as 1 first"),
    "7.2": Task(lambda z, y: z[y == 1].mean(0) - z[y == 0].mean(0),
                lambda g: (*normal((40, 4))(g), torch.randint(0, 3, (40,), generator=g)),
                "the mean code of class 1 minus that of class 0"),
}  # fmt: skip


def verdict(name: str, answer: Callable[..., Any]) -> str:
    """ "" when the answer is right, else what to do. Raises KeyError for a task that does not exist."""
    task, generator = TASKS[name], torch.Generator().manual_seed(0)
    for arguments in [task.inputs(generator) for _ in range(CASES)]:
        right = torch.as_tensor(task.reference(*arguments), dtype=torch.float64)
        try:
            given = answer(*arguments)  # which may change what it is given
        except Exception as error:  # whatever a first attempt does
            return f"it stops with {type(error).__name__}: {error}"
        if given is None or given is ...:
            return "it gives nothing: replace the dots, or add `return`"
        try:
            theirs = torch.as_tensor(given, dtype=torch.float64)
        except (TypeError, ValueError):
            return f"it gives {given!r}, which is not a number or a tensor"
        if theirs.shape != right.shape:
            wanted = f"the shape {tuple(right.shape)}" if right.ndim else "one number"
            return f"it gives the shape {tuple(theirs.shape)} instead of {wanted}; {task.hint}"
        if not torch.allclose(theirs, right, rtol=1e-4, atol=1e-6):
            return f"not yet: {first_difference(theirs, right)}; {task.hint}"
    return ""


def first_difference(theirs: Tensor, right: Tensor) -> str:
    """As "1.5 where 2 is right", of two tensors of one shape that are not equal."""
    pairs: Iterator[tuple[float, float]] = zip(theirs.flatten().tolist(), right.flatten().tolist(), strict=True)
    mine, other = next(pair for pair in pairs if not math.isclose(*pair, rel_tol=1e-4, abs_tol=1e-6))
    return f"it gives {mine:.6g} where {other:.6g} is right"


def check(name: str, answer: Callable[..., Any]) -> None:
    """Say whether an answer is right, or what is wrong with it."""
    problem = verdict(name, answer)
    say(f"**Exercise {name}: {problem or 'right'}.**")
