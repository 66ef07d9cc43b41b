"""Data by name: what is shipped, Fashion-MNIST, archives, and every way in which a file can be wrong."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from flatlens import datasets
from flatlens.errors import DataError, UsageError
from flatlens.specs import uris
from tests import assets
from tests.assets import fashion_mnist


@pytest.fixture
def fashion() -> Path:
    return fashion_mnist()


class Planted:
    """A pickle that creates a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def refused(uri: str) -> str:
    """The message with which ``uri`` is refused; it is one line."""
    with pytest.raises(DataError) as caught:
        datasets.load(uri)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- names --------------------------------------------------------------------------------------


def test_a_name_is_taken_apart():
    uri = uris.parse("flatlens:cnn?act=relu&width=%38")
    assert (uri.scheme, uri.path, uri.options) == ("flatlens", "cnn", {"act": "relu", "width": "8"})
    assert uris.parse("digits").scheme == ""
    assert uris.parse("npz:~/a b%.npz").path == "~/a b%.npz"
    assert uris.parse("npz:~/a").file == Path.home() / "a"
    assert uris.parse("npz:~nobody-at-all/a").file == Path("~nobody-at-all/a")


@pytest.mark.parametrize("arch", ["flatlens:cnn?act=gelu&width=4", "flatlens%3Acnn%3Fact%3Dgelu%26width%3D4"])
def test_an_architecture_keeps_its_own_options(arch):
    uri = uris.parse(f"ckpt:w.safetensors?arch={arch}")
    assert uri.path == "w.safetensors"
    assert uri.options == {"arch": "flatlens:cnn?act=gelu&width=4"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:b?c", "option 'c' in 'a:b?c' has no value; write name=value, joined by &"),
        ("a:b?c&d=1", "option 'c' in 'a:b?c&d=1' has no value; write name=value, joined by &"),
        ("a:b?c=1&c=2", "option 'c' is given twice in 'a:b?c=1&c=2'"),
    ],
)
def test_a_name_that_cannot_be_read(text, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        uris.parse(text)


@pytest.mark.parametrize("value", ["-1", "1.5", "", "x", "٣", "9" * 5000, "0", "11"])
def test_a_whole_number_is_checked(value):
    with pytest.raises(UsageError, match="needs a whole number from 1 to 10"):
        uris.parse(f"a:b?n={value}").whole("n", 3, low=1, high=10)


# ---- shipped digits -----------------------------------------------------------------------------


def test_digits_are_scikit_learns():
    sklearn = assets.package("sklearn.datasets", "pip install scikit-learn")
    digits = sklearn.load_digits()
    whole = datasets.load("flatlens:digits?split=all")
    np.testing.assert_array_equal(whole.x[:, 0] * 16, digits.images)
    np.testing.assert_array_equal(whole.y, digits.target)


def test_digits_split_is_fixed_disjoint_and_stratified():
    train, test, whole = (datasets.load(f"flatlens:digits?split={s}") for s in ("train", "test", "all"))
    assert (len(train), len(test), len(whole)) == (1347, 450, 1797)
    rows = {part: {row.tobytes() for row in part.x} for part in (train, test, whole)}
    assert not rows[train] & rows[test]
    assert rows[train] | rows[test] == rows[whole]
    share = np.bincount(test.y) / np.bincount(whole.y)
    assert np.all(abs(share - 450 / 1797) < 0.01)
    assert datasets.load("flatlens:digits").sha256 == test.sha256


def test_digits_have_the_promised_form():
    digits = datasets.load("flatlens:digits")
    assert digits.x.dtype == np.float32 and digits.y.dtype == digits.ids.dtype == np.int64
    assert digits.x.shape == (450, 1, 8, 8) and digits.shape == (1, 8, 8)
    assert digits.x.min() == 0 and digits.x.max() == 1 and digits.bounds == (0.0, 1.0)
    assert digits.classes == 10 and digits.labels == tuple("0123456789")
    assert digits.uri == "flatlens:digits"


def test_shipped_file_carries_source_and_licence():
    with np.load(Path(datasets.__file__).parents[1] / "shipped" / "digits.npz") as file:
        assert "10.24432/C50P49" in str(file["source"]) and "CC BY 4.0" in str(file["licence"])


def test_take_keeps_ids_and_classes():
    digits = datasets.load("flatlens:digits")
    some = digits.take([17, 3]).take([1, 0])
    np.testing.assert_array_equal(some.ids, [3, 17])
    np.testing.assert_array_equal(some.x, digits.x[[3, 17]])
    np.testing.assert_array_equal(some.y, digits.y[[3, 17]])
    assert some.classes == 10 and some.sha256 == digits.sha256
    assert len(digits.take([])) == 0
    for index in (450, -1):
        with pytest.raises(DataError, match=f"^no sample {index} in 'flatlens:digits'; it has samples 0 to 449$"):
            digits.take([3, index])
    for strange, said in ((np.ones(450, bool), "bool; give np.flatnonzero(mask)"), ([1.5], "float64; give whole")):
        with pytest.raises(DataError, match=re.escape(f"indices of samples are {said}")):
            digits.take(strange)


def test_every_listed_name_loads():
    for name in datasets.BUILT_IN:
        assert len(datasets.load(name))
    for name, line in (datasets.SCHEMES | datasets.BUILT_IN).items():
        assert name and line and "\n" not in line


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "digits",
            "no data 'digits'; there are: flatlens:digits, idx:…, npz:…, imagefolder:…, torchvision:…, hf:…, table:…. "
            "Did you mean 'flatlens:digits'?",
        ),
        (
            "npy:a",
            "no data 'npy:a'; there are: flatlens:digits, idx:…, npz:…, imagefolder:…, torchvision:…, hf:…, table:….",
        ),
        (
            "flatlens:digit",
            "no data 'flatlens:digit'; flatlens comes with: flatlens:digits. Did you mean 'flatlens:digits'?",
        ),
        ("flatlens:digits?splt=all", "no option 'splt'; 'flatlens:digits' has: split. Did you mean 'split'?"),
        (
            "flatlens:digits?split=tset",
            "no split 'tset'; there are: train, test, all. Did you mean 'test'? (in 'flatlens:digits?split=tset')",
        ),
        ("idx:/nowhere?split=all", "no split 'all'; there are: train, test. (in 'idx:/nowhere?split=all')"),
        ("idx:/nowhere", "folder '/nowhere' is not there; idx:FOLDER needs MNIST-format files"),
        ("npz:/nowhere", "file '/nowhere' is not there; npz:FILE needs a NumPy archive, save it with "),
        ("npz:", "file '' is a folder; npz:FILE needs a NumPy archive"),
    ],
)
def test_a_name_that_names_no_data(uri, message):
    assert refused(uri).startswith(message)


# ---- idx ----------------------------------------------------------------------------------------


def test_fashion_mnist(fashion):
    data = datasets.load(f"idx:{fashion}")
    assert data.x.shape == (10_000, 1, 28, 28) and data.classes == 10
    assert data.x.min() == 0 and data.x.max() == 1
    np.testing.assert_array_equal(np.bincount(data.y), [1000] * 10)
    raw = gzip.decompress((fashion / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    assert hashlib.sha256(np.round(data.x * 255).astype(np.uint8).tobytes()).digest() == hashlib.sha256(raw).digest()


def test_fashion_mnist_cut_off(fashion, tmp_path):
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        shutil.copy(fashion / name, tmp_path)
    images = tmp_path / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:100_000])
    assert refused(f"idx:{tmp_path}") == (
        f"'{images}' is a damaged or cut off gzip file (Compressed file ended before the end-of-stream marker was "
        "reached); copy it again"
    )
    images.write_bytes(images.read_bytes()[:50_000] + bytes(50_000))
    assert "damaged or cut off gzip file" in refused(f"idx:{tmp_path}")


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">I{values.ndim}I", 0x800 + values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def write_idx(folder: Path, images: bytes, labels: bytes, prefix: str = "t10k", mark: str = "-") -> None:
    (folder / f"{prefix}-images{mark}idx3-ubyte").write_bytes(images)
    (folder / f"{prefix}-labels{mark}idx1-ubyte").write_bytes(labels)


IMAGES = np.arange(3 * 4 * 5).reshape(3, 4, 5)
LABELS = np.array([2, 0, 1])


@pytest.mark.parametrize("mark", "-.")
@pytest.mark.parametrize(("prefix", "split"), [("t10k", "test"), ("test", "test"), ("train", "train")])
def test_raw_idx(tmp_path, prefix, split, mark):
    write_idx(tmp_path, idx(IMAGES), idx(LABELS), prefix, mark)
    data = datasets.load(f"idx:{tmp_path}?split={split}")
    np.testing.assert_array_equal(data.x[:, 0], (IMAGES / 255).astype(np.float32))
    np.testing.assert_array_equal(data.y, LABELS)
    other = {"test": "train", "train": "test"}[split]
    assert f"has no {other} images; needs " in refused(f"idx:{tmp_path}?split={other}")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (idx(IMAGES)[:-1], idx(LABELS), "should hold 60 values by its header and holds only 59; copy it again"),
        (idx(IMAGES) + b"\0", idx(LABELS), "should hold 60 values by its header and holds more; copy it again"),
        (idx(IMAGES)[:9], idx(LABELS), "is cut off within its header; copy it again"),
        (b"", idx(LABELS), "is cut off within its header; copy it again"),
        (idx(LABELS), idx(LABELS), "starts with 0x00000801; idx files of unsigned bytes with 3 dimensions start with"),
        (idx(IMAGES), idx(IMAGES), "starts with 0x00000803; idx files of unsigned bytes with 1 dimension start with"),
        (b"\x89PNG" + bytes(20), idx(LABELS), "starts with 0x89504e47; idx files of"),
        (struct.pack(">4I", 0x803, *[2**32 - 1] * 3), idx(LABELS), "should hold 79228162458924105385300197375 values"),
        (idx(IMAGES), idx(LABELS[:2]), "has 3 inputs and 2 labels; every input needs one label"),
        (idx(IMAGES[:0]), idx(LABELS[:0]), "is empty (inputs of shape (0, 1, 4, 5)); at least one sample is needed"),
    ],
)
def test_a_wrong_idx_file(tmp_path, images, labels, message):
    write_idx(tmp_path, images, labels)
    assert message in refused(f"idx:{tmp_path}")


def test_a_missing_idx_file(tmp_path):
    write_idx(tmp_path, idx(IMAGES), idx(LABELS))
    file = tmp_path / "t10k-labels-idx1-ubyte"
    assert refused(f"idx:{file}") == f"folder '{file}' is a file; name the folder it is in; " + (
        "idx:FOLDER needs MNIST-format files"
    )
    file.unlink()
    assert refused(f"idx:{tmp_path}") == (
        f"folder '{tmp_path}' has no test labels; needs t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz"
    )
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"not gzip at all")
    assert refused(f"idx:{tmp_path}").endswith("Not a gzipped file (b'no'); copy it again")


# ---- npz ----------------------------------------------------------------------------------------

X = np.linspace(0, 1, 4 * 3 * 2 * 2, dtype=np.float32).reshape(4, 3, 2, 2)
Y = np.array([0, 2, 1, 2])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_npz_of_floats(tmp_path, dtype):
    np.savez(tmp_path / "a.npz", x=X.astype(dtype), y=Y)
    data = datasets.load(f"npz:{tmp_path}/a.npz")
    np.testing.assert_array_equal(data.x, X.astype(dtype).astype(np.float32))
    assert data.x.dtype == np.float32 and data.classes == 3 and data.labels is None


def test_npz_of_bytes_features_and_labels(tmp_path):
    features = np.array([[0, 255], [51, 102]], np.uint8)
    np.savez_compressed(tmp_path / "a.npz", x=features, y=np.array([1, 0], np.uint8), labels=["cat", "dog", "eel"])
    data = datasets.load(f"npz:{tmp_path}/a.npz")
    np.testing.assert_allclose(data.x, [[0, 1], [0.2, 0.4]], rtol=1e-6)
    assert data.labels == ("cat", "dog", "eel") and data.classes == 3 and data.shape == (2,)


def test_inputs_outside_the_bounds_are_kept(tmp_path):
    np.savez(tmp_path / "a.npz", x=X * 300 - 20, y=Y)
    assert datasets.load(f"npz:{tmp_path}/a.npz").x.max() == 280


def test_hash_tells_bytes_shape_and_labels_apart(tmp_path):
    seen = set()
    flipped = X.copy()
    flipped[0, 0, 0, 0] = 0.5
    for x, y in ((X, Y), (flipped, Y), (X.reshape(4, 3, 4, 1), Y), (X, Y[::-1])):
        np.savez(tmp_path / "a.npz", x=x, y=y)
        seen.add(datasets.load(f"npz:{tmp_path}/a.npz").sha256)
    np.savez(tmp_path / "b.npz", x=np.asfortranarray(X).astype(np.float64), y=Y.astype(np.uint8))
    assert len(seen) == 4 and datasets.load(f"npz:{tmp_path}/b.npz").sha256 in seen


def spoilt(value: float, count: int) -> np.ndarray:
    x = X.copy()
    x[2, 1].reshape(-1)[:count] = value
    return x


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "has no array 'y'; it has: x float32 [4, 3, 2, 2]; save it with np.savez(FILE, x=x, y=y)"),
        ({"images": X, "y": Y}, "has no array 'x'; it has: images float32 [4, 3, 2, 2], y int64 [4]; save it with"),
        ({"x": X[0], "y": Y}, "has shape (3, 2, 2); needs [N, C, H, W] or [N, features]"),
        ({"x": X.astype(np.int64), "y": Y}, "is int64; needs uint8 (0 to 255) or float (0 to 1)"),
        ({"x": X.astype(complex), "y": Y}, "is complex128; needs uint8"),
        ({"x": X, "y": Y[:3]}, "has 4 inputs and 3 labels; every input needs one label"),
        ({"x": X[:0], "y": Y[:0]}, "is empty (inputs of shape (0, 3, 2, 2)); at least one sample is needed"),
        ({"x": X[:, :0], "y": Y}, "is empty (inputs of shape (4, 0, 2, 2)); at least one sample is needed"),
        ({"x": X, "y": Y[:, None]}, "has shape (4, 1); needs one label per input, [N]"),
        ({"x": X, "y": Y + 0.5}, "is float64; labels are whole numbers: y.astype('int64')"),
        ({"x": X, "y": Y - 1}, "has label -1 at index 0; labels go from 0 to 999999, the last that can be"),
        ({"x": X, "y": Y * 10**6}, "has label 2000000 at index 1; labels go from 0 to 999999, the last that can be"),
        (
            {"x": X, "y": np.full(4, 2**64 - 1, np.uint64)},
            "has label 9223372036854775807 at index 0; labels go from 0 to 999999",
        ),
        (
            {"x": X, "y": Y, "labels": ["cat", "dog"]},
            "has label 2 at index 1; labels go from 0 to 1, as 2 class names are given",
        ),
        ({"x": X, "y": Y, "labels": Y}, "is int64 of shape (4,); needs one name per class, as text"),
        (
            {"x": spoilt(np.nan, 3), "y": Y},
            "holds 3 values that are not finite, in 1 inputs, the first at index 2; remove or replace them",
        ),
        ({"x": spoilt(np.inf, 1), "y": Y}, "holds 1 values that are not finite, in 1 inputs, the first at index 2"),
        ({"x": X.astype(np.float64) * 1e300, "y": Y}, "values that are not finite, in 4 inputs, the first at index 0"),
    ],
)
def test_a_wrong_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    assert message in refused(f"npz:{tmp_path}/a.npz")


def test_a_damaged_npz(tmp_path):
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, x=X, y=Y)
    data, file = whole.read_bytes(), tmp_path / "a.npz"
    for wrong in (b"", b"x", data[:100], data[:-30]):
        file.write_bytes(wrong)
        assert refused(f"npz:{file}").startswith(f"'{file}' is no NumPy archive (.npz), or is cut off; save it with")
    for at in range(35, len(data) - 22, 7):
        file.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            assert len(datasets.load(f"npz:{file}")) == 4  # a byte that does not matter
        except DataError as error:
            assert str(file) in str(error) and "\n" not in str(error)
    np.save(tmp_path / "b.npy", X)
    assert "is no NumPy archive (.npz)" in refused(f"npz:{tmp_path}/b.npy")
    assert refused(f"npz:{tmp_path}").startswith(f"file '{tmp_path}' is a folder; npz:FILE needs")


def test_a_pickle_runs_nothing(tmp_path):
    planted = tmp_path / "planted"
    bare = tmp_path / "bare.npz"
    bare.write_bytes(pickle.dumps(Planted(planted)))
    assert "is no NumPy archive (.npz)" in refused(f"npz:{bare}")
    for name in ("x", "y", "labels"):
        arrays = {"x": X, "y": Y} | {name: np.array([Planted(planted)] * 4, dtype=object)}
        np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays)
        assert refused(f"npz:{tmp_path}/a.npz") == (
            f"'{tmp_path}/a.npz' holds Python objects, which could run code and are not read; save plain number arrays"
        )
    assert not planted.exists()
    np.load(tmp_path / "a.npz", allow_pickle=True)["labels"]
    assert planted.exists()  # so the trap does work
