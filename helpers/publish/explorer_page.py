"""The explorer inside the report page: the decoder as ONNX, run by onnxruntime-web, both packed into the page."""

import itertools
import json
import lzma
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from markupsafe import Markup
from onnx import helper, numpy_helper

from ..engine.files import weights_path
from ..run import load_vae
from ..show.reader import SHEET_COLUMNS, ExplorerData, ExplorerReading, Reader, load_explorer_data
from .page import ASSETS, TEMPLATES, base64_of

ENGINE = ASSETS / "onnxruntime-web"  # version, origin and licence in its README
ROUNDED_FROM = 4096  # weights of so many numbers are stored as whole multiples of a step: 8 bits each when packed
STEPS = 64  # in the root mean square of such weights: pixels stay within two levels of 255, one in almost all cases
# For 16-bit numbers, which hardly repeat: a longer search for matches takes a second more and saves 1 %.
LZMA = {"id": lzma.FILTER_LZMA1, "preset": 9, "lc": 3, "lp": 1, "pb": 1, "mf": lzma.MF_HC4, "nice_len": 32, "depth": 4}


def reader_of(folder: Path, parts: ExplorerData) -> Reader:
    """The module that the page runs, with the weights of a folder, on the CPU."""
    return Reader(load_vae(weights_path(folder, "vae")).cpu(), parts.code_model, parts.neighbours).eval()


def to_onnx(reader: Reader, latent_dim: int) -> bytes:
    """The reader as an ONNX model: z (1, d) -> ExplorerReading; large weights are stored as int16 times a step."""
    names: dict[str, Any] = {"input_names": ["z"], "output_names": ExplorerReading._fields}
    with warnings.catch_warnings(action="ignore"):  # the exporter's own deprecations are not the reader's business
        program = torch.onnx.export(reader, (torch.zeros(1, latent_dim),), dynamo=True, verbose=False, **names)
    assert program is not None  # the exporter returns a program when it is given no file
    model = program.model_proto
    graph = model.graph
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    for node in graph.node:  # the exporter notes the source line of every node
        del node.metadata_props[:]
        node.doc_string = ""
    round_weights(graph)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def round_weights(graph: onnx.GraphProto) -> None:
    """Keep the large weights of a graph as one list of int16, which its first nodes cut and multiply by a step."""
    arrays = {weights.name: numpy_helper.to_array(weights) for weights in graph.initializer}
    large = {name: a for name, a in arrays.items() if a.size >= ROUNDED_FROM and a.dtype == np.float32}
    if not large:
        return
    steps = {name: step_of(values) for name, values in large.items()}
    whole = [np.rint(values / steps[name]).astype(np.int16).ravel() for name, values in large.items()]
    parts = {"whole": np.concatenate(whole), "sizes": np.array([values.size for values in large.values()])}
    nodes = [
        helper.make_node("Cast", ["whole"], ["list"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Split", ["list", "sizes"], [f"{name}.list" for name in large], axis=0),
    ]
    for name, values in large.items():
        parts |= {f"{name}.step": steps[name], f"{name}.shape": np.array(values.shape)}
        nodes.append(helper.make_node("Mul", [f"{name}.list", f"{name}.step"], [f"{name}.scaled"]))
        nodes.append(helper.make_node("Reshape", [f"{name}.scaled", f"{name}.shape"], [name]))
    parts |= {name: values for name, values in arrays.items() if name not in large}
    nodes.extend(graph.node)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in parts.items())


def step_of(values: np.ndarray) -> np.ndarray:
    """The step, a float32 scalar, of which weights are rounded to whole multiples that int16 can hold."""
    smallest = max(np.abs(values).max() / np.iinfo(np.int16).max, 1e-30)
    return np.array(max(np.sqrt(np.mean(values**2)) / STEPS, smallest), np.float32)


def printable(content: bytes) -> Markup:
    """Bytes as characters from "!" to "}" without "<": two for 13 bits, where base64 needs two for 12."""
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    groups = np.pad(bits, (0, -len(bits) % 13)).reshape(-1, 13) @ (1 << np.arange(12, -1, -1, dtype=np.uint16))
    digits = np.stack(np.divmod(groups, 91), 1)
    return Markup((digits + ord("#")).astype(np.uint8).tobytes().decode("ascii").replace("<", "!"))


def packed(content: bytes) -> Markup:
    """Bytes as the text of a .lzma file, which unpack.js reads."""
    return printable(lzma.compress(content, lzma.FORMAT_ALONE, filters=[LZMA]))


def floats(values: torch.Tensor) -> str:
    """A tensor as little-endian float32 in base64."""
    return base64_of(values.contiguous().numpy().astype("<f4").tobytes())


def tiles_of_starts(parts: ExplorerData) -> list[int]:
    """Where the image of each starting point is in the sheet; -1 for a mean code."""
    places = itertools.count(len(parts.neighbours))
    return [next(places) if start.image >= 0 else -1 for start in parts.starts]


def fragment(folder: Path) -> str:
    """The explorer as HTML; "" without its parts. UserError: a damaged part."""
    parts = load_explorer_data(folder)
    if parts is None:
        return ""
    reader, directions = reader_of(folder, parts), parts.directions
    data = {
        "classes": parts.class_names, "tiles": tiles_of_starts(parts), "directions": len(parts.effects),
        "columns": SHEET_COLUMNS, "sheet": base64_of(parts.sheet),
        "mean": floats(directions.mean), "axes": floats(directions.axes), "std": floats(directions.std),
        "places": floats(directions.place(parts.codes)),
    }  # fmt: skip
    return TEMPLATES.get_template("explorer.html.j2").render(
        effects=list(zip(parts.effects, directions.share.tolist(), strict=False)),
        classes=parts.class_names, starts=parts.starts,
        data=packed(json.dumps(data).encode()),
        model=packed(to_onnx(reader, len(directions.std))),
        engine=packed((ENGINE / "ort.wasm.bundle.min.mjs").read_bytes()),
        wasm=printable((ENGINE / "ort-wasm-simd-threaded.wasm.lzma").read_bytes()),
    )  # fmt: skip
