"""Cells of a sweep as its page is given them, made of synthetic traces: for tests of the page and of what it embeds."""

from __future__ import annotations

from typing import Any

from flatlens.records.digest import digest
from flatlens.records.intervals import wilson
from flatlens.report.sweep_data import DrawnCell
from flatlens.specs.defences import resolved
from flatlens.specs.run import RunSpec
from flatlens.specs.train import TrainSpec
from tests.synthetic import make_trace

HOSTILE = "</script><script>window.owned=1</script><img src=x onerror=window.owned=1>&<!--"
ROBUST = TrainSpec(epochs=3, adversarial="pgd", eps=0.1)


def spec(model: str = "flatlens:cnn", **more: Any) -> dict[str, Any]:
    return RunSpec(model=model, data="flatlens:digits", eps=0.3, **more).resolved().to_dict()


def cell(k: int, values: dict[str, Any], of: dict[str, Any], **more: Any) -> DrawnCell:
    return DrawnCell(f"{k:016x}", values, of, f"cells/{k:016x}/report.html", "done", **({"seconds": 1.5 + k} | more))


def digests() -> list[dict[str, Any]]:
    """Of three runs."""
    return [digest(make_trace(40, 12, ("head", "conv1"), seed=k, images="none")) for k in range(3)]


def axes(defence: str) -> dict[str, Any]:
    """A recipe as the settings that it chooses."""
    return {axis: value for axis, value in resolved(defence, {}).items() if value is not None}


def reached(
    kappa: float | None = 6.0, worst: float = 0.4, *, clean: float | None = 0.95, n: int = 400, **more: Any
) -> dict[str, Any]:
    """What a record of a training tells of it, as a run's manifest has it."""

    def share(value: float | None) -> dict[str, Any]:
        found = {} if value is None else wilson(round(n * value), n)._asdict()
        return {key: found.get(key) for key in ("value", "low", "high", "n")}

    return {
        "clean": share(clean), "worst": share(worst), "pgd": share(worst), "loss_gap": {"value": 1.2, "low": 1.0},
        "kappa": None if kappa is None else {"value": kappa, "low": kappa / 2, "high": 2 * kappa, "n": n},
        "lipschitz": 20.0, "masked": False, "eps": 0.1, "norm": "linf", "step_seconds": 0.01, "alarms": [],
    } | more  # fmt: skip


def defended(of: dict[str, Any]) -> list[DrawnCell]:
    """Six defences with two seeds each: the sharper ones are the more robust, and the last masks its gradients."""
    return [
        cell(2 * k + seed, spec(train=TrainSpec(epochs=3, seed=seed, eps=0.1, **axes(name))), of, trained=reached(
            10.0 ** (k - 2) * (1 + seed / 2), 0.35 + 0.07 * k + 0.02 * seed, masked=name == "pgd" and seed == 1,
            lipschitz=10.0 ** (4 - k / 2) * (1 + seed / 2),
        ))
        for k, name in enumerate(("fam", "none", "sam", "gradient", "trades", "pgd"))
        for seed in (0, 1)
    ]  # fmt: skip


def six(found: list[dict[str, Any]]) -> list[DrawnCell]:
    """Two trainings of two models, one failure, one that waits."""
    done = [
        cell(2 * m + r, spec(model, train=ROBUST if r else TrainSpec(epochs=3)), found[(m + r) % 3])
        for m, model in enumerate(("flatlens:cnn", "flatlens:mlp"))
        for r in (0, 1)
    ]
    failed = DrawnCell("f" * 16, spec("flatlens:vit-tiny"), None, None, "failed", "heads=3 does not divide width=16")
    return [*done, failed, DrawnCell("e" * 16, spec("flatlens:vgg11-bn"), None, None, "waiting")]


def hostile() -> list[DrawnCell]:
    """Every name and every message is markup that a browser would run."""
    found = digest(make_trace(12, 5, images="none", layers=(HOSTILE,), controls=(HOSTILE,)))
    found["cautions"] = [{"code": HOSTILE, "message": HOSTILE}]
    bad = [cell(k, spec() | {"model": HOSTILE + str(k), "train": {"adversarial": HOSTILE * k}}, found) for k in (0, 1)]
    return [*bad, DrawnCell(HOSTILE, spec() | {"model": HOSTILE}, None, HOSTILE, "failed", HOSTILE)]
