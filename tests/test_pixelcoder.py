"""The network's probabilities sum to one over the bins of a value, and no pixel sees itself or what comes later."""

from pathlib import Path

import pytest
import torch

from helpers.data import Dataset
from helpers.engine.files import weights_path
from helpers.pixelcoder import (
    Mixture,
    PixelNet,
    PixelTrainer,
    bins,
    centred,
    coded,
    contexts,
    middle,
    planes,
    without_mean,
)  # fmt: skip
from helpers.run import build_model, load_vae
from helpers.settings import profile_settings
from helpers.training import fit

ONES = torch.ones(1)


def network(width: int = 16, components: int = 3) -> PixelNet:
    """One that has learnt nothing, whose every number plays a part."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = PixelNet(width, components)
        for parameter in net.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return net


def image(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (1, 8, 9, 3), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("step", [1, 2, 5, 64])
def test_bins_cover_all_levels_and_are_centred_on_the_prediction(step: int) -> None:
    values, size = torch.arange(256.0), torch.tensor(float(step))
    for prediction in (0.0, 3.0, 128.0, 255.0):
        shift = centred(torch.tensor(prediction), size)
        number = bins(values, shift, size)
        assert number.min() == 0 and set(number.diff().tolist()) <= {0.0, 1.0}
        kept = middle(number, shift, size)
        assert (kept - values).abs().max() <= step // 2 and kept[int(prediction)] == prediction
        assert torch.equal(bins(kept, shift, size), number)


@pytest.mark.parametrize("step", [31, 64])
def test_probabilities_of_all_that_can_be_kept_of_a_pixel_sum_to_one(step: int) -> None:
    levels = torch.cat([torch.arange(0.0, 256, 8), torch.tensor([255.0])])  # in every bin one at least
    values = torch.cartesian_prod(levels, levels, levels)
    with torch.no_grad():
        mixture = network().mixture(contexts(image(), image(1), ONES * step, ONES > 0))
        one = Mixture(*(part[:1].expand(len(values), *part.shape[1:]) for part in mixture))
        nats, kept = coded(one, values, torch.full((len(values), 1), float(step)))
    chance = dict(zip(map(tuple, kept.tolist()), (-nats.double()).exp().tolist(), strict=True))
    assert len(chance) >= (255 // step) ** 3 and sum(chance.values()) == pytest.approx(1, abs=1e-4)


def test_a_pixel_is_predicted_from_those_before_it_alone() -> None:
    x, given = image(), ONES > 0
    base = contexts(x, image(1), ONES, given).view(8, 9, -1)
    changed = x.clone()
    changed[0, 4, 5] = 255 - changed[0, 4, 5]
    differs = (contexts(changed, image(1), ONES, given).view(8, 9, -1) != base).any(2)
    assert not differs[:4].any() and not differs[4, :6].any() and not differs[5:, :2].any()
    assert differs[4, 6:].all() and differs[5, 2:].any()


def test_without_its_mean_the_network_reads_fewer_numbers_and_says_the_same() -> None:
    net, seen = network(), contexts(image(), image(1), ONES, ONES < 0)
    smaller = without_mean(net)
    for a, b in zip(net.mixture(seen), smaller.mixture(seen[:, : smaller.inward.weight.shape[1]]), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_a_fresh_network_learns_and_its_training_goes_on_where_it_stopped(
    photos: Dataset, trained: Path, tmp_path: Path
) -> None:
    vae = load_vae(weights_path(trained, "vae"))
    settings = profile_settings("smoke", "pixels", "photos", n_train=64, n_eval=20, epochs=3)

    def make(model: PixelNet, data: Dataset, s: object) -> PixelTrainer:
        return PixelTrainer(model, data, s, vae=vae)

    whole = list(fit(build_model(settings, 10), photos, settings, None, make))
    first = fit(build_model(settings, 10), photos, settings, tmp_path / "x.checkpoint.safetensors", make)
    next(first)
    resumed = list(fit(build_model(settings, 10), photos, settings, tmp_path / "x.checkpoint.safetensors", make))
    names = [name for name in whole[-1] if name.startswith(("train", "validation"))]
    assert [[r[name] for name in names] for r in resumed] == [[r[name] for name in names] for r in whole]
    assert whole[-1]["train_nats"] < whole[0]["train_nats"]
    assert whole[-1]["validation_bits_32_alone"] < whole[-1]["validation_bits_8_alone"]
    assert planes(photos.test.images[:2])[..., 0].equal(photos.test.images[:2, 1].float())
