"""A watched block gives what the same attack gives when it is handed over, and leaves everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import foolbox
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchattacks
from foolbox import attacks as fb
from torch import Tensor, nn

import flatlens as fl
from flatlens import datasets, models
from flatlens.errors import AttackError, DataError, FlatlensError, LayerError, ModelError, RunError, SpecError
from tests.expected import cautioned

pytestmark = cautioned(
    "end-not-told", "flat-because-confident", "low-accuracy", "not-converged", "stopped-early", "too-large"
)

N = 12
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return models.load("flatlens:digits-cnn", shape=(1, 8, 8), classes=10).model


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    found = datasets.load("flatlens:digits")
    return torch.from_numpy(found.x)[:N], torch.from_numpy(found.y)[:N]


def by_hand(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """From a random start, five signed steps."""
    adv = (x + 0.1 * torch.empty_like(x).uniform_(-1, 1)).clamp(0, 1)
    for _ in range(5):
        adv = adv.detach().requires_grad_()
        slope = torch.autograd.grad(F.cross_entropy(model(adv), y), adv)[0]
        adv = x + (adv + 0.05 * slope.sign() - x).clamp(-0.2, 0.2)
        adv = adv.clamp(0, 1)
    return adv.detach()


def of_torchattacks(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    found: Tensor = torchattacks.PGD(model, eps=0.2, alpha=0.05, steps=5)(x, y)
    return found


def several_a_step(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    found: Tensor = torchattacks.VMIFGSM(model, eps=0.2, steps=3, N=2)(x, y)
    return found


def of_foolbox(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    found: Tensor = fb.L2PGD(steps=5)(wrapped, x, y, epsilons=1.0)[1]
    return found


KINDS: dict[str, tuple[Attack, dict[str, Any]]] = {
    "by hand": (by_hand, {"eps": 0.2}),
    "torchattacks": (of_torchattacks, {"eps": 0.2}),
    "several gradients a step": (several_a_step, {"eps": 0.2, "calls_per_step": 3}),
    "foolbox": (of_foolbox, {"eps": 1.0, "norm": "l2"}),
}


def same(one: fl.Trace, other: fl.Trace) -> None:
    assert one.steps.equals(other.steps) and one.layers.equals(other.layers)
    assert one.images is not None and other.images is not None
    assert all(np.array_equal(a, b) for a, b in zip(one.images, other.images, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_what_the_same_attack_gives_when_it_is_handed_over(
    kind: str, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    attack, known = KINDS[kind]
    torch.manual_seed(3)
    expected = fl.trace(model, *batch, attack=fl.attacks.recorded(attack, **known), layers="all", images="all")
    after = torch.rand(2)
    torch.manual_seed(3)
    with fl.watch(model, *batch, layers="all", images="all", **known) as seen:
        adv = attack(model, *batch)
        seen.returned(adv)
    assert torch.equal(torch.rand(2), after), "torch's random state is what the attack left"
    same(seen.trace, expected)
    assert torch.equal(torch.from_numpy(seen.trace.x_adv), adv)
    assert [c.code for c in seen.trace.cautions] == [c.code for c in expected.cautions]
    assert seen.trace.spec["eps"] == expected.spec["eps"] and seen.trace.spec["norm"] == expected.spec["norm"]
    assert repr(seen) == f"Watched({seen.trace!r})"


def test_several_batches_in_the_block_are_the_samples_in_their_order(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    def in_parts(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        parts = [by_hand(model, a, b) for a, b in zip(x.split(5), y.split(5), strict=True)]
        return torch.cat(parts)

    torch.manual_seed(3)
    expected = fl.trace(model, *batch, attack=in_parts, images="all", batch_size=N)
    torch.manual_seed(3)
    # The batches that are measured need not be those that were attacked.
    with fl.watch(model, *batch, images="all", batch_size=7, controls="line-to-end") as seen:
        seen.returned(in_parts(model, *batch).numpy())
    assert seen.trace.last_steps().tolist() == expected.last_steps().tolist() == [6] * N
    assert np.array_equal(seen.trace.images.x, expected.images.x)
    for column in ("loss", "relative_flatness"):
        np.testing.assert_allclose(seen.trace.matrix(column).values, expected.matrix(column).values, rtol=1e-4)
    # A control takes as many steps as the attack was seen to take.
    assert seen.trace.matrix("loss", path="line-to-end").values.shape[1] == 7


def test_without_what_was_returned_a_path_ends_at_the_last_gradient(
    model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    torch.manual_seed(3)
    with fl.watch(model, *batch, images="all", name="mine") as whole:
        whole.returned(by_hand(model, *batch))
    torch.manual_seed(3)
    with (
        pytest.warns(fl.CautionWarning, match=f"end-not-told: .* for {N} of {N} samples") as told,
        fl.watch(model, *batch, name="mine") as seen,
    ):
        by_hand(model, *batch)
    assert {Path(one.filename).name for one in told} == {Path(__file__).name}, "the warning is of the user's line"
    assert (seen.trace.last_steps() == 5).all() and (whole.trace.last_steps() == 6).all()
    assert np.array_equal(seen.trace.matrix("loss").values, whole.trace.matrix("loss").values[:, :6])
    assert seen.trace.spec["attack"] == "mine"


def test_it_is_saved_as_a_trace_is(model: nn.Module, batch: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    with fl.watch(model, *batch, out=tmp_path / "run") as seen:
        seen.returned(by_hand(model, *batch))
    assert fl.open(tmp_path / "run").steps.equals(seen.trace.steps)


# --- nothing is left behind ----------------------------------------------------------------------------------------


class PlannedError(Exception):
    """Raised in a block on purpose."""


def test_the_model_is_given_back_as_it_was_and_an_error_comes_out_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)).eval()
    model[0].bias.requires_grad_(False)
    x, y = torch.rand(5, 1, 8, 8), torch.arange(5) % 4
    F.cross_entropy(model(x), y).backward()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    required = [p.requires_grad for p in model.parameters()]
    error = PlannedError("the user's own")

    def touch() -> None:
        model.train()
        model.requires_grad_(True)
        F.cross_entropy(model(x.clone().requires_grad_()), y).backward()

    for fails in (False, True):
        if fails:
            with pytest.raises(PlannedError) as raised, fl.watch(model, x, y) as seen:
                touch()
                raise error
            assert raised.value is error and raised.value.__cause__ is None
            with pytest.raises(AttackError, match="nothing was measured: the watched block ended in an error"):
                _ = seen.trace
            assert repr(seen) == "Watched(over)"
        else:
            with fl.watch(model, x, y) as seen:
                assert repr(seen) == "Watched(running)"
                with pytest.raises(AttackError, match="measured when the watched block ends"):
                    _ = seen.trace
                touch()
            assert seen.trace.steps.num_rows
        assert not any(m.training for m in model.modules())
        assert not model._forward_pre_hooks and not model._forward_pre_hooks_with_kwargs
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert [p.requires_grad for p in model.parameters()] == required
        for p, was in zip(model.parameters(), gradients, strict=True):
            assert (p.grad is None) == (was is None) and (was is None or torch.equal(p.grad, was))
    with pytest.raises(AttackError, match="the watched block is over"):
        seen.returned(x)


# --- what cannot be --------------------------------------------------------------------------------------------------


def never(model: nn.Module, x: Tensor, y: Tensor) -> None:
    pass


def only_looks(model: nn.Module, x: Tensor, y: Tensor) -> None:
    model(x), model(x)


def round_the_hook(model: nn.Module, x: Tensor, y: Tensor) -> None:
    model.forward(x.clone().requires_grad_())


def shuffled(model: nn.Module, x: Tensor, y: Tensor) -> None:
    by_hand(model, x.flip(0), y.flip(0))


def copies(model: nn.Module, x: Tensor, y: Tensor) -> None:
    by_hand(model, x.repeat(2, 1, 1, 1), y.repeat(2))


def cropped(model: nn.Module, x: Tensor, y: Tensor) -> None:
    model(F.pad(x, (1, 1, 1, 1)).requires_grad_())


def other_units(model: nn.Module, x: Tensor, y: Tensor) -> None:
    model((255 * x).requires_grad_())


IN_THE_BLOCK: dict[str, tuple[Any, str]] = {
    "nothing": (never, r"no input that requires a gradient \(no call at all\)"),
    "no gradient": (only_looks, r"no input that requires a gradient \(2 calls without one\)"),
    "forward": (round_the_hook, "call the watched object itself, not its .forward"),
    "another order": (shuffled, f"cannot be given to the {N} samples .*; watch one batch at a time"),
    "too many rows": (copies, f"calls the model on {2 * N} rows for {N} samples"),
    "another shape": (cropped, r"inputs of shape \(12, 1, 10, 10\) for samples of shape \(1, 8, 8\)"),
    "other units": (other_units, "outside the bounds"),
}


@pytest.mark.parametrize("what", IN_THE_BLOCK)
def test_a_block_that_cannot_be_measured_is_told_in_one_line(what: str, batch: tuple[Tensor, Tensor]) -> None:
    attack, said = IN_THE_BLOCK[what]
    model = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(64, 10)).eval()
    with pytest.raises(AttackError, match=said) as raised, fl.watch(model, *batch):
        attack(model, *batch)
    assert "\n" not in str(raised.value)


def test_weights_that_change_are_not_measured(batch: tuple[Tensor, Tensor]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    said = r"weights change in the watched block \('1.weight'\)"
    with pytest.raises(ModelError, match=said), fl.watch(model, *batch):
        by_hand(model, *batch)
        with torch.no_grad():
            model[1].weight.mul_(1.1)


BEFORE: dict[str, tuple[dict[str, Any], type[FlatlensError], str]] = {
    "a layer": ({"layers": "fx"}, LayerError, "no layer 'fx'"),
    "a keyword": ({"layerz": "head"}, SpecError, "no keyword 'layerz'.*Did you mean 'layer"),
    "a normalisation": ({"normalize": (0.5, 0.5)}, SpecError, "watch fl.normalized"),
    "a norm": ({"norm": "l3"}, SpecError, "no norm 'l3'"),
    "a radius": ({"eps": "big"}, SpecError, "eps='?.*needs a number"),
    "calls": ({"calls_per_step": -1}, AttackError, "calls_per_step = -1"),
    "names of classes": ({"labels": ["one"]}, DataError, "1 names for 10 classes"),
    "batches": ({"batch_size": -3}, SpecError, "batch_size=-3"),
    "labels": ({"y": torch.full((N,), 99)}, DataError, "99"),
    "no model": ({"model": "flatlens:digits-cnn"}, ModelError, "give the torch.nn.Module that the block calls"),
    "a folder": ({"out": "."}, RunError, "'.'"),
}


@pytest.mark.parametrize("what", BEFORE)
def test_what_cannot_be_is_refused_before_the_attack(what: str, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    given, error, said = BEFORE[what]
    with pytest.raises(error, match=said), fl.watch(**{"model": model, "x": batch[0], "y": batch[1]} | given):
        pytest.fail("the attack ran")  # pragma: no cover


@pytest.mark.parametrize("value", [torch.zeros(N, 1, 8, 7), [1, 2], None])
def test_what_was_returned_has_the_shape_of_the_inputs(
    value: Any, model: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    said = r"adversarial inputs of shape \(12, 1, 8, 8\) are needed"
    with pytest.raises(AttackError, match=said), fl.watch(model, *batch) as seen:
        seen.returned(value)
