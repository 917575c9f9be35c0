"""The architecture as a table and as a picture."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.run import build_model
from helpers.settings import profile_settings
from helpers.show.architecture import architecture_plot, layers

SMALL = {"width": 8, "latent_dim": 8}


@pytest.mark.parametrize("kind", ["vae", "autoencoder"])
def test_layers_count_every_weight_but_norms_and_sigma_and_what_one_pass_costs(kind: str) -> None:
    model = build_model(profile_settings("smoke", kind, **SMALL), 10).eval()
    parts = layers(model)
    counted = sum(p.numel() for module in model.modules() if not isinstance(module, torch.nn.BatchNorm2d)
                  for p in module.parameters(recurse=False))  # fmt: skip
    assert sum(part.parameters for part in parts) == counted - 1  # sigma
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.full((1, 3, 32, 32), 0.5))
    decoder = sum(part.mmac for part in parts if part.name.startswith("decoder"))
    assert sum(part.mmac for part in parts) + decoder == pytest.approx(counter.get_total_flops() / 2e6)  # it runs twice
    assert {part.name: part.output for part in parts}["code_head"] == (10,)


def test_the_picture_names_every_part_of_the_model_it_is_drawn_from() -> None:
    for looks in (1, 2):
        figure = architecture_plot(build_model(profile_settings("smoke", looks=looks, **SMALL), 10))
        words = " ".join(text.get_text() for text in figure.axes[0].texts)
        assert ("second look" in words) == (looks == 2) and "code: 8 numbers" in words and "MMAC" in words
