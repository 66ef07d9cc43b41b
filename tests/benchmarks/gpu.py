"""On a GPU: what tracing costs beside the bare attack, and what each precision is worth. No rows without CUDA."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import flatlens as fl
from flatlens.measure.prepare import prepare
from flatlens.specs.settings import Settings
from flatlens.victims.precision import exact_arithmetic
from tests.benchmarks.networks import resnet18
from tests.benchmarks.timing import Row, interleaved, medians, ratio

STEPS, EPS = 40, 8 / 255
Variants = dict[str, Callable[[], object]]


def rows() -> Iterator[Row]:
    """All rows, where there is a GPU."""
    if torch.cuda.is_available():
        for width, batch in ((32, 256), (64, 512)):
            yield from throughput(width, batch)
        yield all_layers()
        yield from precision()


def inputs(batch: int, model: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """Images of 32 × 32, and what the model says they are, as an attack begins where a model is right."""
    x = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1)).cuda()
    with torch.no_grad():
        return x, model(x).argmax(1)


def variants(width: int, batch: int, layers: tuple[str, ...] = ("head",), steps: int = STEPS) -> Variants:
    """PGD traced; the same passes bare in the same arithmetic, and in PyTorch's own, which has TF32 in convolutions.

    Each ends when the GPU has.
    """
    model = resnet18(width).cuda()
    x, y = inputs(batch, model)
    attack = fl.attacks.PGD(eps=EPS, steps=steps, step_size=2.5 * EPS / steps)

    def traced() -> None:
        fl.trace(model, x, y, attack=attack, batch_size=batch, layers=layers)
        torch.cuda.synchronize()

    def bare() -> None:
        job = prepare(model, x, y, attack=attack, settings=Settings(batch_size=batch))
        for here in job.attack.own(job.victim, job.batch(0), None):
            last = here
        with torch.no_grad():
            model(last.x.detach()).argmax(1)
        torch.cuda.synchronize()

    def exact() -> None:
        with exact_arithmetic(x.device):
            bare()

    return {"traced": traced, "bare": exact, "bare in TF32": bare}


def throughput(width: int, batch: int) -> Iterator[Row]:
    """Samples and steps in a second, traced against bare."""
    seconds = interleaved(variants(width, batch))
    rate = batch * STEPS / statistics.median(seconds["traced"])
    work = f"GPU, ResNet-18 of width {width}, batch {batch}: throughput of PGD-{STEPS} traced"
    detail = f"{medians(seconds)}; {rate:,.0f} sample-steps/s"
    yield Row(f"{work}, against bare", ratio(seconds, "bare", "traced"), "×", "≥ 0.95", detail)
    yield Row(f"{work}, against bare in TF32", ratio(seconds, "bare in TF32", "traced"), "×", "", detail)


def all_layers() -> Row:
    """Every layer at every step, against bare."""
    seconds = interleaved(variants(32, 64, ("all",), steps=5), runs=3)
    work = "GPU, ResNet-18: every layer at every step, against the bare attack"
    return Row(work, ratio(seconds, "traced", "bare"), "×", "", medians(seconds))


def precision() -> Iterator[Row]:
    """κ of a float32 model, its curvature in float64, beside the whole model in float64."""
    model = resnet18(32).cuda()
    x, y = inputs(256, model)
    single = fl.curvature(model, x, y).relative_flatness
    double = fl.curvature(model, x, y, dtype=torch.float64).relative_flatness
    apart = ((single - double).abs() / double.abs()).max()
    yield Row(
        "GPU: κ of the model in float32, curvature in float64: largest relative error",
        float(apart),
        "",
        "≤ 1e-3",
        f"n = {len(x)}",
    )
    seconds = interleaved(
        {
            name: lambda t=t: (fl.curvature(model, x, y, dtype=t), torch.cuda.synchronize())
            for name, t in (("float32", torch.float32), ("float64", torch.float64))
        }
    )
    yield Row(
        "GPU: κ by the model in float64, against float32",
        ratio(seconds, "float64", "float32"),
        "×",
        "",
        medians(seconds),
    )
