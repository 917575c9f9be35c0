"""The codec gives back what it promises, pays what its model says, and refuses everything else in one line."""

import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import load_vae, trellis
from helpers.axes import STEP, fit_code_model
from helpers.codec import Codec, compress_files, decompress_file, describe_file, load_codec
from helpers.data import Dataset
from helpers.detail import DetailModel
from helpers.engine.errors import UserError
from helpers.engine.files import ROOT, weights_path
from helpers.engine.sealed import read_tensors, write_tensors
from helpers.engine.vaec import CHECKSUM, DETAIL, OVERHEAD, PIXELS, read_container, write_container
from helpers.pixelcoder import PixelNet
from helpers.quality import Plan
from helpers.run import build_model
from helpers.settings import Settings
from helpers.show.images import pixels

from .conftest import assert_one_line_error, run_module
from .test_pixelcoder import network as untaught

CODE, LOSSLESS = Plan.of(30), Plan.of(100)
NO_DETAIL = DetailModel(torch.eye(3), torch.ones(1, 3072))
EVERY_KIND = (CODE, Plan.of(45), LOSSLESS, Plan.of(100, preview=True), Plan.of(70), Plan.of(max_error=3))


@pytest.fixture(scope="module")
def network() -> PixelNet:
    return untaught(8, 2)  # small: this module codes many files


@pytest.fixture(scope="module")
def codec(trained: Path, photos: Dataset, network: PixelNet) -> Codec:
    plain = load_codec(weights_path(trained, "vae"), photos)
    return Codec(plain.model, plain.code_model, plain.detail_model, network)


@pytest.fixture(scope="module")
def able(photos: Dataset) -> Codec:
    """The published model, for facts that need one that has learnt something."""
    vae = load_vae()
    return Codec(vae, fit_code_model(vae, photos.train, 500, 3), NO_DETAIL)


@pytest.fixture(scope="module")
def images(photos: Dataset) -> np.ndarray:
    return pixels(photos.test.images)


@pytest.fixture(scope="module")
def content(codec: Codec, images: np.ndarray) -> bytes:
    return codec.compress(images[:4], Plan.of(70))


@pytest.mark.parametrize("n", [0, 1, 7])
@pytest.mark.parametrize("plan", EVERY_KIND, ids=str)
def test_real_images_come_back_in_the_same_shape_every_time(
    codec: Codec, images: np.ndarray, n: int, plan: Plan
) -> None:
    content = codec.compress(images[:n], plan)
    decoded = codec.decompress(content)
    assert decoded.shape == images[:n].shape and decoded.dtype == np.uint8
    assert content == codec.compress(images[:n], plan) and np.array_equal(decoded, codec.decompress(content))


@pytest.mark.parametrize("tile", [False, True])
@pytest.mark.parametrize("preview", [False, True])
def test_every_bit_comes_back_and_no_value_is_further_off_than_asked(
    codec: Codec, images: np.ndarray, tile: bool, preview: bool
) -> None:
    rng = np.random.default_rng(0)
    constant = np.full((3, 32, 32, 3), np.array([0, 128, 255], np.uint8)[:, None, None, None])
    extreme = 255 * rng.integers(0, 2, (2, 32, 32, 3), dtype=np.uint8)
    odd = (
        rng.integers(0, 256, (2, 5, 41, 3), dtype=np.uint8) if tile else rng.integers(0, 256, (1, 32, 32, 3), np.uint8)
    )
    for some in (images[:3], constant, extreme, odd):
        for largest in (0, 1, 2, 15):
            decoded = codec.decompress(codec.compress(some, Plan.of(max_error=largest, preview=preview), tile=tile))
            worst = np.abs(decoded.astype(int) - some).max()
            assert worst <= largest


def test_ten_thousand_images_come_back_and_equal_ones_are_equal(codec: Codec, images: np.ndarray) -> None:
    codes = np.resize(codec.codes(images, refinements=0), (10_000, codec.widths.shape[1]))
    many = np.resize(images, (10_000, *images.shape[1:]))
    decoded = codec.decompress(codec.write(many, codes, CODE)).reshape(10, *images.shape)
    assert (decoded == decoded[0]).all()
    small = np.resize(images[:, 8:11, 8:12], (10_000, 3, 4, 3))
    assert np.array_equal(codec.decompress(codec.compress(small, LOSSLESS, tile=True)), small)


def test_images_of_any_size_are_cut_into_tiles(codec: Codec) -> None:
    large = np.random.default_rng(0).integers(0, 256, (2, 70, 45, 3), dtype=np.uint8)
    for plan in EVERY_KIND:
        assert codec.decompress(codec.compress(large, plan, tile=True)).shape == large.shape


def test_a_preview_is_what_the_code_alone_gives_also_of_a_file_cut_short(codec: Codec, images: np.ndarray) -> None:
    content, alone = codec.compress(images[:3], Plan.of(100, preview=True)), codec.compress(images[:3], Plan(1.0))
    cut = content[: len(alone) + 7]
    assert np.array_equal(codec.decompress(cut, preview=True), codec.decompress(alone))
    with pytest.raises(UserError, match="damaged.*--preview"):
        codec.decompress(cut)
    with pytest.raises(UserError, match="no preview"):
        codec.decompress(codec.compress(images[:1], LOSSLESS), preview=True)


@pytest.mark.parametrize("plan", EVERY_KIND, ids=str)
def test_the_pixels_of_an_image_do_not_depend_on_its_company_or_on_threads(
    codec: Codec, images: np.ndarray, plan: Plan
) -> None:
    codes = codec.codes(images[:24])

    def there_and_back(chosen: slice) -> np.ndarray:
        return codec.decompress(codec.write(images[chosen], codes[chosen] if plan.fineness else None, plan))

    together = there_and_back(slice(0, 24))
    for chosen in (slice(0, 1), slice(20, 22)):
        assert np.array_equal(there_and_back(chosen), together[chosen])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert np.array_equal(there_and_back(slice(0, 24)), together)
    finally:
        torch.set_num_threads(threads)


def test_a_file_pays_what_its_model_says(able: Codec, images: np.ndarray) -> None:
    codes = able.codes(images[:100])
    for quality in (0.3, 1.0, 4.0):
        step = float(np.float32(STEP / quality))
        payload, ideal = trellis.encode(codes, able.widths, step)
        content = able.write(images[:100], codes, Plan(quality))
        assert len(content) == len(payload) + OVERHEAD
        assert ideal <= 8 * len(payload) <= 1.01 * ideal
        assert 8 * len(content) <= 1.03 * ideal or quality < 1  # 35 bytes are much for 100 images of 10 bytes


def test_quality_moves_along_one_curve_to_the_models_own_limit(able: Codec, images: np.ndarray) -> None:
    codes = able.codes(images[:100])
    files = [able.write(images[:100], codes, Plan(fineness)) for fineness in (0.2, 1.0, 20.0)]
    decoded = [able.decompress(file) for file in files]
    errors = [np.square(d - images[:100].astype(float)).mean() for d in decoded]
    assert [len(file) for file in files] == sorted(len(file) for file in files)
    assert errors == sorted(errors, reverse=True)
    with torch.no_grad():
        y = torch.from_numpy(codes).float()
        limit = pixels(able.model.decode(y @ able.code_model.axes + able.code_model.mean))
    assert np.abs(decoded[-1].astype(int) - limit).mean() < 0.5


def test_refinement_brings_the_code_nearer_to_the_image(able: Codec, images: np.ndarray) -> None:
    files = [able.write(images[:100], able.codes(images[:100], refinements), Plan(20.0)) for refinements in (0, 4)]
    plain, refined = (np.square(able.decompress(file) - images[:100].astype(float)).mean() for file in files)
    assert refined < 0.98 * plain


def test_the_code_model_is_kept_beside_its_weights_and_only_for_them(
    trained: Path, photos: Dataset, tiny: Settings, codec: Codec, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    weights = weights_path(tmp_path / "copy", "vae")
    kept = weights.parent / "codec.safetensors"
    before = kept.read_bytes()
    assert load_codec(weights).identity == codec.identity and kept.read_bytes() == before
    model = load_vae(weights)
    with torch.no_grad():
        model.code_head.bias += 1
    write_tensors(weights, model.state_dict(), read_tensors(weights)[1])
    assert load_codec(weights, photos).identity != codec.identity and kept.read_bytes() != before


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """One random way of breaking a file."""
    data = bytearray(content)
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 9))
    match rng.integers(6):
        case 0:
            data[at] ^= 1 << int(rng.integers(8))
        case 1:
            data[at : at + length] = rng.bytes(length)
        case 2:
            del data[at:]
        case 3:
            del data[at : at + length]
        case 4:
            data[at:at] = rng.bytes(length)
        case _:
            data += rng.bytes(length)
    return bytes(data)


def test_no_damaged_file_gives_images(codec: Codec, content: bytes) -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        broken = damage(content, rng)
        if broken != content:
            with pytest.raises(UserError):
                codec.decompress(broken)
    for length in range(len(content)):
        with pytest.raises(UserError):
            codec.decompress(content[:length])


def test_damage_with_a_forged_checksum_neither_crashes_nor_hangs(codec: Codec, content: bytes) -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        broken = damage(content[: -CHECKSUM.size], rng)
        forged = broken + CHECKSUM.pack(zlib.crc32(broken))
        try:
            assert codec.decompress(forged).dtype == np.uint8
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "change",
    [{"height": 0}, {"width": 0}, {"number": 2**31}, {"height": 2**15, "width": 2**15}, {"step": 200},
     {"kind": DETAIL}, {"kind": PIXELS}, {"code_step": 50.0}, {"rest": b""}, {"code": b""}],
    ids=str,
)  # fmt: skip
def test_a_forged_header_is_refused_or_gives_images(
    codec: Codec, images: np.ndarray, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    for plan in (CODE, Plan.of(45), Plan.of(70), LOSSLESS):
        parts = read_container(codec.compress(images[:2], plan))._replace(**change)
        with monkeypatch.context() as patch:
            patch.setattr("helpers.engine.vaec.LARGEST", 2**62)  # a forger writes what no program of ours would
            forged = write_container(parts)
        try:
            assert codec.decompress(forged).dtype == np.uint8
        except UserError as error:
            assert "damaged" in str(error) or "weights" in str(error)
        else:
            assert not {"height", "width", "number"} & set(change)


def test_other_weights_are_named(codec: Codec, photos: Dataset, tiny: Settings) -> None:
    other = build_model(tiny.replace(seed=5), 10).eval()
    wrong = Codec(other, fit_code_model(other, photos.train.head(50), n_jacobians=2), NO_DETAIL)
    content = codec.compress(np.zeros((2, 32, 32, 3), np.uint8), CODE)
    with pytest.raises(UserError, match="other weights or another codec.safetensors .*copy all files"):
        wrong.decompress(content)


def test_wrong_images_are_refused(codec: Codec) -> None:
    for shape, kind, words in (
        ((2, 16, 16, 3), np.uint8, "resize"), ((2, 32, 32, 3), np.float32, "uint8"), ((2, 32, 32), np.uint8, "uint8"),
        ((2, 32, 32, 4), np.uint8, "uint8"), ((32, 32, 3), np.uint8, "uint8"), ((2, 0, 32, 3), np.uint8, "uint8"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            codec.compress(np.zeros(shape, kind), LOSSLESS)
    for other in (torch.zeros(2, 32, 32, 3, dtype=torch.uint8), [0]):
        with pytest.raises(UserError, match="must be uint8"):
            codec.compress(other, LOSSLESS)


@pytest.fixture
def weights(trained: Path) -> Path:
    return weights_path(trained, "vae")


def read_folder(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])


@pytest.mark.slow
def test_the_command_line_compresses_describes_and_decompresses(
    images: np.ndarray, codec: Codec, weights: Path, tmp_path: Path
) -> None:
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    np.save(tmp_path / "many.npy", images[:5])
    file, folder = tmp_path / "new" / "x.vaec", tmp_path / "y"
    names, of = (str(tmp_path / "a.png"), str(tmp_path / "many.npy")), ("--weights", str(weights))
    done = [
        run_module("helpers.codec", "compress", *names, "-o", str(file), "--quality", "20", *of),
        run_module("helpers.codec", "info", str(file)),
        run_module("helpers.codec", "decompress", str(file), "-o", str(folder), *of),
    ]
    assert [run.returncode for run in done] == [0, 0, 0], done
    for words in ("6 images of 32x32", f"{file.stat().st_size} bytes", "fineness 0.351", codec.identity.hex()):
        assert words in done[1].stdout
    assert np.array_equal(read_folder(folder), codec.decompress(file.read_bytes()))
    file.write_bytes(file.read_bytes()[:-1])
    damaged = run_module("helpers.codec", "decompress", str(file), "-o", str(tmp_path / "z"), *of)
    assert_one_line_error(damaged, "damaged", "checksum")
    assert_one_line_error(run_module("helpers.codec", "info", str(tmp_path / "a.png")), "not a file of this codec")
    assert_one_line_error(run_module("helpers.codec", "info", str(tmp_path / "missing")), "missing", "not exist")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "many.npy", "new", "y"]


@pytest.mark.slow
def test_bytes_go_through_pipes_and_odd_names_are_printed(images: np.ndarray, weights: Path, tmp_path: Path) -> None:
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    python = f"{sys.executable} -m helpers.codec"
    script = f"""set -o pipefail; cd {ROOT}; w='--weights {weights}'; t={tmp_path}; odd=$t/$(printf 'caf\\xe9').vaec
{python} compress $t/a.png --quality 20 -o - $w | {python} decompress /dev/stdin -o $t/y $w || exit 1
{python} compress $t/a.png --quality 20 -o $odd $w || exit 2
{python} info $odd | true; echo ${{PIPESTATUS[0]}}"""
    strict = os.environ | {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, env=strict, timeout=600)
    assert done.returncode == 0 and done.stdout.endswith(b"caf\\udce9.vaec\n141\n"), done
    assert b"Traceback" not in done.stderr and b"Broken" not in done.stderr, done.stderr
    assert read_folder(tmp_path / "y").shape == (1, 32, 32, 3)


def test_tiled_images_make_the_round_trip(images: np.ndarray, weights: Path, tmp_path: Path) -> None:
    Image.fromarray(images[0]).resize((70, 45)).save(tmp_path / "large.png")
    compress_files([tmp_path / "large.png"] * 2, tmp_path / "x.vaec", 20.0, tile=True, weights=weights)
    decompress_file(tmp_path / "x.vaec", tmp_path / "y", weights)
    decoded = read_folder(tmp_path / "y")
    assert decoded.shape == (2, 45, 70, 3) and np.array_equal(*decoded)


def test_what_cannot_be_compressed_or_written_leaves_nothing(
    images: np.ndarray, codec: Codec, weights: Path, tmp_path: Path
) -> None:
    picture, file, out = tmp_path / "a.png", tmp_path / "x.vaec", tmp_path / "y"
    Image.fromarray(images[0]).save(picture)
    file.write_bytes(codec.compress(images[:4], CODE))
    for pictures, place, options, words in (
        ([tmp_path / "missing.png"], out, {}, "No such file"), ([picture], out, {"quality": 101.0}, "quality=101"),
        ([picture], out, {"quality": 9.0, "lossless": True}, "exclude each other"),
        ([picture], out, {"quality": 70.0}, "no weights for pixels"),
        ([picture], out, {"weights": Path("no.safetensors")}, "no.safetensors does not exist"),
        ([picture], picture / "y", {}, "cannot write"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            compress_files(pictures, place, **{"weights": weights} | options)
    with pytest.raises(UserError, match="name a new one"):
        decompress_file(file, tmp_path, weights)
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        compress_files([picture], tmp_path, weights=weights)
    for command in (describe_file, lambda path: decompress_file(path, out, weights)):
        with pytest.raises(UserError, match=r"a\.png: not a file of this codec"):
            command(picture)
    before, link = picture.read_bytes(), tmp_path / "link.png"
    os.link(picture, link)
    for place in (picture, link, Path(os.path.relpath(picture))):  # as `-o *.png` has it when OUT was forgotten
        with pytest.raises(UserError, match="exists and was not written by this command"):
            compress_files([picture], place, weights=weights)
    link.unlink()
    assert picture.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "x.vaec"]
