"""The explorer inside the report page: the decoder as ONNX, run by onnxruntime-web, all of it embedded in one file."""

import gzip
import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from markupsafe import Markup
from onnx import numpy_helper

from ..engine.files import weights_path
from ..run import load_vae
from ..show.images import pixels
from ..show.reader import SHEET_COLUMNS, ExplorerData, ExplorerReading, Reader, contact_sheet, load_explorer_data
from .page import ASSETS, TEMPLATES, base64_of

ENGINE = ASSETS / "onnxruntime-web"  # version, origin and licence in its README
FALLBACK_STEPS = torch.linspace(-3, 3, 13)
HALVED_FROM = 4096  # weights of so many numbers are stored as float16 and widened before use: half the page


def reader_of(folder: Path, parts: ExplorerData) -> Reader:
    """The module that the page runs, with the weights of a folder, on the CPU."""
    return Reader(load_vae(weights_path(folder, "vae")).cpu(), parts.code_model, parts.neighbours).eval()


def to_onnx(reader: Reader, latent_dim: int) -> bytes:
    """The reader as an ONNX model: z (1, d) -> ExplorerReading; large weights are stored in half the bytes."""
    names: dict[str, Any] = {"input_names": ["z"], "output_names": ExplorerReading._fields}
    with warnings.catch_warnings(action="ignore"):  # the exporter's own deprecations are not the reader's business
        program = torch.onnx.export(reader, (torch.zeros(1, latent_dim),), dynamo=True, verbose=False, **names)
    assert program is not None  # the exporter returns a program when it is given no file
    model = program.model_proto
    graph, casts = model.graph, []
    for weights in graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT and np.prod(weights.dims) >= HALVED_FROM:
            name, half = weights.name, numpy_helper.to_array(weights).astype(np.float16)
            weights.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:], graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    for node in nodes:  # the exporter notes the source line of every node
        del node.metadata_props[:]
        node.doc_string = ""
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@torch.no_grad()
def static_fallback(reader: Reader, parts: ExplorerData) -> dict[str, Any]:
    """For browsers without WebAssembly: pictures (WebP, base64), readings at steps (in std) along each direction."""
    axes = torch.eye(len(parts.effects), len(parts.directions.std))
    reading = reader(parts.directions.code(torch.kron(axes, FALLBACK_STEPS[:, None])))
    belief, size = (values.double().round(decimals=4).tolist() for values in (reading.belief, reading.size))
    sheet, nearest = base64_of(contact_sheet(pixels(reading.image))), reading.nearest.tolist()
    return {"steps": FALLBACK_STEPS.tolist(), "sheet": sheet, "belief": belief, "size": size, "nearest": nearest}


def floats(values: torch.Tensor) -> str:
    """A tensor as little-endian float32 in base64."""
    return base64_of(values.contiguous().numpy().astype("<f4").tobytes())


def tiles_of_starts(parts: ExplorerData) -> list[int]:
    """Where the image of each starting point is in the sheet; -1 for a mean code."""
    places = itertools.count(len(parts.neighbours))
    return [next(places) if start.image >= 0 else -1 for start in parts.starts]


def fragment(folder: Path, still: str) -> str:
    """The explorer as HTML, an <img> `still` without JavaScript; "" without its parts. UserError: a damaged part."""
    parts = load_explorer_data(folder)
    if parts is None:
        return ""
    reader, directions = reader_of(folder, parts), parts.directions
    data = {
        "classes": parts.class_names, "tiles": tiles_of_starts(parts), "directions": len(parts.effects),
        "columns": SHEET_COLUMNS, "sheet": base64_of(parts.sheet),
        "mean": floats(directions.mean), "axes": floats(directions.axes), "std": floats(directions.std),
        "places": floats(directions.place(parts.codes)), "fallback": static_fallback(reader, parts),
    }  # fmt: skip
    return TEMPLATES.get_template("explorer.html.j2").render(
        effects=list(zip(parts.effects, directions.share.tolist(), strict=False)),
        classes=parts.class_names, starts=parts.starts, still=Markup(still),
        data=Markup(json.dumps(data).replace("<", "\\u003c")),
        model=base64_of(gzip.compress(to_onnx(reader, len(directions.std)), 9, mtime=0)),
        engine=base64_of((ENGINE / "ort.wasm.bundle.min.mjs").read_bytes()),
        wasm=base64_of((ENGINE / "ort-wasm-simd-threaded.wasm.gz").read_bytes()),
    )  # fmt: skip
