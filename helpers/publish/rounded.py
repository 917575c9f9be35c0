"""Networks as ONNX for the page: a graph, and apart from it the weights, rounded as coarsely as each layer allows.

A layer whose rounding hardly changes what the network says gets few steps, another more. With D the squared error that
two steps in the root mean square of the n weights of a layer cause, s steps cause D (2 / s)^2, and the bits of all
layers, n log2 s each, are fewest for a given sum of errors where s^2 grows as D / n (reverse water-filling, Cover &
Thomas, Elements of Information Theory, sec. 10.3.3).
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

LARGE, SHARED = 1024, 16  # weights of so many numbers are rounded; layers' weights of so many leave the graph as well
# Steps in the root mean square of a weight: of one whose effect is not measured, and the fewest of any.
FINE, COARSE = 64.0, 0.5


@torch.no_grad()
def layer_steps(network: nn.Module, said: Callable[[], list[Tensor]], error: float) -> dict[str, float]:
    """How many steps the root mean square of each large weight gets, by name, for a relative squared `error` in all.

    `said` gives the outputs that count, each (n, k); their errors are relative to their variances over the n. What does
    not change them may matter to others, and is left out.
    """
    large = {name: weight for name, weight in network.named_parameters() if weight.numel() >= LARGE}
    exact, caused = said(), {}
    for name, weight in large.items():
        kept, step = weight.data, weight.square().mean().sqrt().clamp_min(1e-30) / 2
        weight.data = (kept / step).round() * step
        changes = zip(said(), exact, strict=True)
        caused[name] = sum(((now - was).square().mean() / was.var(0).mean()).item() for now, was in changes)
        weight.data = kept
    sizes = {name: weight.numel() for name, weight in large.items() if caused[name]}
    steps = {name: 2 * math.sqrt(caused[name] / n * sum(sizes.values()) / error) for name, n in sizes.items()}
    # Halves of octaves, so that another machine's last digits do not make another file.
    return {name: max(COARSE, 2.0 ** (round(2 * math.log2(value)) / 2)) for name, value in steps.items()}


def exported(network: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> onnx.ModelProto:
    """A network as ONNX, without notes of the exporter."""
    names: dict[str, Any] = {"input_names": list(inputs), "output_names": outputs}
    with warnings.catch_warnings(action="ignore"):  # the exporter's own deprecations are not the reader's business
        program = torch.onnx.export(network.eval(), tuple(inputs.values()), dynamo=True, verbose=False, **names)
    assert program is not None  # the exporter returns a program when it is given no file
    model = program.model_proto
    graph = model.graph
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    for node in graph.node:  # the exporter notes the source line of every node
        del node.metadata_props[:]
        node.doc_string = ""
    return model


def whole_numbers(values: np.ndarray, steps: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights -> whole numbers, int8 where few steps are asked for, and the step of each row (float32)."""
    kind = np.int8 if steps < FINE else np.int16
    rows = np.abs(values.reshape(len(values), -1)).max(1)
    step = np.maximum(np.sqrt(np.mean(values**2)) / steps, np.maximum(rows / np.iinfo(kind).max, 1e-30))
    step = step.reshape(-1, *[1] * (values.ndim - 1)).astype(np.float32)
    return np.rint(values / step).astype(kind), step


def without_weights(model: onnx.ModelProto, steps: dict[str, float]) -> tuple[bytes, dict[str, np.ndarray]]:
    """The file of a model that lacks its weights, and these, the large ones rounded, by their names in the graph."""
    graph, taken, nodes, small = model.graph, {}, [], []
    for tensor in graph.initializer:
        values, name = numpy_helper.to_array(tensor), tensor.name
        if values.dtype != np.float32 or values.size < LARGE:
            if values.size >= SHARED and "." in name:  # of a layer; other names may mean two things in two graphs
                taken[name] = values
            else:
                small.append(tensor)
            continue
        taken[f"{name}.whole"], taken[f"{name}.step"] = whole_numbers(values, steps.get(name, FINE))
        nodes.append(helper.make_node("Cast", [f"{name}.whole"], [f"{name}.cast"], to=onnx.TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}.cast", f"{name}.step"], [name]))
    nodes.extend(graph.node)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(small)
    onnx.checker.check_model(onnx.ModelProto.FromString(model.SerializeToString() + weights_file(taken)))
    return model.SerializeToString(), taken


def weights_file(weights: dict[str, np.ndarray]) -> bytes:
    """Weights as a part of an ONNX file: behind the bytes of a graph without them it makes the whole file.

    Protocol buffers are made so: of two messages one behind the other, all repeated fields are joined.
    """
    alike = sorted(weights.items(), key=lambda item: item[1].dtype.itemsize)  # which is packed better
    tensors = [numpy_helper.from_array(values, name) for name, values in alike]
    return onnx.ModelProto(graph=onnx.GraphProto(initializer=tensors)).SerializeToString()
