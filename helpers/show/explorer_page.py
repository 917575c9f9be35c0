"""The explorer inside the report page: the decoder as ONNX, run by onnxruntime-web, all of it embedded in one file.

Where a browser cannot run WebAssembly, pre-rendered pictures (one direction at a time) stand in for the decoder.
"""

import base64
import gzip
import io
import json
import warnings
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from markupsafe import Markup

from ..config import ROOT
from ..storage import load_vae, weights_path
from .directions import SHEET_COLUMNS, Explorable, Reader, Reading, contact_sheet, load_explorable
from .figures import pixels

ASSETS = ROOT / "report" / "assets"
ENGINE = ASSETS / "onnxruntime-web"  # version, origin and licence in its README
STEPS = np.linspace(-3, 3, 13)  # of the pre-rendered pictures
HALVED_FROM = 4096  # weights of more numbers than this are stored as float16: half the page


def reader_of(folder: Path, parts: Explorable) -> Reader:
    """The module that the page runs, with the weights of a folder, on the CPU."""
    return Reader(load_vae(weights_path(folder, "vae")).cpu(), parts.code_model, parts.neighbours).eval()


def to_onnx(reader: Reader, latent_dim: int) -> bytes:
    """The reader as an ONNX model: z (1, d) -> image, belief, size, nearest.

    Large weights are stored as float16 and widened before use, so the arithmetic stays float32.
    """
    import onnx
    from onnx import numpy_helper

    buffer = io.BytesIO()
    with warnings.catch_warnings():  # the exporter's own deprecations are not the reader's business
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            reader, (torch.zeros(1, latent_dim),), input_names=["z"], output_names=list(Reading._fields),
            dynamo=True, verbose=False,
        )  # fmt: skip
    program.save(buffer)
    model = onnx.load_from_string(buffer.getvalue())
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
def pre_rendered(reader: Reader, parts: Explorable) -> dict[str, Any]:
    """The stand-in: for each direction and each of STEPS around the mean code a picture and what else is read off."""
    directions = parts.directions
    places = torch.zeros(len(parts.effects), len(STEPS), len(directions.std))
    for i, row in enumerate(places):
        row[:, i] = torch.from_numpy(STEPS)
    found = reader(directions.code(places.flatten(0, 1)))
    return {
        "steps": STEPS.tolist(),
        "sheet": base64_of(contact_sheet(pixels(found.image))),
        "belief": [[round(value, 4) for value in row] for row in found.belief.tolist()],
        "size": [round(value, 2) for value in found.size.tolist()],
        "nearest": found.nearest.tolist(),
    }


def base64_of(content: bytes) -> str:
    """Bytes as text that may stand in HTML."""
    return base64.b64encode(content).decode()


def floats(values: torch.Tensor) -> str:
    """A tensor as little-endian float32 in base64."""
    return base64_of(values.contiguous().numpy().astype("<f4").tobytes())


def fragment(folder: Path, still: str) -> str:
    """The explorer as HTML with everything that it needs, or "" where the folder does not have its parts.

    `still` is the <img> shown where there is no JavaScript. Markup() marks what the template must not escape: our own
    HTML, CSS and code. Raises UserError when a part is damaged.
    """
    parts = load_explorable(folder)
    if parts is None:
        return ""
    reader, directions = reader_of(folder, parts), parts.directions
    k, d = len(parts.effects), len(directions.std)
    data = {
        "classes": parts.class_names,
        "starts": [start._asdict() for start in parts.starts],
        "directions": k, "columns": SHEET_COLUMNS, "sheet": base64_of(parts.sheet),
        "mean": floats(directions.mean), "axes": floats(directions.axes), "std": floats(directions.std),
        "places": floats(directions.place(parts.codes)), "stand_in": pre_rendered(reader, parts),
    }  # fmt: skip
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True)
    template = environment.from_string((ASSETS / "explorer.html.j2").read_text())
    return template.render(
        effects=list(zip(parts.effects, directions.share.tolist(), strict=False)),
        classes=parts.class_names, starts=parts.starts, still=Markup(still),
        css=Markup((ASSETS / "explorer.css").read_text()), js=Markup((ASSETS / "explorer.js").read_text()),
        data=Markup(json.dumps(data).replace("<", "\\u003c")),
        model=base64_of(gzip.compress(to_onnx(reader, d), 9, mtime=0)),
        engine=base64_of((ENGINE / "ort.wasm.bundle.min.mjs").read_bytes()),
        wasm=base64_of((ENGINE / "ort-wasm-simd-threaded.wasm.gz").read_bytes()),
    )  # fmt: skip
