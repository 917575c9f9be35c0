"""Files that are damaged, swapped or changed are named and never used; nothing is unpickled."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers import load_vae
from helpers.data import Dataset
from helpers.engine.errors import UserError
from helpers.engine.files import ROOT, history_path, weights_path
from helpers.engine.sealed import (
    cached,
    cached_json,
    load_state,
    read_json,
    read_tensors,
    sha256_of_tensors,
    write_json,
    write_tensors,
)
from helpers.run import build_model, load_history, load_model
from helpers.settings import Settings, profile_settings
from helpers.show.theme import read_captions

from ..conftest import TINY, assert_one_line_error, refused, run_module
from .test_schemas import EXAMPLES


@pytest.fixture
def weights(trained: Path, tmp_path: Path) -> Path:
    """The weights of a tiny VAE with their history beside them, to be damaged."""
    for path in (weights_path(trained, "vae"), history_path(trained, "vae")):
        shutil.copy(path, tmp_path)
    return weights_path(tmp_path, "vae")


def test_every_flipped_bit_of_weights_is_found(weights: Path) -> None:
    content = weights.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    generator = torch.Generator().manual_seed(0)
    places = [*range(8), *torch.randint(8, header, (60,), generator=generator).tolist()]
    places += torch.randint(header, len(content), (30,), generator=generator).tolist()
    for at in places:
        damaged = bytearray(content)
        damaged[at] ^= 1 << (at % 8)
        weights.write_bytes(damaged)
        refused(lambda: load_model(weights), "vae.safetensors")
    assert_one_line_error(run_module("helpers.evaluate", "--weights", str(weights)), "vae.safetensors", "sha256")


@pytest.mark.parametrize("length", [0, 7, 8, 100, 5000, -1])
def test_cut_weights_are_named(length: int, weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:length])
    refused(lambda: load_vae(weights), "vae.safetensors is damaged")


def test_weights_with_a_number_that_is_not_finite_are_neither_written_nor_read(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, provenance = read_tensors(weights)
    before = weights.read_bytes()
    next(t for t in tensors.values() if t.is_floating_point()).view(-1)[0] = math.nan
    refused(lambda: write_tensors(weights, tensors, provenance), "not finite", "vae.safetensors is not written")
    assert weights.read_bytes() == before
    with monkeypatch.context() as patch:  # a program without the check wrote them
        patch.setattr("helpers.engine.sealed.not_finite", lambda tensors: "")
        write_tensors(weights, tensors, provenance)
    refused(lambda: load_model(weights), "vae.safetensors", "not finite")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"settings": {"width": 16}}, "has the shape"), ({"settings": {"epochs": "two"}}, "wrong settings"),
        ({"settings": {"widht": 8}}, "Did you mean 'width'"), ({"settings": {"width": 2**33}}, "wrong settings"),
        ({"settings": {"width": 1024}}, "has the shape"), ({"settings": {"model": "autoencoder"}}, "wrong settings"),
        ({"settings": {"seed": [1]}}, "wrong settings"), ({"class_names": ["a", "b"]}, "has the shape"),
        ({"class_names": "abcdefghij"}, "does not say"), ({"run": None}, "does not say"), ({"kind": "flow"}, "a flow"),
    ],
)  # fmt: skip
def test_weights_whose_header_was_changed_do_not_load(change: dict[str, Any], word: str, weights: Path) -> None:
    tensors, provenance = read_tensors(weights)
    for key, value in change.items():
        provenance[key] = provenance[key] | value if isinstance(value, dict) else value
    write_tensors(weights, tensors, provenance)  # with a right seal: what is inside does not fit
    refused(lambda: load_model(weights), "vae.safetensors", word)


def test_tensors_of_another_kind_do_not_fit(weights: Path, tiny: Settings) -> None:
    tensors, provenance = read_tensors(weights)
    name = next(name for name, t in tensors.items() if t.is_floating_point())
    for changed, word in (
        (tensors | {name: tensors[name].double()}, "float64"),
        (tensors | {"more": tensors[name].clone()}, "not part of it"),
        ({k: v for k, v in tensors.items() if k != name}, "missing"),
    ):  # fmt: skip
        write_tensors(weights, changed, provenance)
        refused(lambda: load_model(weights), "does not fit the model", word)
    refused(lambda: load_state(build_model(tiny, 10), {name: tensors[name]}, weights), "does not fit")


def test_swapped_files_are_found(weights: Path, photos: Dataset) -> None:
    folder, other = weights.parent, profile_settings("smoke", "autoencoder", "photos", **TINY)
    header = {"settings": other.as_dict(), "class_names": list(photos.class_names), "run": {}}
    write_tensors(weights, build_model(other, 10).state_dict(), {"kind": "weights", **header})
    refused(lambda: load_vae(weights), "does not hold a VAE")
    refused(lambda: load_history(folder, "vae"), "is not the file that vae_history.json describes")
    shutil.copy(history_path(folder, "vae"), history_path(folder, "autoencoder"))
    refused(lambda: load_history(folder, "autoencoder"), "autoencoder_history.json is the history of a model 'vae'")


def test_a_folder_and_a_link_to_nowhere_are_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "nowhere")
    for name, words in ((".", "is a folder"), ("link.safetensors", "does not exist"), ("x" * 300, "too long")):
        refused(lambda name=name: load_vae(tmp_path / name), str(tmp_path / name), words)
    refused(lambda: read_json(tmp_path), "cannot read")


def test_the_sum_of_tensors_knows_names_and_values_and_no_order() -> None:
    a, b = torch.arange(3.0), torch.ones(2, 2)
    assert sha256_of_tensors({"a": a, "b": b}) == sha256_of_tensors({"b": b.T, "a": a})
    assert len({sha256_of_tensors(t) for t in ({"a": a}, {"b": a}, {"a": a + 1}, {"a": a, "b": b})}) == 4


def test_what_is_stored_is_used_only_for_the_same_provenance(tmp_path: Path) -> None:
    calls = []

    def tensors() -> dict[str, torch.Tensor]:
        calls.append("tensors")
        return {"x": torch.arange(3)}

    def numbers() -> dict[str, Any]:
        calls.append("numbers")
        return {"x": 0.5}

    path, table = tmp_path / "a.safetensors", tmp_path / "a.json"
    for provenance, fresh, loaded in (({"n": (1,)}, False, False), ({"n": (1,)}, False, True),
                                      ({"n": (2,)}, False, False), ({"n": (2,)}, True, False)):  # fmt: skip
        stored, was_loaded = cached(path, provenance, tensors, fresh=fresh)
        assert was_loaded is loaded and stored["x"].tolist() == [0, 1, 2]
        assert cached_json(table, provenance, numbers) == {"x": 0.5}
    assert calls == ["tensors", "numbers", "tensors", "numbers", "tensors"]
    (tmp_path / "file").touch()  # below it nothing can be written: what is kept for the next time is done without
    assert cached(tmp_path / "file" / "a.safetensors", {}, tensors)[0]["x"].tolist() == [0, 1, 2]
    assert cached_json(tmp_path / "file" / "a.json", {}, numbers) == {"x": 0.5}
    refused(lambda: cached(tmp_path / "nan", {}, lambda: {"x": torch.tensor(math.nan)}), "not finite")
    path.write_bytes(path.read_bytes()[:-1])
    table.write_text(table.read_text(encoding="utf-8").replace("0.5", "0.6"), encoding="utf-8")
    refused(lambda: cached(path, {}, tensors), "a.safetensors is damaged")
    refused(lambda: cached_json(table, {}, numbers), "a.json is damaged")


@pytest.mark.parametrize("kind", EXAMPLES)
class TestJson:
    def test_what_is_written_is_read(self, kind: str, tmp_path: Path) -> None:
        write_json(tmp_path / kind, EXAMPLES[kind])
        assert read_json(tmp_path / kind) == EXAMPLES[kind]

    def test_every_flipped_bit_is_found(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / kind
        write_json(path, EXAMPLES[kind])
        content = path.read_bytes()
        for at in range(0, len(content), 3):
            damaged = bytearray(content)
            damaged[at] ^= 1 << (at // 3 % 8)
            path.write_bytes(damaged)
            try:
                assert read_json(path) == EXAMPLES[kind]  # only white space may have changed
            except UserError as error:
                assert kind in str(error) and "\n" not in str(error)

    def test_cut_files_and_files_without_a_seal_are_found(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / kind
        write_json(path, EXAMPLES[kind])
        content = path.read_text(encoding="utf-8")
        for length in (0, 1, len(content) // 2, len(content) - 3):
            path.write_text(content[:length], encoding="utf-8")
            refused(lambda: read_json(path), kind, "damaged", "make report")
        path.write_text(json.dumps(EXAMPLES[kind]), encoding="utf-8")
        refused(lambda: read_json(path), kind, "it has no sha256")

    def test_a_value_changed_by_hand_is_found(self, kind: str, tmp_path: Path) -> None:
        path = tmp_path / kind
        write_json(path, EXAMPLES[kind])
        text = path.read_text(encoding="utf-8")
        path.write_text(re.sub(r"(: \"?)(?=[A-Z0-9])", r"\g<1>1", text, count=1), encoding="utf-8")
        assert path.read_text(encoding="utf-8") != text
        refused(lambda: read_json(path), kind, "damaged")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "-1e999", "9" * 30, "[" * 100_000, '"\\ud800', "\xff"])
def test_numbers_and_texts_that_json_cannot_hold_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "anything.json"
    path.write_text(f'{{"x": {text}}}', encoding="latin-1")
    refused(lambda: read_json(path), "anything.json is damaged")


def test_a_result_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    refused(lambda: write_json(tmp_path / "x.json", {"x": math.nan}), "not written", "not a finite number")
    assert not list(tmp_path.iterdir())


def test_a_damaged_caption_file_is_named(tmp_path: Path) -> None:
    assert read_captions(tmp_path) == {}
    (tmp_path / "captions.json").write_text('{"a": ', encoding="utf-8")
    refused(lambda: read_captions(tmp_path), "captions.json is damaged", "delete it")


def test_nothing_is_ever_unpickled() -> None:
    loads = r"torch\.load\(|np\.load\((?!.*allow_pickle=False)|allow_pickle=True"
    for path in (ROOT / "helpers").rglob("*.py"):
        assert not re.search(rf"import pickle|pickle\.|joblib|{loads}", path.read_text(encoding="utf-8")), path
