"""``torchvision:NAME?root=FOLDER``: data of torchvision that were downloaded before."""

from __future__ import annotations

import numpy as np

from flatlens.datasets.images import LabelledImages
from flatlens.errors import DataError, one_line, unknown
from flatlens.extras import need
from flatlens.specs.uris import Uri, location

NAMES = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100")
"""Those that are images of one size in memory, and that torchvision reads without running what is in them: the
pickles of CIFAR are held to their known checksums first."""


def read(uri: Uri) -> LabelledImages:
    """LabelledImages and labels of one split, ``train`` or ``test`` (which is the default).

    Raises:
        DataError: torchvision is missing, does not have it, or it is not in the folder.
    """
    uri.only(["root", "split"])
    split = uri.choice("split", ("train", "test"), "test")
    if uri.path not in NAMES:
        raise DataError(unknown("data of torchvision", uri.path, NAMES, where="there are"))
    if "root" not in uri.options:
        raise DataError(f"'{uri.text}' says no folder; write torchvision:{uri.path}?root=FOLDER")
    root = location(uri.options["root"])
    if not root.is_dir():
        raise DataError(
            f"folder '{root}' is not there; torchvision:{uri.path}?root=FOLDER needs the one it was saved to"
        )
    datasets = need("torchvision", "torchvision", "'torchvision:' data", DataError).datasets
    try:
        found = getattr(datasets, uri.path)(root, train=split == "train", download=False)
    except Exception as error:  # missing or damaged files raise whatever their reader provokes
        said = one_line(error).removesuffix(" You can use download=True to download it")
        raise DataError(
            f"folder '{root}' holds no {uri.path}, or it is damaged ({said}); "
            f"save it with torchvision.datasets.{uri.path}({str(root)!r}, download=True)"
        ) from error
    x = np.asarray(found.data)
    x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    return LabelledImages(x, np.asarray(found.targets, dtype=np.int64), tuple(found.classes))
