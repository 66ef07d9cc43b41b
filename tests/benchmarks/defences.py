"""What a step of a defended training costs, in steps of a standard one, and what watching costs."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from flatlens import models
from flatlens.training import watch
from flatlens.training.defences import AWP, FAM, PGD, SAM, TRADES, InputGradient, fit
from tests.benchmarks.timing import Row, interleaved, medians, ratio

BATCH, EPS = 64, 0.1
TINY, RESNET = "tiny CNN, 8×8", "ResNet-18 of width 8, 28×28"
NETWORKS = {TINY: ("flatlens:cnn", 8, 24), RESNET: ("flatlens:resnet18?width=8", 28, 3)}
"""Name -> the model, the side of its images, and how many steps are timed at once."""
AXES: dict[str, dict[str, Any]] = {
    "standard": {},
    "FAM": {"penalty": FAM(0.01)},
    "SAM": {"weights": SAM()},
    "input gradient": {"penalty": InputGradient()},
    "PGD-7": {"inner": PGD(7)},
    "PGD-7 with AWP": {"inner": PGD(7), "weights": AWP()},
    "TRADES-7": {"inner": PGD(7), "loss": TRADES()},
}
GOALS = (
    ("FAM", "standard", {TINY: 1.15, RESNET: 1.05}),
    ("SAM", "standard", 2.1),
    ("input gradient", "standard", 3.0),
    ("PGD-7", "standard", 6.0),
    ("PGD-7 with AWP", "PGD-7", 1.25),
    ("TRADES-7", "PGD-7", 1.4),
)


def rows() -> Iterator[Row]:
    """All rows about training with a defence."""
    for name in NETWORKS:
        yield from steps(name)
    yield from against_loops()
    yield watching()
    yield memory()


def data(side: int, steps: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """As many inputs as so many steps take."""
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(BATCH * steps, 1, side, side, generator=rng), torch.randint(10, (BATCH * steps,), generator=rng)


def steps(network: str) -> Iterator[Row]:
    """Steps of each kind, in those of another."""
    uri, side, count = NETWORKS[network]
    x, y = data(side, count)

    def work(axes: dict[str, Any]) -> Callable[[], object]:
        model = models.load(uri, shape=(1, side, side), classes=10).model
        return lambda: fit(
            model, x, y, rng=torch.Generator().manual_seed(0), epochs=1, batch_size=BATCH, lr=1e-4, eps=EPS, **axes
        )

    seconds = interleaved({name: work(axes) for name, axes in AXES.items()})
    for above, below, goal in GOALS:
        reach = goal[network] if isinstance(goal, dict) else goal
        of_two = {name: seconds[name] for name in (above, below)}
        yield Row(
            f"a step of {above}, against {below}'s ({network})",
            ratio(seconds, above, below),
            "×",
            f"≤ {reach}",
            medians(of_two),
        )


def against_loops() -> Iterator[Row]:
    """Against what is published: the plain loop of PGD-7, and a dense Hessian of the head in each step."""
    uri, side, count = NETWORKS[TINY]
    x, y = data(side, count)
    ours, plain, flat, dense = (models.load(uri, shape=(1, side, side), classes=10).model for _ in range(4))
    optimizers = {id(net): torch.optim.AdamW(net.parameters(), lr=1e-4) for net in (plain, dense)}

    def trained(net: nn.Module, **axes: Any) -> None:
        fit(net, x, y, rng=torch.Generator().manual_seed(0), epochs=1, batch_size=BATCH, lr=1e-4, eps=EPS, **axes)

    def loop() -> None:
        for inputs, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
            here = (inputs + EPS * (2 * torch.rand_like(inputs) - 1)).clamp(0, 1)
            for _ in range(7):
                here.requires_grad_(True)
                (slope,) = torch.autograd.grad(F.cross_entropy(plain(here), labels), here)
                here = (inputs + (here.detach() + 2.5 * EPS / 7 * slope.sign() - inputs).clamp(-EPS, EPS)).clamp(0, 1)
            optimizers[id(plain)].zero_grad()
            F.cross_entropy(plain(here), labels).backward()
            optimizers[id(plain)].step()

    head = [module for module in dense.modules() if isinstance(module, nn.Linear)][-1]

    def hessians() -> None:
        features: list[torch.Tensor] = []
        hook = head.register_forward_pre_hook(lambda module, given: features.append(given[0]))
        for inputs, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
            features.clear()
            loss = F.cross_entropy(dense(inputs), labels)

            def of_head(weight: torch.Tensor, at: torch.Tensor = labels) -> torch.Tensor:
                return F.cross_entropy(F.linear(features[0], weight, head.bias), at)

            whole = torch.autograd.functional.hessian(of_head, head.weight, vectorize=True)
            trace = torch.einsum("aibi->ab", whole)
            optimizers[id(dense)].zero_grad()
            (loss + 0.01 * (trace * (head.weight @ head.weight.T)).sum().detach()).backward()
            optimizers[id(dense)].step()
        hook.remove()

    seconds = interleaved(
        {
            "PGD-7": lambda: trained(ours, inner=PGD(7)),
            "a plain loop": loop,
            "FAM": lambda: trained(flat, penalty=FAM(0.01)),
            "dense Hessian": hessians,
        }
    )
    yield Row(
        "a step of PGD-7, against a plain loop's",
        ratio(seconds, "PGD-7", "a plain loop"),
        "×",
        "≤ 1.0",
        medians(seconds),
    )
    yield Row(
        "a step of FAM, against one with a dense Hessian of the head",
        ratio(seconds, "FAM", "dense Hessian"),
        "×",
        "≤ 0.25",
        medians(seconds),
    )


def watching() -> Row:
    """The share of watching in a PGD-7 training of 1,347 digits, 12 epochs."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.rand(1347, 1, 8, 8, generator=rng), torch.randint(10, (1347,), generator=rng)
    seen = watch.watched(len(x))

    def work(watched: bool) -> Callable[[], object]:
        def run() -> None:
            looks = watch.Watch(x[:seen], y[:seen], eps=EPS, every=watch.pace(len(x), 8)) if watched else None
            model = models.load("flatlens:cnn", shape=(1, 8, 8), classes=10).model
            fit(model, x, y, rng=torch.Generator().manual_seed(0), epochs=6, inner=PGD(7), eps=EPS, watch=looks)

        return run

    seconds = interleaved({"watched": work(True), "not": work(False)})
    return Row(
        "watching, of a PGD-7 training on digits",
        100 * (ratio(seconds, "watched", "not") - 1),
        "%",
        "≤ 12",
        medians(seconds),
    )


def memory() -> Row:
    """What a FAM step takes at most, against a standard one, each in a process of its own."""
    peaks = {}
    for name in ("standard", "FAM"):
        found = [
            int(
                subprocess.run(
                    [sys.executable, "-m", __name__, name], capture_output=True, text=True, check=True
                ).stdout
            )
            for _ in range(3)
        ]
        peaks[name] = statistics.median(found)
    detail = ", ".join(f"{name} {peak / 2**20:.0f} MiB" for name, peak in peaks.items())
    return Row("memory of FAM steps, against standard ones", peaks["FAM"] / peaks["standard"], "×", "≤ 1.02", detail)


def peak(name: str) -> int:
    """Bytes that this process has taken at most, after a few steps on the ResNet-18."""
    import resource

    uri, side, count = NETWORKS[RESNET]
    model = models.load(uri, shape=(1, side, side), classes=10).model
    fit(
        model,
        *data(side, count),
        rng=torch.Generator().manual_seed(0),
        epochs=1,
        batch_size=BATCH,
        eps=EPS,
        **AXES[name],
    )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(peak(sys.argv[1]))
