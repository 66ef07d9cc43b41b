"""Data given as objects: arrays and tensors of every kind, datasets, rows with columns as Hugging Face's have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import flatlens as fl
from flatlens.errors import DataError, SpecError
from flatlens.measure.given import samples
from flatlens.victims.samples import check_data
from tests.assets import package


class Rows:
    """As a `datasets.Dataset` is: iterable by rows, each a dictionary; no torch Dataset."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)

    def __getitem__(self, i):
        return self.rows[i]

    def __len__(self):
        return len(self.rows)


PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "labels"), ("x", "y")])
def test_rows_with_images_of_pillow(mode, image, label):
    pillow = package("PIL.Image", "pip install pillow")
    arrays = PIXELS if mode == "RGB" else PIXELS[..., 0]
    found = samples(Rows([{"id": i, label: i, image: pillow.fromarray(a)} for i, a in enumerate(arrays)]))
    expected = np.moveaxis(arrays.reshape(4, 5, 6, -1), -1, 1) / 255
    assert found.x.shape == expected.shape and found.x.dtype == torch.float32
    assert np.allclose(found.x.numpy(), expected, atol=1e-7) and found.y.tolist() == [0, 1, 2, 3]


def test_rows_of_tensors_and_a_loader_over_them():
    x = torch.rand(5, 1, 4, 4)
    rows = Rows([{"image": one, "label": torch.tensor(i)} for i, one in enumerate(x)])
    for given in (rows, torch.utils.data.DataLoader(rows, 2)):
        found = samples(given)
        assert torch.equal(found.x, x) and found.y.tolist() == [0, 1, 2, 3, 4]


def test_rows_that_lack_a_column_or_have_another_kind_of_image():
    pillow = package("PIL.Image", "pip install pillow")
    with pytest.raises(DataError, match=r"^the data have the columns image, fine_label; an image \(image, img, "):
        samples(Rows([{"image": torch.rand(1, 2, 2), "fine_label": 3}]))
    with pytest.raises(DataError, match="an image has the mode I;16; convert it to RGB or L"):
        samples(Rows([{"image": pillow.fromarray(np.zeros((2, 2), np.uint16)), "label": 3}]))
    pair = [
        {"image": pillow.fromarray(PIXELS[0]), "label": 0},
        {"image": pillow.fromarray(PIXELS[0, ..., 0]), "label": 1},
    ]
    with pytest.raises(DataError, match="the batches differ in shape"):
        samples(Rows(pair))


X = np.random.default_rng(0).random((6, 4)).astype(np.float32)
Y = np.arange(6) % 3


def read_only() -> np.ndarray[Any, Any]:
    array = X.copy()
    array.flags.writeable = False
    return array


def in_inference_mode() -> Tensor:
    with torch.inference_mode():
        return torch.from_numpy(X).clone()


INPUTS: dict[str, Callable[[], Any]] = {
    "array": lambda: X,
    "read-only": read_only,
    "fortran": lambda: np.asfortranarray(X),
    "reversed twice": lambda: np.ascontiguousarray(X[:, ::-1])[:, ::-1],
    "every other": lambda: np.repeat(X, 2, axis=0)[::2],
    "big-endian": lambda: X.astype(">f4"),
    "long double": lambda: X.astype(np.longdouble),
    "nothing masked": lambda: np.ma.masked_greater(X, 2),
    "data frame": lambda: pd.DataFrame(X, index=[5, 4, 3, 2, 1, 0]),
    "list of arrays": lambda: list(X),
    "tuple of tensors": lambda: tuple(torch.from_numpy(X)),
    "lists": lambda: X.tolist(),
    "with a gradient": lambda: torch.from_numpy(X.copy()).requires_grad_() * 1,
    "inference": in_inference_mode,
}
LABELS: dict[str, Callable[[], Any]] = {
    "big-endian": lambda: Y.astype(">i8"),
    **{f"uint{bits}": lambda bits=bits: Y.astype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    "reversed twice": lambda: np.ascontiguousarray(Y[::-1])[::-1],
    "series of another index": lambda: pd.Series(Y, index=[15, 10, 12, 11, 14, 13]),
    "codes of categories": lambda: pd.Series(list("abcabc")).astype("category").cat.codes,
    "NumPy's numbers": lambda: list(Y),
    "range": lambda: [*range(3), *range(3)],
}


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_are_the_same_numbers_in_every_form(kind: str) -> None:
    x, y = check_data(*samples(INPUTS[kind](), Y)[:2])
    assert np.array_equal(x.numpy().astype(np.float32), X) and y.tolist() == Y.tolist()
    x.add_(0)  # it is nobody's read-only memory
    model = nn.Linear(4, 3).eval()
    found = fl.curvature(model, INPUTS[kind](), Y)
    torch.testing.assert_close(found.trace, fl.curvature(model, torch.from_numpy(X), torch.from_numpy(Y)).trace)


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_the_same_numbers_in_every_form(kind: str) -> None:
    _, y = check_data(*samples(X, LABELS[kind]())[:2])
    assert y.dtype == torch.int64 and y.tolist() == Y.tolist()


class Endless(torch.utils.data.Dataset[Any]):
    def __getitem__(self, i: int) -> Any:
        return X[i], Y[i]


class Broken(Endless):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> Any:
        if i == 2:
            raise OSError("the disk\nis gone")
        return super().__getitem__(i)


def palette() -> Rows:
    pillow = package("PIL.Image", "pip install pillow")
    return Rows([{"image": pillow.fromarray(PIXELS[0]).convert("P"), "label": 0}])


T = torch.from_numpy(X)
REFUSED: dict[str, tuple[Callable[[], tuple[Any, ...]], str]] = {
    "one axis": (lambda: (X[:, 0], Y), "inputs have shape (6,); give [n, …], the samples first: x[:, None]"),
    "no axis": (lambda: (torch.tensor(1.0), Y), "inputs have shape (); give [n, …]"),
    "no features": (lambda: (X[:, :0], Y), "inputs have shape (6, 0); give [n, …]"),
    "no samples": (lambda: (X[:0], Y[:0]), "there are no samples; give at least one"),
    "sparse": (lambda: (T.to_sparse(), Y), "inputs are sparse; give a dense tensor: .to_dense()"),
    "meta": (lambda: (T.to("meta"), Y), "inputs are on the meta device, where nothing has a value"),
    "whole levels": (lambda: (PIXELS, Y[:4]), "or x.float() with bounds=(0, 255)"),
    "text": (
        lambda: (X, np.array(list("abcabc"))),
        "labels of type ndarray cannot be read as numbers (its values are text",
    ),
    "categories": (lambda: (X, pd.Series(list("abcabc"))), "labels of type Series cannot be read as numbers"),
    "objects": (lambda: (X.astype(object), Y), "(its values are object); give a tensor or an array"),
    "masked": (lambda: (np.ma.masked_greater(X, 0.5), Y), "(some of its values are masked)"),
    "one-hot": (lambda: (X, np.eye(3)[Y]), "needs whole numbers of shape [6]: y.argmax(1), where they are"),
    "a column": (
        lambda: (X, Y[:, None]),
        "needs whole numbers of shape [6]: y[:, 0]",
    ),
    "floats": (lambda: (X, Y.astype(float)), "needs whole numbers of shape [6]: y.long()"),
    "too few": (lambda: (X, Y[:4]), "labels have shape (4,) and type torch.int64; needs whole numbers of shape [6]"),
    "both in one": (lambda: ((T, Y),), "pairs (x, y) of inputs and labels are needed, or both apart"),
    "a table of both": (lambda: ({"x": X, "y": Y},), "a dict with x, y is no data; give inputs x and labels y apart"),
    "splits": (lambda: ({"train": Rows([]), "test": Rows([])},), "a dict with train, test is no data"),
    "a data frame of both": (lambda: (pd.DataFrame(X),), "a DataFrame is no data; give inputs x and labels y apart"),
    "without a length": (
        lambda: (Endless(),),
        "the Endless fails after 0 samples: TypeError: object of",
    ),
    "an error of its own": (lambda: (Broken(),), "the Broken fails after 2 samples: OSError: the disk is gone"),
    "a palette": (lambda: (palette(),), "an image has the mode P; convert it to RGB or L"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_one_line_says_what_is_wrong_with_data(kind: str) -> None:
    made, said = REFUSED[kind]
    for work in (fl.trace, fl.curvature):
        with pytest.raises(DataError) as caught:
            work(nn.Linear(4, 3).eval(), *made())
        assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"layers": nn.Sequential(nn.Linear(4, 3))}, "needs names, for example layers=['head']"),
        ({"layers": [0]}, "layers=[0]: needs names, for example layers=['head']"),
        ({"controls": True}, "controls=True: needs names, for example controls=['line-to-end']"),
    ],
)
def test_what_is_no_name_is_refused_in_one_line(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        fl.trace(nn.Linear(4, 3).eval(), X, Y, **asked)
    assert said in str(caught.value) and "\n" not in str(caught.value)
