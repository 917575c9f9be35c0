"""The networks: what reaches what, what is drawn, and what one pass of the encoder gives."""

import math

import pytest
import torch
from torch import nn

from helpers.data import Dataset, to_unit
from helpers.losses import Elbo, loss_terms
from helpers.models import VAE, Autoencoder, Posterior, Trunk
from helpers.run import build_model
from helpers.settings import profile_settings

from .conftest import gradient_norm, refused

SMALL = profile_settings("smoke", width=8, latent_dim=8)


def test_logvar_is_the_log_of_a_variance() -> None:
    q = Posterior(torch.zeros(20_000, 1), torch.full((20_000, 1), math.log(9.0)))
    z = q.sample(torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)))
    assert z.std().item() == pytest.approx(3.0, rel=0.03)


def test_evaluation_samples_z_too() -> None:
    model = build_model(SMALL, 10).eval()
    x = torch.rand(2, 3, 32, 32)
    eps = torch.randn(2, 8)
    with torch.no_grad():
        assert not torch.equal(model(x, eps).mean, model(x, -eps).mean)
        assert torch.equal(model(x, eps).mean, model(x, eps).mean)


def test_the_mean_lies_in_the_range_of_pixels() -> None:
    z = 50 * torch.randn(16, 8)
    images = build_model(SMALL, 10).decode(z)
    assert images.shape == (16, 3, 32, 32) and images.min() >= 0 and images.max() <= 1


def test_the_gradient_of_the_pixels_does_not_reach_the_classifier_path() -> None:
    model, x = build_model(SMALL, 10), torch.rand(8, 3, 32, 32)
    terms = loss_terms(model(x), x, torch.arange(8), model.log_sigma)
    Elbo(terms["distortion"], terms["rate"]).objective().backward()
    assert gradient_norm(model, "encoder.what") == 0 and gradient_norm(model, "encoder.where") > 0


def test_a_fresh_correction_changes_nothing_and_a_trained_one_sees_the_error_that_is_left() -> None:
    model, x = build_model(SMALL, 10).eval(), torch.rand(4, 3, 32, 32)
    plain = VAE(model.encoder, model.decoder, model.head, model.code_head).eval()
    with torch.no_grad():
        assert torch.equal(model.encode(x).mu, plain.encode(x).mu)
        torch.nn.init.normal_(model.correction.to_code.weight, std=0.1)
        first, y = plain.encode(x).mu, plain.decode(plain.encode(x).mu)
        assert torch.allclose(model.encode(x).mu, first + model.correction(x, y)[:, : model.latent_dim])
        assert not torch.allclose(model.encode(x).mu, first)


def test_the_first_layer_of_a_trunk_whitens_patches_and_is_not_trained(photos: Dataset) -> None:
    trunk = Trunk((8, 8, 8))
    trunk.whiten(photos.train.images)
    with torch.no_grad():
        seen = trunk.patches(to_unit(photos.train.images)).transpose(0, 1).flatten(1)  # (24, patches)
    variance = seen[:12].cov().double()
    strong = variance.diag() > 0.9  # the noise of faint directions is not blown up
    assert strong.sum() >= 3 and (variance.diag() < 1.01).all()
    assert (variance - variance.diag().diag()).abs().max() < 0.02 and torch.allclose(seen[:12], -seen[12:], atol=1e-5)
    assert [name for name, p in trunk.named_parameters() if not p.requires_grad] == ["patches.weight"]


def test_a_fixed_sigma_stays_fixed_and_a_learned_one_learns() -> None:
    learned, fixed = (build_model(profile_settings("smoke", sigma=s), 10).log_sigma for s in (0.0, 0.5))
    assert learned.requires_grad and not fixed.requires_grad and fixed.exp().item() == pytest.approx(0.5)


def test_no_norm_stands_next_to_the_code_or_the_output() -> None:
    model = build_model(SMALL, 10)
    for part in (model.decoder, model.encoder.where, model.encoder.to_code):
        assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in part.modules())


def test_one_pass_reads_what_the_single_calls_give() -> None:
    x = torch.rand(4, 3, 32, 32)
    for kind in ("vae", "autoencoder"):
        model = build_model(profile_settings("smoke", kind, width=8, latent_dim=8), 10).eval()
        with torch.no_grad():
            seen = model.read(x)
            assert torch.equal(seen.code, model.code(x)) and torch.equal(model.head(seen.features), model.classify(x))
            assert torch.equal(model.code_head(seen.code), model(x).code_logits)
            assert (seen.posterior is None) == (kind == "autoencoder") and model.latent_dim == 8
    vae = build_model(SMALL, 10).eval()
    assert torch.equal(vae.encode(x).mu, vae.read(x).code)


UNIT = torch.rand(4, 3, 32, 32)
WRONG = {
    "255": 255 * UNIT, "-1 to": 2 * UNIT.round() - 1, "nan": UNIT.where(UNIT < 0.5, math.nan), "inf": UNIT / 0,
    "normalised": (UNIT - 0.47) / 0.24, "uint8": (255 * UNIT).byte(), "float64": UNIT.double(), "float16": UNIT.half(),
    "(4, 32, 32, 3)": UNIT.permute(0, 2, 3, 1), "(3, 32, 32)": UNIT[0], "(4, 1, 32, 32)": UNIT[:, :1],
    "(4, 3, 33, 33)": torch.rand(4, 3, 33, 33), "(4, 3, 28, 28)": UNIT[..., 2:30, 2:30], "ndarray": UNIT.numpy(),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["vae", "autoencoder"])
@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_image_is_refused_with_what_is_expected(what: str, kind: str) -> None:
    model = build_model(profile_settings("smoke", kind, width=8, latent_dim=8), 10).eval()
    for call in (model.read, model.code, model.classify, model, *([model.encode] if kind == "vae" else [])):
        found = "from" if what == "normalised" else "" if what == "ndarray" else what
        refused(lambda call=call: call(WRONG[what]), "torch.float32 tensor (n, 3, 32, 32) with values in [0, 1]", found)


def test_images_at_the_ends_of_the_range_none_and_other_number_formats_are_read() -> None:
    model = build_model(SMALL, 10).eval()
    for x in (UNIT.round(), UNIT * 0, UNIT * 0 + 1, UNIT * (1 + 1e-6), UNIT[:0]):
        assert model.encode(x).mu.shape == (len(x), 8) and model.classify(x).shape == (len(x), 10)
    assert model.double().encode(UNIT.double()).mu.isfinite().all()
    assert model.float().train()(255 * UNIT).mean.shape == UNIT.shape  # a training trusts its data


@pytest.mark.parametrize("kind", ["vae", "autoencoder", "judge"])
def test_what_is_hidden_does_not_reach_the_classifier(kind: str) -> None:
    sizes = {"width": 8} | ({} if kind == "judge" else {"latent_dim": 8})
    model = build_model(profile_settings("smoke", kind, "photos", **sizes), 10).eval()
    x, eps = torch.rand(4, 3, 32, 32), torch.zeros(4, 8)
    inside = torch.zeros(4, 1, 32, 32, dtype=torch.bool)
    inside[..., 10:22, 10:22] = True
    changed = x.clone()
    changed[..., 14:18, 14:18] = 1 - x[..., 14:18, 14:18]  # well inside: a kernel at the rim sees both sides
    with torch.no_grad():
        a, b = model(x, eps, inside), model(changed, eps, inside)
        assert torch.equal(a.logits, b.logits)
        assert not torch.equal(model(x, eps).logits, model(changed, eps).logits)
    if kind != "judge":
        assert not torch.equal(a.mean, b.mean)  # the decoder's path does see it


def test_networks_are_injected() -> None:
    class Constant(nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.full((len(z), 3, 32, 32), 0.5)

    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor, hidden: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.zeros(len(x), 2 * 5), torch.zeros(len(x), 1)  # the posterior is the prior

    x = torch.rand(2, 3, 32, 32)
    vae = VAE(Nothing(), Constant(), nn.Linear(1, 3), nn.Linear(5, 3), sigma=0.3)
    output = vae(x)
    assert vae.latent_dim == 5 and vae.sigma.item() == pytest.approx(0.3) and not vae.log_sigma.requires_grad
    assert (output.mean == 0.5).all() and (output.posterior.mu == 0).all() and output.logits.shape == (2, 3)
    assert (Autoencoder(Nothing(), Constant(), nn.Linear(1, 3), nn.Linear(10, 3)).code(x) == 0).all()


def test_the_seed_decides_the_weights() -> None:
    one, two, other = (build_model(SMALL.replace(seed=seed), 10).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
