"""Every kind of JSON file has its form: a wrong part is named, when the file is written and when it is read."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import RootModel

from helpers.engine.schemas import FORMS, form_of
from helpers.engine.sealed import SEAL, read_json, seal, write_json

from ..conftest import refused

SHA256, ENVIRONMENT = "0" * 64, {"python": "3.11", "torch": "2.6", "device": "CPU", "threads": 2}
ROW = ["summary", "vae", "test", "psnr_mean", 23.5, 0.1, 5, "dB"]
# A file of each kind, as small as it may be.
EXAMPLES: dict[str, dict[str, Any]] = {
    "metrics.json": {
        "dataset": "photos", "notice": "", "seed": 0, "environment": ENVIRONMENT, "settings": {}, "training_run": {},
        "columns": ["question", "model", "split", "metric", "value", "stderr", "n", "unit"],
        "rows": [ROW, ["likelihood", "vae", "test", "bits", 4.5, None, 5, "bits"]],
    },
    "vae_history.json": {
        "settings": {"model": "vae"}, "records": [{"epoch": 1.0, "seconds": 2.5}],
        "run": ENVIRONMENT | {"finished": "2026-01-01T00:00:00+00:00", "seconds": 2.5, "weights_sha256": SHA256},
    },
    "captions.json": {"loss_plot": "The loss by epoch, for two splits."},
    "data.json": {"name": "photos", "counts": {"train": 5}, "class_names": ["a"]},
    "training.json": {"failure": {"sigma_1": {"epoch": 1.0, "seconds": 2.5}}, "loss": {"train": 1.0}},
    "peers.json": {
        "ours": {"minutes": 20.0, "n": 5, "psnr_pooled": 23.5, "parameters": 7, "frechet": {"mixture": 1.0},
                 "environment": ENVIRONMENT},
    },
    "generation.json": {"n": 5, "scores": {"real": {"n": 5}}, "best": "real"},
    "compression.json": {"n": 5, "bytes": [1.0], "psnr": [20.0], "lossless": {}},
    "run.json": {
        "finished": "2026-01-01T00:00:00+00:00", "dataset": "photos", "profile": "smoke", "fresh": True,
        "seconds": {"01": 1.0}, "total_seconds": 1.0, "peak_mib": {"01": 500}, "environment": ENVIRONMENT,
    },
    ".unfinished.json": {
        "at": {"key": SHA256, "began": 1.0},
        "done": {"01": {"key": SHA256, "seconds": 1.0, "peak_mib": 500, "files": {"data.json": SHA256}}},
    },
}  # fmt: skip


def test_there_is_an_example_of_every_form() -> None:
    assert {form_of(Path(kind)) for kind in EXAMPLES} == set(FORMS.values())
    assert form_of(Path("metrics_test.json")) is form_of(Path("metrics.json")) and form_of(Path("mine.json")) is None


def read_sealed(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """What `read_json` makes of a file with this content and a right seal."""
    path.write_text(json.dumps(content | {SEAL: seal(content)}), encoding="utf-8")
    return read_json(path)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_missing_part_is_named(kind: str, tmp_path: Path) -> None:
    form = form_of(Path(kind))
    assert form is not None
    parts = {} if issubclass(form, RootModel) else form.model_fields
    for name in parts:
        content = {k: v for k, v in EXAMPLES[kind].items() if k != name}
        refused(lambda c=content: read_sealed(tmp_path / kind, c), kind, f"{name}: is missing")
        refused(lambda c=content: write_json(tmp_path / "new" / kind, c), f"{name}: is missing")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("kind", "change", "word"),
    [
        ("metrics.json", {"rows": []}, "rows"), ("metrics.json", {"rows": [[*ROW[:4], {"value": 1}, 0.1]]}, "rows.0.4"),
        ("metrics.json", {"seed": -1}, "seed"), ("metrics.json", {"columns": "value"}, "columns"),
        ("vae_history.json", {"records": []}, "records"),
        ("vae_history.json", {"records": [{"epoch": 1.0, "seconds": "2"}]}, "records.0.seconds"),
        ("vae_history.json", {"run": EXAMPLES["vae_history.json"]["run"] | {"weights_sha256": "0"}}, "weights_sha256"),
        ("captions.json", {"../../x": "A caption that is long enough."}, "../../x"),
        ("captions.json", {"x": "A <script>that is long</script> enough."}, "x"), ("captions.json", {"x": "a"}, "x"),
        ("captions.json", {"x": "A caption of two lines,\nand long enough."}, "x"),
        ("generation.json", {"n": 1.5}, "n"), ("data.json", {"counts": {"train": -1}}, "counts.train"),
        ("peers.json", {"ours": {"minutes": 1.0}}, "ours.n"), ("training.json", {"loss": {"train": "1"}}, "loss.train"),
        ("run.json", {"seconds": {"01": "1"}}, "seconds.01"),
        ("run.json", {"finished": "yesterday"}, "finished"), ("run.json", {"fresh": "yes"}, "fresh"),
        (".unfinished.json", {"done": {"01": {}}}, "done.01.key"),
    ],
)  # fmt: skip
def test_a_wrong_part_is_named_even_with_a_right_seal(
    kind: str, change: dict[str, Any], word: str, tmp_path: Path
) -> None:
    content = EXAMPLES[kind] | change
    refused(lambda: read_sealed(tmp_path / kind, content), kind, f"{word}")
    refused(lambda: write_json(tmp_path / "new" / kind, content), word)
    assert not (tmp_path / "new").exists()
