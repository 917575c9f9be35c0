"""The true FID and Inception score, where Inception's weights can be had; nothing else in this project has these names.

Needs the extra `inception` (torch-fidelity) and, the first time, a network: the weights are downloaded once.
"""

import torch
from torch import Tensor

from ..config import UserError
from ..data import EVALUATION_BATCH


@torch.no_grad()
def inception_scores(real: Tensor, made: Tensor) -> dict[str, float]:
    """FID of uint8 images `made` against `real` (n, 3, h, w), and the Inception score of `made` with its deviation.

    Features of torch-fidelity's Inception-v3 [Heusel et al. 2017; Salimans et al. 2016], by torchmetrics. Raises
    UserError when the package is missing or its weights cannot be downloaded.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore

    try:
        distance, score = FrechetInceptionDistance(), InceptionScore()
    except (ModuleNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no FID: pip install -e '.[inception]' and a network for the weights ({reason})") from None
    for part in real.split(EVALUATION_BATCH):
        distance.update(part, real=True)
    for part in made.split(EVALUATION_BATCH):
        distance.update(part, real=False)
        score.update(part)
    mean, deviation = score.compute()
    return {"n": len(made), "fid": distance.compute().item(), "is": mean.item(), "is_deviation": deviation.item()}
