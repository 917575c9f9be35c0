"""Rounded weights: layers as coarse as the outputs allow, and files that are joined by putting one behind another."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from helpers.publish.rounded import COARSE, FINE, exported, layer_steps, weights_file, whole_numbers, without_weights


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Linear(64, 3))


def test_the_error_is_what_was_asked_for(network: nn.Sequential) -> None:
    x = torch.randn(200, 64)

    def said() -> list[Tensor]:
        return [network(x)]

    steps = layer_steps(network, said, 0.01)
    assert set(steps) == {"0.weight", "2.weight"}  # 192 numbers are not worth it, nor those of a bias
    with torch.no_grad():
        exact = said()[0]
        for name, weight in network.named_parameters():
            if name in steps:
                whole, step = whole_numbers(weight.numpy(), steps[name])
                weight.copy_(torch.from_numpy(whole * step))
        error = (said()[0] - exact).square().mean() / exact.var(0).mean()
    assert 0.003 < error < 0.03


def test_a_layer_whose_effect_is_not_measured_is_left_fine(network: nn.Sequential) -> None:
    x = torch.randn(50, 64)
    assert set(layer_steps(network, lambda: [network[0](x)], 0.01)) == {"0.weight"}
    weights = without_weights(exported(network, {"x": x[:1]}, ["y"]), {"0.weight": COARSE})[1]
    assert [weights[f"{name}.weight.whole"].dtype for name in (0, 2)] == [np.int8, np.int16]


def test_rounding_fits_the_integers_it_uses() -> None:
    values = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    values[3, 5] = 100  # one row with a large number: it has a step of its own
    for steps, kind, bound in ((8.0, np.int8, 127), (FINE, np.int16, 2**15 - 1)):
        whole, step = whole_numbers(values, steps)
        assert whole.dtype == kind and np.abs(whole).max() <= bound
        assert np.all(np.abs(whole * step - values) <= 0.51 * step)
    assert np.isfinite(whole_numbers(np.zeros((2, 3), np.float32), 8.0)[1]).all()


def test_graph_and_weights_are_one_file(network: nn.Sequential) -> None:
    x = torch.randn(1, 64)
    graph, weights = without_weights(exported(network, {"x": x}, ["y"]), {})
    assert sum(values.nbytes for values in weights.values()) > 2 * 64 * 64 and len(graph) < 10_000
    with pytest.raises(Exception, match="whole"):
        onnxruntime.InferenceSession(graph)
    whole = graph + weights_file(weights)
    onnx.checker.check_model(onnx.ModelProto.FromString(whole))
    found = onnxruntime.InferenceSession(whole).run(None, {"x": x.numpy()})[0]
    with torch.no_grad():
        assert np.abs(found - network(x).numpy()).max() < 0.02
