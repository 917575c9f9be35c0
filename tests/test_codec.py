"""The codec gives back what it promises, pays what its model says, and refuses everything else in one line."""

import itertools
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import norm

import helpers
from helpers import codec as codec_module
from helpers import coding, container
from helpers.codec import Codec, fit_code_model, load_codec, main
from helpers.config import UserError
from helpers.data import Dataset, to_unit
from helpers.show.figures import pixels
from helpers.storage import weights_path
from helpers.training import build_model

from .conftest import Settings, assert_one_line_error, run_module


@pytest.fixture(scope="module")
def codec(trained: Path, photos: Dataset) -> Codec:
    return load_codec(weights_path(trained, "vae"), photos)


@pytest.fixture(scope="module")
def able(photos: Dataset) -> Codec:
    """The published model, for facts that need one that has learnt something."""
    vae = helpers.load_vae()
    return Codec(vae, fit_code_model(vae, photos.train, 500, 3))


@pytest.fixture(scope="module")
def images(photos: Dataset) -> np.ndarray:
    return pixels(photos.test.images)


@pytest.fixture(scope="module")
def content(codec: Codec, images: np.ndarray) -> bytes:
    return codec.compress(images[:20])


# --- numbers <-> bytes ------------------------------------------------------------------------------------------


def gaussian_rows(n: int, widths: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, len(widths))) * widths


def test_the_trellis_finds_the_best_of_all_paths() -> None:
    rows, d = gaussian_rows(5, np.ones(4)), 4
    weight = np.random.default_rng(1).uniform(0.5, 2, rows.shape)
    taking_part = np.array([True, True, False, True])
    found = coding.quantise(rows, taking_part, weight)
    every = np.array([follow(symbols, taking_part) for symbols in itertools.product(range(-4, 5), repeat=d)])
    for row, w, path in zip(rows, weight, found, strict=True):
        costs = (np.square(every - row) * np.where(taking_part, w, 1e6)).sum(1)
        assert path == pytest.approx(every[costs.argmin()])


def follow(symbols: tuple[int, ...], taking_part: np.ndarray) -> list[float]:
    """The points of symbols, as the decoder finds them."""
    state, points = 0, []
    for symbol, active in zip(symbols, taking_part, strict=True):
        points.append(symbol + (state & 1) / 2 * active)
        if active:
            state = (2 * state + (symbol & 1 ^ coding.FLIP[state])) & 7
    return points


def test_the_rate_paid_is_the_information_in_the_symbols() -> None:
    widths = np.geomspace(0.1, 40, 32)[None]
    rows = gaussian_rows(500, widths[0])
    payload, ideal = coding.encode(rows, widths, 1.0)
    points = coding.decode(payload, 500, widths, 1.0)
    own = -np.log2(norm.cdf(points + 0.5, scale=widths) - norm.cdf(points - 0.5, scale=widths)).sum()
    assert ideal == pytest.approx(own, rel=1e-6)
    assert ideal <= 8 * len(payload) <= 1.002 * ideal + 64


def test_the_trellis_halves_the_distance_to_the_rate_distortion_bound() -> None:
    rows = gaussian_rows(2000, np.ones(32))
    payload, _ = coding.encode(rows, np.ones((1, 32)), 0.5)
    error = np.square(coding.decode(payload, 2000, np.ones((1, 32)), 0.5) - rows).mean()
    bound = 2.0 ** (-2 * 8 * len(payload) / rows.size)  # D(R) of a Gaussian of variance 1
    assert 0 < 10 * np.log10(error / bound) < 0.75  # plain rounding: 1.53 dB
    assert error / 0.25 == pytest.approx(coding.NOISE, rel=0.1)


def test_rows_choose_the_widths_that_fit_them() -> None:
    rows = np.concatenate([gaussian_rows(300, np.full(16, s)) for s in (1, 3, 9, 27)])
    widths = coding.fit_widths(rows)
    assert widths.mean(1) == pytest.approx([1, 3, 9, 27], rel=0.1)
    assert (coding.nearest_widths(rows, widths, 0.1) == np.repeat(np.arange(4), 300)).mean() > 0.99


@pytest.mark.parametrize("value", [0.0, 1e9, -1e9])
def test_extreme_numbers_are_clipped_and_not_lost(value: float) -> None:
    payload, _ = coding.encode(np.full((3, 5), value), np.ones((1, 5)), 1.0)
    decoded = coding.decode(payload, 3, np.ones((1, 5)), 1.0)
    assert np.abs(decoded).max() <= coding.LIMIT and (np.sign(decoded.round()) == np.sign(value)).all()


# --- images -> bytes -> images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 7])
def test_real_images_come_back_in_the_same_shape_every_time(codec: Codec, images: np.ndarray, n: int) -> None:
    content = codec.compress(images[:n])
    decoded = codec.decompress(content)
    assert decoded.shape == images[:n].shape and decoded.dtype == np.uint8
    assert content == codec.compress(images[:n]) and np.array_equal(decoded, codec.decompress(content))


def test_ten_thousand_images_come_back_and_equal_ones_are_equal(codec: Codec, images: np.ndarray) -> None:
    codes = np.resize(codec.codes(images, refinements=0), (10_000, codec.widths.shape[1]))
    decoded = codec.decompress(codec.write(codes)).reshape(10, *images.shape)
    assert (decoded == decoded[0]).all()


def test_random_and_constant_images_come_back(codec: Codec) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    constant = np.full((3, 32, 32, 3), np.array([0, 128, 255], np.uint8)[:, None, None, None])
    for some in (noise, constant):
        for quality in (0.05, 1.0, 20.0):
            content = codec.compress(some, quality)
            assert codec.decompress(content).shape == some.shape and content == codec.compress(some, quality)


def test_the_pixels_of_an_image_do_not_depend_on_its_company_or_on_threads(codec: Codec, images: np.ndarray) -> None:
    together = codec.decompress(codec.compress(images[:110]))
    for chosen in (slice(0, 1), slice(99, 101), slice(57, 110)):
        assert np.array_equal(codec.decompress(codec.compress(images[chosen])), together[chosen])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert np.array_equal(codec.decompress(codec.compress(images[:110])), together)
    finally:
        torch.set_num_threads(threads)


def test_a_file_pays_what_its_model_says(able: Codec, images: np.ndarray) -> None:
    codes = able.codes(images[:100])
    for quality in (0.3, 1.0, 4.0):
        step = float(np.float32(codec_module.STEP / quality))
        payload, ideal = coding.encode(codes, able.widths, step)
        content = able.write(codes, quality)
        assert len(content) == len(payload) + container.OVERHEAD
        assert ideal <= 8 * len(payload) <= 1.01 * ideal
        assert 8 * len(content) <= 1.03 * ideal or quality < 1  # 29 bytes are much for 100 images of 10 bytes


def test_quality_moves_along_one_curve_to_the_models_own_limit(able: Codec, images: np.ndarray) -> None:
    codes = able.codes(images[:100])
    files = [able.write(codes, quality) for quality in (0.2, 1.0, 20.0)]
    decoded = [able.decompress(file) for file in files]
    errors = [np.square(d - images[:100].astype(float)).mean() for d in decoded]
    assert [len(file) for file in files] == sorted(len(file) for file in files)
    assert errors == sorted(errors, reverse=True)
    with torch.no_grad():
        y = torch.from_numpy(codes).float()
        limit = pixels(able.model.decode(y @ able.code_model.axes + able.code_model.mean))
    assert np.abs(decoded[-1].astype(int) - limit).mean() < 0.5


def test_refinement_brings_the_code_nearer_to_the_image(able: Codec, images: np.ndarray) -> None:
    files = [able.write(able.codes(images[:100], refinements), 20.0) for refinements in (0, 4)]
    plain, refined = (np.square(able.decompress(file) - images[:100].astype(float)).mean() for file in files)
    assert refined < 0.97 * plain


def test_the_posterior_is_round_in_the_axes_of_the_code(codec: Codec, photos: Dataset) -> None:
    with torch.no_grad():
        q = codec.model.encode(to_unit(photos.train.images))
    own = torch.diag_embed(q.logvar.exp()).mean(0).double()  # the encoder's widths, which know no correlations
    to_y = torch.linalg.inv(codec.code_model.axes.double())
    widths = torch.linalg.eigvalsh(to_y.T @ own @ to_y).sqrt()
    assert 0.3 < widths.min() and widths.max() < 3
    y = (q.mu - codec.code_model.mean).double() @ to_y
    correlation = torch.corrcoef(y.T) - torch.eye(y.shape[1])
    assert correlation.abs().max() < 0.1


def test_the_code_model_is_kept_beside_its_weights_and_only_for_them(
    trained: Path, photos: Dataset, tiny: Settings, codec: Codec, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "copy")
    weights = weights_path(tmp_path / "copy", "vae")
    kept = weights.parent / "codec.safetensors"
    before = kept.read_bytes()
    assert load_codec(weights).fingerprint == codec.fingerprint and kept.read_bytes() == before
    model = helpers.load_vae(weights)
    with torch.no_grad():
        model.code_head.bias += 1
    helpers.training.write_tensors(weights, model.state_dict(), helpers.training.load_model(weights)[1])
    assert load_codec(weights, photos).fingerprint != codec.fingerprint and kept.read_bytes() != before


# --- what is refused --------------------------------------------------------------------------------------------


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
    for _ in range(300):
        broken = damage(content[: -container.CHECKSUM.size], rng)
        forged = broken + container.CHECKSUM.pack(zlib.crc32(broken))
        try:
            assert codec.decompress(forged).dtype == np.uint8
        except UserError as error:
            assert "\n" not in str(error)


def test_other_weights_and_other_versions_are_named(codec: Codec, photos: Dataset, tiny: Settings) -> None:
    import dataclasses

    other = build_model(dataclasses.replace(tiny, seed=5), 10).eval()
    wrong = Codec(other, fit_code_model(other, photos.train.head(50), n_jacobians=2))
    content = codec.compress(np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="other weights"):
        wrong.decompress(content)
    with pytest.raises(UserError, match="version 9"):
        codec.decompress(content[:4] + b"\x09" + content[5:])
    with pytest.raises(UserError, match="not a file of this codec"):
        codec.decompress(b"PK\x03\x04" + content)


def test_wrong_images_are_refused(codec: Codec) -> None:
    for shape, kind, words in (
        ((2, 16, 16, 3), np.uint8, "resize"), ((2, 32, 32, 3), np.float32, "uint8"), ((2, 32, 32), np.uint8, "uint8"),
        ((2, 32, 32, 4), np.uint8, "uint8"), ((2, 0, 32, 3), np.uint8, "uint8"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            codec.compress(np.zeros(shape, kind))
    for quality in (0.0, -1.0, 1e3, float("nan")):
        with pytest.raises(UserError, match="quality"):
            codec.compress(np.zeros((2, 32, 32, 3), np.uint8), quality)


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (33, 64), (70, 45)])
def test_tiles_cover_images_of_any_size(size: tuple[int, int], codec: Codec) -> None:
    some = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    tiles = container.to_tiles(some)
    header = container.Header(b"12345678", 2, *size, 1.0)
    assert len(tiles) == 2 * container.tiles_of(*size) and np.array_equal(container.from_tiles(tiles, header), some)
    assert codec.decompress(codec.compress(some, tile=True)).shape == some.shape


# --- the command line -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory, codec: Codec) -> Path:
    """A folder with images of all kinds; it needs `codec`, so that the code model is there."""
    folder = tmp_path_factory.mktemp("inputs")
    Image.fromarray(images[0]).save(folder / "a.png")
    Image.fromarray(images[1]).save(folder / "b.jpg", quality=95)
    Image.fromarray(images[1]).convert("L").save(folder / "grey.png")
    Image.fromarray(images[0]).resize((70, 45)).save(folder / "large.png")
    np.save(folder / "many.npy", images[:5])
    np.save(folder / "one.npy", images[0])
    np.save(folder / "float.npy", images[:5] / 255)
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(folder / "archive.npz", images[:1])
    (folder / "archive.npz").rename(folder / "archive.npy")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "text.png").write_text("not an image")
    return folder


@pytest.fixture
def weights(trained: Path) -> tuple[str, str]:
    return "--weights", str(weights_path(trained, "vae"))


def read_folder(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])


def test_the_command_line_compresses_describes_and_decompresses(
    inputs: Path, codec: Codec, weights: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "new" / "x.vaec", tmp_path / "y"
    names = [str(inputs / name) for name in ("a.png", "b.jpg", "grey.png", "many.npy", "one.npy")]
    main(["compress", *names, "-o", str(file), *weights])
    main(["info", str(file)])
    main(["decompress", str(file), "-o", str(folder), *weights])
    printed = capsys.readouterr().out
    for words in ("9 images of 32x32", f"{file.stat().st_size} bytes", codec.fingerprint.hex(), "quality 1"):
        assert words in printed
    assert np.array_equal(read_folder(folder), codec.decompress(file.read_bytes()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "y"]


def test_tiled_images_make_the_round_trip(inputs: Path, weights: tuple[str, str], tmp_path: Path) -> None:
    large = str(inputs / "large.png")
    main(["compress", large, large, "-o", str(tmp_path / "x.vaec"), "--tile", "--quality", "4", *weights])
    main(["decompress", str(tmp_path / "x.vaec"), "-o", str(tmp_path / "y"), *weights])
    decoded = read_folder(tmp_path / "y")
    assert decoded.shape == (2, 45, 70, 3) and np.array_equal(*decoded)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("large.png",), "large.png is 70x45, not 32x32: resize it .* --tile"), (("missing.png",), "No such file"),
        (("broken.png",), "broken.png: it is not a whole"), (("text.png",), "it is not a whole PNG, JPEG or .npy"),
        (("float.npy",), "float64"), (("objects.npy",), "objects.npy"),
        (("archive.npy",), "archive.npy: it"), (("a.png", "large.png", "--tile"), "one size"),
        (("a.png", "--quality", "0"), "quality=0.0"), ((".",), "Is a directory"),
        (("a.png", "--weights", "missing.safetensors"), "missing.safetensors does not exist"),
    ],
)  # fmt: skip
def test_what_cannot_be_compressed_is_said_and_leaves_nothing(
    names: tuple[str, ...], words: str, inputs: Path, weights: tuple[str, str], tmp_path: Path
) -> None:
    given = [str(inputs / name) if "." in name else name for name in names]
    with pytest.raises(UserError, match=words):
        main(["compress", "-o", str(tmp_path / "x.vaec"), *weights, *given])
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_are_said_and_stay_as_they_are(
    inputs: Path, content: bytes, weights: tuple[str, str], tmp_path: Path
) -> None:
    file, full, plain = tmp_path / "x.vaec", tmp_path / "full", tmp_path / "plain"
    file.write_bytes(content)
    full.mkdir()
    (full / "keep").write_text("mine")
    plain.write_text("mine")
    for folder, words in ((full, "not empty"), (plain, "not empty"), (plain / "below", "cannot write")):
        with pytest.raises(UserError, match=words):
            main(["decompress", str(file), "-o", str(folder), *weights])
    with pytest.raises(UserError, match="cannot write"):
        main(["compress", str(inputs / "a.png"), "-o", str(plain / "x.vaec"), *weights])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "plain", "x.vaec"]
    assert [path.name for path in full.iterdir()] == ["keep"] and plain.read_text() == "mine"


def test_an_empty_folder_may_be_filled(content: bytes, weights: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "x.vaec").write_bytes(content)
    (tmp_path / "y").mkdir()
    main(["decompress", str(tmp_path / "x.vaec"), "-o", str(tmp_path / "y"), *weights])
    assert len(list((tmp_path / "y").iterdir())) == 20


def test_a_damaged_file_ends_with_exit_code_2_and_one_line(
    content: bytes, weights: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "x.vaec").write_bytes(content[:-1])
    target = str(tmp_path / "y")
    done = run_module("helpers.codec", "decompress", str(tmp_path / "x.vaec"), "-o", target, *weights)
    assert_one_line_error(done, "damaged", "checksum")
    assert [path.name for path in tmp_path.iterdir()] == ["x.vaec"]


def test_info_explains_what_is_not_a_file(inputs: Path) -> None:
    with pytest.raises(UserError, match="not a file of this codec"):
        main(["info", str(inputs / "a.png")])
    with pytest.raises(UserError, match="No such file"):
        main(["info", str(inputs / "missing.vaec")])
