"""A folder of images is a data set like any other; a bad one is one line."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from helpers.engine.errors import UserError
from helpers.engine.files import ROOT, home, weights_path
from helpers.engine.schemas import FORMS
from helpers.run import load_model, train
from helpers.settings import profile_settings
from helpers.sources import load_data
from helpers.sources.folders import find_files, load_folder, plain_names

from ..conftest import refused


def test_a_folder_of_images_trains_and_names_its_classes(folder: Path, tmp_path: Path) -> None:
    data = load_data(f"folder:{folder}")
    assert data.class_names == ("cats", "dogs", "ships")
    assert [len(part) for part in data.splits.values()] == [171, 18, 21]
    assert data.test.labels.bincount().tolist() == [7, 7, 7]
    everything = torch.cat([part.images.flatten(1) for part in data.splits.values()])
    assert len(everything.unique(dim=0)) == 210  # no image is in two splits
    settings = profile_settings("smoke", dataset=data.name, width=8, latent_dim=4, epochs=1, batch_size=32)
    model, history = train(data, settings, tmp_path / "out")
    assert model.head.out_features == 3 and history.records[0]["validation_cross_entropy"] < 5
    assert load_model(weights_path(tmp_path / "out", "vae"))[1]["class_names"] == ["cats", "dogs", "ships"]
    assert home(data.name).parent == ROOT / "outs" and "/" not in home("folder:../../etc").name


def test_a_train_and_a_test_folder_are_kept_apart(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    for split in ("train", "test"):
        (tmp_path / "both" / split).symlink_to(folder)
    assert [len(part) for part in load_folder(tmp_path / "both").splits.values()] == [189, 21, 210]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("size", ("0.png", "31 x 32")), ("cut", ("0.png", "cannot read")), ("empty", ("cats",)), ("few", ("cats",)),
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


def test_what_file_managers_leave_is_passed_over(folder: Path) -> None:
    names, parts = find_files(folder)
    for hidden in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "cats/.ipynb_checkpoints", "cats/__MACOSX/deeper"):
        shutil.copytree(folder / "dogs", folder / hidden)
    shutil.copy(folder / "cats" / "0.png", folder / "cats" / "._0.png")
    for file in (".DS_Store", "Thumbs.db", "cats/Thumbs.db", "cats/desktop.ini"):
        (folder / file).write_bytes(b"no image")
    again, found = find_files(folder)
    assert again == names and all((found[split].paths == parts[split].paths).all() for split in parts)
    shutil.copytree(folder, folder.parent / ".cache" / "images")  # but the place itself may lie below a hidden folder
    assert len(find_files(folder.parent / ".cache" / "images")[1]["train"].paths) == 171


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("one class", ("1 classes", "2 classes")), ("thirty images", ("24 training", "130 training", "200 images")),
        ("no test", ("no folder test beside train, val",)), ("long", ("File name too long",)),
    ],
)  # fmt: skip
def test_what_the_notebooks_cannot_use_is_one_line_before_any_training(
    change: str, words: tuple[str, ...], folder: Path
) -> None:
    if change == "one class":
        (folder / "cats").rename(folder / ".cats")
        shutil.copytree(folder / "dogs", folder / "ships", dirs_exist_ok=True)
        (folder / "dogs").rename(folder / ".dogs")
    elif change == "thirty images":
        for path in folder.glob("*/*"):
            if int(path.stem) >= 10:
                path.unlink()
    elif change == "no test":
        for split in ("train", "val"):
            (folder / split).mkdir()
        for name in ("cats", "dogs", "ships"):
            shutil.copytree(folder / name, folder / "val" / name)
            (folder / name).rename(folder / "train" / name)
    refused(lambda: load_data(f"folder:{folder / ('x' * 300) if change == 'long' else folder}"), *words)


def test_names_of_classes_can_stand_in_captions_tables_and_pages() -> None:
    usual = ("cat", "Cat", "cats & dogs", "a|b", "画", "it's", "x^{2", "no. 1")
    assert plain_names(usual) == usual
    strange = ("<b>", "a\nb", "$\\foo$", "a.b", "a_b", "\udcff", "x" * 255, "x" * 254 + "y")
    names = plain_names(strange)
    assert names[:6] == ("‹b›", "a?b", r"\$\foo\$", "a.b", "a_b (2)", "?")
    assert len(set(names)) == len(strange) and max(map(len, names)) <= 36
    for name in names:
        FORMS["captions\\.json"].model_validate({"figure": f"The first eight training images of {name}."})
