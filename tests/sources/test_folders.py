"""A folder of images is a data set like any other; a bad one is one line."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.engine.errors import UserError
from helpers.engine.files import ROOT, home, weights_path
from helpers.run import load_model, train
from helpers.settings import profile_settings
from helpers.sources import load_data
from helpers.sources.folders import load_folder


def test_a_folder_of_images_trains_and_names_its_classes(folder: Path, tmp_path: Path) -> None:
    data = load_data(f"folder:{folder}")
    assert data.class_names == ("cats", "dogs", "ships")
    assert [len(part) for part in data.splits.values()] == [96, 12, 12]
    assert data.test.labels.bincount().tolist() == [4, 4, 4]
    everything = torch.cat([part.images.flatten(1) for part in data.splits.values()])
    assert len(everything.unique(dim=0)) == 120  # no image is in two splits
    settings = profile_settings("smoke", dataset=data.name, width=8, latent_dim=4, epochs=1, batch_size=32)
    model, history = train(data, settings, tmp_path / "out")
    assert model.head.out_features == 3 and history.records[0]["validation_cross_entropy"] < 5
    assert load_model(weights_path(tmp_path / "out", "vae"))[1]["class_names"] == ["cats", "dogs", "ships"]
    assert home(data.name).parent == ROOT / "outs" and "/" not in home("folder:../../etc").name


def test_a_train_and_a_test_folder_are_kept_apart(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    for split in ("train", "test"):
        (tmp_path / "both" / split).symlink_to(folder)
    assert [len(part) for part in load_folder(tmp_path / "both").splits.values()] == [108, 12, 120]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("size", ("0.png", "31 x 32")), ("cut", ("0.png", "cannot be read")), ("empty", ("cats",)), ("few", ("cats",)),
        ("none", ("one subfolder",)),
    ],
)  # fmt: skip
def test_a_bad_folder_is_one_line(damage: str, words: tuple[str, ...], folder: Path) -> None:
    first = folder / "cats" / "0.png"
    if damage == "size":
        Image.new("RGB", (31, 32)).save(first)
    elif damage == "cut":
        first.write_bytes(first.read_bytes()[:100])
    elif damage in ("empty", "few"):
        for path in sorted((folder / "cats").iterdir())[damage == "few" :]:
            path.unlink()
    with pytest.raises(UserError) as caught:
        load_folder(folder / "nowhere" if damage == "none" else folder)
    line = str(caught.value)
    assert all(word in line for word in words) and "\n" not in line, line
