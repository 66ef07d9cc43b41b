"""torchvision's wheel is a CUDA build; beside a CPU's torch its import needs these operators to have a name.

timm and transformers fail with it. They are declared when this is imported, before anything imports torchvision, and
kept alive.
"""

from __future__ import annotations

import torch

_operators = None
if not torch.cuda.is_available() and not hasattr(torch.ops.torchvision, "nms"):
    _operators = torch.library.Library("torchvision", "DEF")
    _operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
