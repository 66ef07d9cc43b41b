"""Data given as objects: rows with columns, as Hugging Face's datasets have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flatlens.errors import DataError
from flatlens.measure.given import samples
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
