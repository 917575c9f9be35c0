"""The flow learns where codes lie and which class has them; a stored one is used only for its own codes."""

from pathlib import Path

import pytest
import torch

from helpers.engine.errors import UserError
from helpers.flow import Flow, fit_flow, load_or_fit_flow, sample_flow


def two_classes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Means, standard deviations and labels of 3000 codes: class 0 lies around -1, class 1 around 2."""
    labels = torch.arange(3000) % 2
    noise = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0))
    mu = 0.3 * noise + torch.where(labels == 1, 2.0, -1.0)[:, None]
    return mu, torch.full_like(mu, 0.1), labels


def test_a_flow_learns_where_codes_lie_and_which_class_has_them() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = Flow(4, 2, width=64, blocks=2)
    losses = list(fit_flow(flow, *two_classes(), epochs=80))
    assert losses[-1] < 0.5 * losses[0]
    for label, mean in ((0, -1.0), (1, 2.0)):
        drawn = sample_flow(flow, 2000, label=label)
        assert drawn.mean().item() == pytest.approx(mean, abs=0.3) and drawn.std(0).max() < 1
    exaggerated = sample_flow(flow, 2000, label=1, guidance=2.0).mean()
    assert exaggerated > sample_flow(flow, 2000, label=1).mean()
    everyone = sample_flow(flow, 2000)
    assert everyone.mean().item() == pytest.approx(0.5, abs=0.3) and everyone.std().item() > 1.2
    assert torch.equal(sample_flow(flow, 5, seed=3), sample_flow(flow, 5, seed=3))


def test_a_stored_flow_is_used_only_for_the_codes_it_was_fitted_to(tmp_path: Path) -> None:
    path, (mu, std, labels) = tmp_path / "flow.safetensors", two_classes()

    def load(name: str, **options: bool) -> tuple[Flow, bool]:
        return load_or_fit_flow(path, lambda: (mu, std), labels, {"vae": name}, d=mu.shape[1], epochs=1, **options)

    (first, loaded), (again, known) = load("a"), load("a")
    assert (loaded, known) == (False, True) and torch.equal(sample_flow(first, 5), sample_flow(again, 5))
    assert not load("a", fresh=True)[1]
    assert not load("b")[1]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="flow.safetensors"):
        load("b")
