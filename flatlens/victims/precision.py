"""The arithmetic of curvature: float64 wherever a device has it, and no shortcuts in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

CPU = torch.device("cpu")


def wide_device(device: torch.device) -> torch.device:
    """Where float64 is computed for what lives on ``device``: Apple GPUs have none, there it is the CPU."""
    return CPU if device.type == "mps" else device


def wide(tensor: Tensor) -> Tensor:
    """``tensor`` in float64, on its `wide_device`."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def widest(device: torch.device) -> torch.dtype:
    """The widest floating-point type that a device computes in."""
    return torch.float32 if device.type == "mps" else torch.float64


@contextmanager
def as_usual() -> Iterator[None]:
    """Gradients on, inference mode and autocast off, whatever the caller has around the call."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Autocast and TF32 off: the first is off by up to 5 % in curvature, the second no better.

    cuDNN takes algorithms that give the same bits each time; those that it would choose otherwise may add in any order.
    """
    matmul = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = False, True, False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
