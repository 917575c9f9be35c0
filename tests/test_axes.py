"""In the axes of the code the posterior is round and the numbers are uncorrelated."""

from pathlib import Path

import torch

from helpers.codec import load_codec
from helpers.data import Dataset, to_unit
from helpers.engine.files import weights_path


def test_the_posterior_is_round_in_the_axes_of_the_code(trained: Path, photos: Dataset) -> None:
    codec = load_codec(weights_path(trained, "vae"), photos)
    with torch.no_grad():
        q = codec.model.encode(to_unit(photos.train.images))
    own = torch.diag_embed(q.logvar.exp()).mean(0).double()  # the encoder's widths, which know no correlations
    to_y = torch.linalg.inv(codec.code_model.axes.double())
    widths = torch.linalg.eigvalsh(to_y.T @ own @ to_y).sqrt()
    assert 0.3 < widths.min() and widths.max() < 3
    y = (q.mu - codec.code_model.mean).double() @ to_y
    correlation = torch.corrcoef(y.T) - torch.eye(y.shape[1])
    assert correlation.abs().max() < 0.1
