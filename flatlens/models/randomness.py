"""Everyone's random numbers, which a model draws from by itself, as dropout does: seeded for a while, and put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def seeded(seed: int, model: nn.Module | None = None) -> Iterator[None]:
    """What is drawn on the CPU, and on the GPU that ``model`` is on, is of ``seed``; then all is as it was before."""
    gpus = _gpus(model)
    with torch.random.fork_rng(devices=gpus):
        # Not torch.manual_seed, which would also seed the GPUs whose states are not kept.
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


def states(model: nn.Module) -> list[Tensor]:
    """Where everyone's random numbers are: the CPU's, and those of the GPU that ``model`` is on."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in _gpus(model))]


def go_on_from(states: Sequence[Tensor], model: nn.Module) -> None:
    """Set them to what `states` gave; a GPU that was not among them is left as it is."""
    torch.set_rng_state(states[0])
    for gpu, state in zip(_gpus(model), states[1:], strict=False):
        torch.cuda.set_rng_state(state, gpu)


def _gpus(model: nn.Module | None) -> list[torch.device]:
    used = None if model is None else next(model.parameters(), None)
    return [used.device] if used is not None and used.device.type == "cuda" else []
