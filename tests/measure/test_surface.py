"""Surfaces against the tables, against each point computed by itself, and for every kind of run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flatlens as fl
from flatlens.errors import StaleRunError
from flatlens.hessian.softmax import softmax
from flatlens.hessian.weight_plane import _spread, eigenvectors, over_plane, squared_distances
from flatlens.measure import run as execute
from flatlens.measure.plan import plan
from flatlens.measure.planes import Plane, axis
from flatlens.records import runs
from flatlens.records.surfaces import NOISE, OF_ANOTHER, OF_CLASS, SECOND_EIGENVECTOR, TO_CLEAN, TO_END, Surfaces
from flatlens.specs.run import RunSpec

DEMO = RunSpec(
    "flatlens:digits-cnn", "flatlens:digits", eps=0.3, steps=10, limit=30, control=("line-to-other-class",),
    images="all", surface=True, device="cpu", batch_size=8,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fl.CautionWarning)
        yield


def whole_run(folder: Path, spec: RunSpec) -> fl.Trace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fl.CautionWarning)
        return execute.run(spec, folder).trace()


@pytest.fixture(scope="module", params=["float32", "float64"])
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> fl.Trace:
    spec = RunSpec(**(DEMO.__dict__ | {"dtype": request.param}))
    return whole_run(tmp_path_factory.mktemp("surface") / "run", spec)


def surfaces(trace: fl.Trace) -> Surfaces:
    assert trace.surfaces is not None
    return trace.surfaces


def at(trace: fl.Trace, column: str, sample: int, step: int) -> float:
    found = trace.matrix(column, path="attack")
    return float(found.values[np.flatnonzero(found.sample == sample)[0], step])


def kept(trace: fl.Trace, sample: int, step: int) -> np.ndarray[Any, Any]:
    assert trace.images is not None
    row = np.flatnonzero((trace.images.sample == sample) & (trace.images.step == step))[0]
    return trace.images.x[row].astype(np.float64).ravel()


def model() -> nn.Module:
    return fl.models.load(DEMO.model, shape=(1, 8, 8), classes=10).model


# ---- numbers ----------------------------------------------------------------------------------------


def test_values_at_clean_and_end_are_the_tables(demo: fl.Trace) -> None:
    last = dict(zip(demo.matrix("loss").sample.tolist(), demo.last_steps().tolist(), strict=True))
    for one in surfaces(demo):
        for k, step in enumerate((0, last[one.sample])):
            corners = one.input.corners
            assert corners.kappa[k] == pytest.approx(at(demo, "relative_flatness", one.sample, step), rel=1e-9)
            assert corners.loss[k] == pytest.approx(at(demo, "loss", one.sample, step), abs=1e-9)
            assert corners.prediction[k] == at(demo, "prediction", one.sample, step)
        for plane in one.weights:
            middle = len(plane.t) // 4, len(plane.s) // 2
            assert plane.t[middle[0]] == 0 and plane.s[middle[1]] == 0
            assert plane.kappa[middle] == pytest.approx(at(demo, "relative_flatness", one.sample, plane.step), rel=1e-9)


def test_the_grid_has_clean_and_end_among_its_points(demo: fl.Trace) -> None:
    rel = 1e-9 if demo.spec["dtype"] == "float64" else 2e-4  # a pass of other points rounds otherwise
    for one in surfaces(demo):
        plane = one.input
        for k in (0, 1):
            u, v = plane.corners.at[k]
            i, j = np.abs(plane.v - v).argmin(), np.abs(plane.u - u).argmin()
            assert abs(plane.u[j] - u) < 1e-12 and abs(plane.v[i] - v) < 1e-12
            assert plane.kappa[i, j] == pytest.approx(plane.corners.kappa[k], rel=rel)


def test_each_point_of_the_grid_is_what_curvature_says(demo: fl.Trace) -> None:
    one = list(surfaces(demo))[3]
    plane, (clean, end) = one.input, (kept(demo, one.sample, 0), kept(demo, one.sample, 10))
    e1 = (end - clean) / np.linalg.norm(end - clean)
    third = plane.third.x.astype(np.float64).ravel() - clean
    e2 = third - (third @ e1) * e1
    e2 /= np.linalg.norm(e2)
    dtype = getattr(torch, demo.spec["dtype"])
    rows, columns = np.array([0, 7, 20, 33, 40]), np.array([40, 3, 20, 15, 0])
    x = np.stack([clean + plane.u[j] * e1 + plane.v[i] * e2 for i, j in zip(rows, columns, strict=True)])
    label = int(at(demo, "label", one.sample, 0))
    batch, y = torch.from_numpy(x).to(dtype).view(-1, 1, 8, 8), torch.full((5,), label)
    net = model().to(dtype)
    # Iterates are kept in float32: of a float64 run the end is known to its rounding only.
    rel = 1e-4
    found = fl.curvature(net, batch, y)
    assert plane.kappa[rows, columns] == pytest.approx(found.relative_flatness.numpy(), rel=rel)
    with torch.no_grad():
        logits = net(batch).double()
    assert plane.prediction[rows, columns].tolist() == logits.argmax(1).tolist()
    loss = F.cross_entropy(logits, y, reduction="none").numpy()
    assert plane.loss[rows, columns] == pytest.approx(loss, rel=rel, abs=1e-9)


def test_iterates_lie_where_they_are_projected(demo: fl.Trace) -> None:
    for one in surfaces(demo):
        clean, end = kept(demo, one.sample, 0), kept(demo, one.sample, 10)
        e1 = (end - clean) / np.linalg.norm(end - clean)
        third = one.input.third.x.astype(np.float64).ravel() - clean
        e2 = third - (third @ e1) * e1
        e2 /= np.linalg.norm(e2)
        way = one.input.ways["attack"]
        assert way.step.tolist() == list(range(11))
        for step, (u, v), off in zip(*way, strict=True):
            away = kept(demo, one.sample, int(step)) - clean
            assert (u, v) == pytest.approx((away @ e1, away @ e2), abs=2e-6)
            assert off == pytest.approx(np.linalg.norm(away - (away @ e1) * e1 - (away @ e2) * e2), abs=2e-6)
        assert way.off[0] == 0 and way.off[-1] < 1e-9 and way.off[1:-1].max() > 1e-3
        assert way.at[-1] == pytest.approx([np.linalg.norm(end - clean), 0], abs=2e-6)
        line = one.input.ways["line-to-other-class"]
        assert len(line.step) == 11 and line.at[0] == pytest.approx([0, 0], abs=1e-12)
        # A straight line stays one, and is walked in equal steps.
        assert np.diff(line.at, axis=0) == pytest.approx(
            np.broadcast_to(np.diff(line.at, axis=0)[0], (10, 2)), abs=1e-6
        )
        for axis_, points in ((one.input.u, 0), (one.input.v, 1)):
            for shown in (way.at, line.at, one.input.corners.at):
                assert axis_[0] < shown[:, points].min() and shown[:, points].max() < axis_[-1]


def test_the_third_point_is_the_nearest_of_the_class_that_the_end_is_predicted_as(demo: fl.Trace) -> None:
    data = fl.datasets.load(DEMO.data)
    flat = data.x.reshape(len(data.x), -1).astype(np.float64)
    for one in surfaces(demo):
        third, predicted = one.input.third, one.input.corners.prediction[1]
        label = int(at(demo, "label", one.sample, 0))
        distance = np.linalg.norm(flat - kept(demo, one.sample, 0), axis=1)
        if predicted == label:
            assert third.kind == OF_ANOTHER and third.label != label
            continue
        assert third.kind == OF_CLASS and third.label == predicted == data.y[third.sample]
        among = np.flatnonzero(data.y == predicted)
        assert third.sample == among[distance[among].argmin()]
        assert np.array_equal(third.x, data.x[third.sample])


def test_weight_planes_lead_to_the_attacked_logits(demo: fl.Trace) -> None:
    """At t = 1 the network with the other weight says at the first input what the old one says at the second."""
    net = model().to(getattr(torch, demo.spec["dtype"]))
    head = (
        net[-1]
        if isinstance(net, nn.Sequential)
        else next(m for m in reversed(list(net.modules())) if isinstance(m, nn.Linear))
    )
    features: list[Tensor] = []
    head.register_forward_hook(lambda _, given, __: features.append(given[0].detach().double()))
    weight, bias = head.weight.detach().double(), head.bias.detach().double()
    flips = 0
    for one in surfaces(demo):
        steps = {plane.moment: plane.step for plane in one.weights}
        assert set(steps) >= {"clean", "end"} and steps["end"] == 10
        flips += "flip" in steps
        label = int(at(demo, "label", one.sample, 0))
        for plane in one.weights:
            features.clear()
            other = steps["end"] if plane.toward == TO_END else 0
            assert plane.toward == (TO_CLEAN if plane.moment == "end" else TO_END)
            points = np.stack([kept(demo, one.sample, step) for step in (plane.step, other)]).reshape(2, 1, 8, 8)
            with torch.no_grad():
                net(torch.from_numpy(points).to(head.weight.dtype))
            a, b = features[0]
            # Recorded passes were of other batches, and in a float64 run inputs are kept in float32.
            tolerance = {"rel": 1e-4, "abs": 1e-5}
            d = weight @ (b - a)
            assert plane.length == pytest.approx(float(d.norm() / a.norm()), rel=1e-4)
            q = eigenvectors(softmax((weight @ a + bias)[None]))[:, 0]
            grad = torch.softmax(weight @ a + bias, 0) - F.one_hot(torch.tensor(label), 10)
            q = q if float(q @ grad) >= 0 else -q
            for i, j in ((0, 0), (10, 20), (30, 20), (30, 33), (40, 40)):
                changed = weight + torch.outer(plane.s[j] * q + plane.t[i] * d / a.norm(), a / a.norm())
                logits = changed @ a + bias
                assert plane.loss[i, j] == pytest.approx(
                    float(F.cross_entropy(logits, torch.tensor(label))), **tolerance
                )
                p = torch.softmax(logits, 0)
                spread = (p * (changed - p @ changed).square().sum(1)).sum()
                assert plane.kappa[i, j] == pytest.approx(float(a @ a * spread), rel=5e-4, abs=1e-12)
            assert plane.t[30] == pytest.approx(1) and plane.loss[30, 20] == pytest.approx(
                at(demo, "loss", one.sample, other), **tolerance
            )
    assert flips > 3


# ---- the closed form over weights -------------------------------------------------------------------


def head_of(classes: int, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, width, generator=g, dtype=torch.float64)
    return weight, torch.randn(classes, generator=g, dtype=torch.float64), torch.randn(width, generator=g).double()


@pytest.mark.parametrize("many", [False, True], ids=["pairs", "many classes"])
def test_over_a_plane_is_the_hessian_of_the_changed_head(many: bool) -> None:
    """κ from the dense Hessian at the changed weight, by its definition; t = 1 gives the other logits to 1e-9."""
    weight, bias, a = head_of(4)
    b = a + torch.linspace(-2, 3, 5, dtype=torch.float64)
    q, r = eigenvectors(softmax((weight @ a + bias)[None]))[:, 0], weight @ (b - a) / a.norm()
    s, t = torch.tensor([-0.7, 0.0, 1.3], dtype=torch.float64), torch.tensor([-0.5, 0.0, 1.0], dtype=torch.float64)
    found = over_plane(weight, bias, a, 2, q, r, s, t, distances=None if many else squared_distances(weight))
    torch.testing.assert_close(found.logits[2, 1], weight @ b + bias, rtol=1e-9, atol=1e-9)
    for i in range(3):
        for j in range(3):
            changed = weight + torch.outer(s[j] * q + t[i] * r, a / a.norm())

            def loss(w: Tensor) -> Tensor:
                return F.cross_entropy((w @ a + bias)[None], torch.tensor([2]))

            hessian = torch.func.hessian(loss)(changed)
            kappa = torch.einsum("si,ti,sjtj->", changed, changed, hessian)
            torch.testing.assert_close(found.kappa[i, j], kappa, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(found.loss[i, j], loss(changed), rtol=1e-12, atol=1e-14)


def test_the_first_direction_is_the_hessian_s_top_eigenvector() -> None:
    weight, bias, a = head_of(6)
    hessian = torch.func.hessian(lambda w: F.cross_entropy((w @ a + bias)[None], torch.tensor([1])))(weight)
    q = eigenvectors(softmax((weight @ a + bias)[None]))
    vectors = torch.linalg.eigh(hessian.reshape(30, 30)).eigenvectors
    for k in (0, 1):
        own = torch.outer(q[:, k], a / a.norm()).flatten()
        assert abs(float(own @ vectors[:, -1 - k])) == pytest.approx(1, abs=1e-9)


def test_eigenvectors_hold_in_saturation_and_of_many_classes() -> None:
    logits = torch.tensor([[600.0, 0.0, -50.0]], dtype=torch.float64)
    first = eigenvectors(softmax(logits))[:, 0]
    assert first.abs().tolist() == pytest.approx([0.5**0.5, 0.5**0.5, 0], abs=1e-9)
    found = eigenvectors(softmax(torch.linspace(0, 20, 3000, dtype=torch.float64)[None]))
    assert found.shape == (3000, 2) and found.norm(dim=0).tolist() == pytest.approx([1, 1])


def test_many_classes_have_the_same_spread() -> None:
    weight, _, _ = head_of(50, 7)
    p = torch.softmax(5 * torch.randn(9, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64), 1)
    pairs = squared_distances(weight)
    assert pairs is not None
    torch.testing.assert_close(_spread(p, weight), 0.5 * ((p @ pairs) * p).sum(1), rtol=1e-10, atol=0)


# ---- geometry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", [0.0, 1e-6, 0.3, 1.0, 7.0])
@pytest.mark.parametrize("shown", [[0.0, 0.0], [-1.0, 2.0], [0.0, 1.0], [-30.0, 0.1], [1e-9, 2e-9]])
def test_an_axis_shows_all_and_has_nought(on: float, shown: list[float]) -> None:
    shown = [*shown, on]
    found = axis(np.array(shown), 41, on)
    assert len(found) == 41 and (np.diff(found) > 0).all() and 0 in found
    assert np.diff(found) == pytest.approx(np.full(40, found[1] - found[0]))
    assert found[0] <= min(shown) and found[-1] >= max(shown)
    span = max(*shown, 0) - min(*shown, 0)
    if on > span / 30:
        assert on in found


def test_a_plane_takes_the_first_two_directions_that_differ() -> None:
    o, x, y = torch.zeros(3).double(), torch.tensor([2.0, 0, 0]).double(), torch.tensor([1.0, 3, 0]).double()
    found = Plane.through(o, [0 * x, x, -3 * x, x * torch.nan, y])
    assert found.basis.tolist() == [[1, 0, 0], [0, 1, 0]]
    at, off = found.at(torch.tensor([[1.0, 2, 3]]).double())
    assert at.tolist() == [[1, 2]] and off.tolist() == [3]
    assert Plane.through(o[:1], [x[:1], y[:1]]).basis.tolist() == [[1], [0]]


# ---- kinds of runs ----------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        size = int(np.prod(shape))
        g = torch.Generator().manual_seed(0)
        self.inner, self.fc = nn.Linear(size, 16), nn.Linear(16, classes)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=g)
        self.inner.bias.data.add_(-self.inner.weight.data.sum(1) / 2)  # what is in the middle of the range is undecided
        self.fc.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.inner(x.flatten(1))))


def samples(
    net: nn.Module, n: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    with torch.no_grad():
        return x, net(x).argmax(1)


class Overflowing(Net):
    """Beyond half of the way its features are infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(
            F.relu(self.inner(x.flatten(1))) * torch.where(x.flatten(1).sum(1, keepdim=True) > 2.1, 1e30, 1.0) ** 2
        )


KINDS: dict[str, dict[str, Any]] = {
    "one sample": {"n": 1},
    "two samples of one class": {"n": 2, "one_class": True},
    "no flips": {"eps": 1e-6},
    "one step": {"steps": 1},
    "no step": {"attack": "none"},
    "rgb": {"shape": (3, 4, 4)},
    "vectors": {"shape": (5,)},
    "numbers": {"shape": (1,)},
    "float64": {"dtype": torch.float64},
    "an inner layer": {"layers": "inner"},
    "head after an inner layer": {"layers": ["inner", "head"]},
    "head before an inner layer": {"layers": ["head", "inner"]},
    "no images": {"images": "none"},
    "many batches": {"n": 20, "batch_size": 3},
    "two classes": {"classes": 2},
    "not finite": {"net": Overflowing, "shape": (4,)},
    "best points": {"attack": "apgd-ce"},
    "replayed": {"attack": "recorded"},
    "targeted": {"attack": "targeted"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_has_surfaces(kind: str, tmp_path: Path) -> None:
    how = dict(KINDS[kind])
    shape, dtype = how.pop("shape", (1, 3, 3)), how.pop("dtype", torch.float32)
    net = how.pop("net", Net)(shape, how.pop("classes", 4)).to(dtype).eval()
    n, eps, steps = how.pop("n", 7), how.pop("eps", 0.4), how.pop("steps", 4)
    x, y = samples(net, n, shape, dtype)
    if how.pop("one_class", False):
        y = torch.zeros_like(y)
    pgd = fl.attacks.PGD(eps=eps, steps=steps)
    attacks: dict[str, Any] = {
        "pgd": pgd,
        "none": fl.attacks.along(x[None]),
        "apgd-ce": fl.attacks.find("apgd-ce")(eps=eps, steps=steps),
        "recorded": fl.attacks.recorded(lambda model, x, y: (x + 0.3 * model(x)[:, :1, None, None].sign()).clamp(0, 1)),
        "targeted": fl.attacks.PGD(eps=eps, steps=steps, target="next"),
    }
    attack = attacks[how.pop("attack", "pgd")]
    controls = [] if kind in ("two samples of one class", "one sample", "numbers") else ["line-to-other-class"]
    trace = fl.trace(net, x, y, attack=attack, controls=controls, surface=True, out=tmp_path / "run", **how)
    found = surfaces(trace)
    inner = trace.layer_names[0] == "inner"
    assert len(found) == min(n, 12) and found.tensors["kappa"].shape[1:] == ((21, 21) if inner else (41, 41))
    again = surfaces(fl.open(tmp_path / "run"))
    assert all(np.array_equal(again.tensors[k], v, equal_nan=True) for k, v in found.tensors.items())
    valley = trace.valley()
    flipped = dict(zip(valley.sample.tolist(), valley.flipped.tolist(), strict=True))
    last = trace.last_steps()
    for one in found:
        moments = [plane.moment for plane in one.weights]
        # A head whose input is all zeros has no plane of weights; here none is.
        if kind != "not finite":
            assert inner == (not moments)
        if not inner and kind != "not finite":
            assert moments == (["clean", "flip", "end"] if flipped[one.sample] else ["clean", "end"])
        assert one.input.ways["attack"].step[-1] == last[0]
        assert ("line-to-other-class" in one.input.ways) == bool(controls)
        for k, step in enumerate((0, last[0])):
            table = at(trace, "relative_flatness", one.sample, int(step))
            # Inner layers' corners are of a pass of their own.
            rel = 1e-9 if not inner or dtype == torch.float64 else 1e-3
            assert one.input.corners.kappa[k] == pytest.approx(table, rel=rel, nan_ok=True)
        if kind in ("one sample", "two samples of one class"):
            assert one.input.third.kind == NOISE and one.input.third.sample == one.input.third.label == -1
        if kind == "no step":
            assert {plane.toward for plane in one.weights} == {SECOND_EIGENVECTOR}
        else:
            assert all(plane.toward in (TO_END, TO_CLEAN, SECOND_EIGENVECTOR) for plane in one.weights)
    if kind == "not finite":
        assert not np.isfinite(found.tensors["kappa"]).all()


def test_the_samples_are_spread_over_the_steps_at_which_they_flip(demo: fl.Trace) -> None:
    valley, chosen = demo.valley(), surfaces(demo).sample
    steps = valley.flip_step[np.isin(valley.sample, chosen) & valley.flipped]
    assert len(chosen) == 12 and (np.diff(chosen) > 0).all()
    assert set(steps) >= set(np.unique(valley.flip_step[valley.flipped])[1:-1]) or len(set(steps)) > 3
    # Those that do not flip come only where there are too few of the others.
    assert len(steps) == min(12, int(valley.flipped.sum()))


def test_an_interrupted_run_has_the_same_surfaces(tmp_path: Path) -> None:
    spec = RunSpec(**(DEMO.__dict__ | {"images": "key"}))
    whole = surfaces(whole_run(tmp_path / "whole", spec))
    begun = execute.begin(spec, tmp_path / "cut")
    execute.measure(begun, begun.run.missing()[2:])
    del begun
    cut = whole_run(tmp_path / "cut", spec)
    assert runs.load(tmp_path / "cut").finished
    assert all(np.array_equal(surfaces(cut).tensors[k], v, equal_nan=True) for k, v in whole.tensors.items())


def test_without_it_there_is_none_and_the_spec_is_as_before(tmp_path: Path) -> None:
    spec = RunSpec(**(DEMO.__dict__ | {"surface": False, "limit": 4, "steps": 2}))
    trace = whole_run(tmp_path / "run", spec)
    assert trace.surfaces is None and not (tmp_path / "run" / "surfaces.safetensors").exists()
    text = (tmp_path / "run" / "spec.toml").read_text()
    assert "surface" not in text
    asked = RunSpec(**(spec.__dict__ | {"surface": True}))
    with pytest.raises(StaleRunError, match="surface True instead of False"):
        execute.run(asked, tmp_path / "run")
    assert asked.hash() != spec.hash() and "surface = true" in asked.to_toml()


def test_a_plan_counts_the_surfaces_passes() -> None:
    base = RunSpec(**(DEMO.__dict__ | {"control": (), "batch_size": 30, "layer": ("conv1",)}))
    with_, without = plan(base), plan(RunSpec(**(base.__dict__ | {"surface": False})))
    chunks = -(-12 * 21**2 // 256)
    assert with_.forward_passes - without.forward_passes == 11 + chunks
    assert with_.backward_passes - without.backward_passes == 10 + 9 * chunks
    assert with_.seconds > without.seconds
