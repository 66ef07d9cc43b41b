"""The loop: what is measured equals what a plain computation gives, whatever the batches, and twice the same."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

import flatlens as fl
from flatlens.errors import AttackError, DataError, SpecError
from flatlens.records.schema import LAYERS, STEPS
from flatlens.records.trajectory import Trace
from tests.attacks.test_attacks import data, net
from tests.expected import cautioned

pytestmark = cautioned("low-accuracy")

CURVATURES = [f.name for f in LAYERS if pa.types.is_floating(f.type)]
PGD = fl.attacks.PGD(eps=0.1, steps=6)


def run(**options: object) -> Trace:
    settings: dict[str, object] = {"attack": PGD, "controls": ["line-to-other-class", "gaussian-noise"], **options}
    return fl.trace(net(), *data(), **settings)  # type: ignore[arg-type]


def columns(table: pa.Table) -> dict[str, np.ndarray]:
    """A table's columns in the order of path, sample, step."""
    ordered = table.sort_by([(key, "ascending") for key in ("path", "sample", "step")])
    return {name: ordered[name].to_numpy(zero_copy_only=False) for name in ordered.column_names}


def test_every_row_equals_a_plain_computation() -> None:
    model, (x, y) = net(), data()
    trace = fl.trace(model, x, y, attack=PGD, images="all")
    assert trace.images is not None and trace.images.x.shape == (9 * 7, 1, 8, 8)
    points = torch.from_numpy(trace.images.x).double().view(9, 7, 1, 8, 8)
    torch.testing.assert_close(points[:, 0], x, rtol=0, atol=1e-7)
    for step in range(7):
        with torch.no_grad():
            z = model(points[:, step])
        p = z.softmax(1)
        expected = {
            "loss": torch.nn.functional.cross_entropy(z, y, reduction="none"),
            "confidence": p.amax(1),
            "entropy": -(p * p.log()).sum(1),
            "margin": torch.stack([z[i, k] - torch.cat([z[i, :k], z[i, k + 1 :]]).max() for i, k in enumerate(y)]),
            "linf": (points[:, step] - x).abs().amax((1, 2, 3)),
            "l2": (points[:, step] - x).square().sum((1, 2, 3)).sqrt(),
        }
        for name, values in expected.items():
            # The images are stored in float32.
            np.testing.assert_allclose(trace.matrix(name).values[:, step], values, rtol=1e-5, atol=1e-6, err_msg=name)
        assert (trace.matrix("prediction").values[:, step] == z.argmax(1).numpy()).all()
        found = fl.curvature(model, points[:, step], y)
        for name in ("trace", "relative_flatness", "top_eigenvalue"):
            np.testing.assert_allclose(
                trace.matrix(name, layer="head").values[:, step], getattr(found, name), rtol=1e-5, err_msg=name
            )


def test_input_gradient_norm_is_of_this_step_and_null_at_the_end() -> None:
    model, (x, y) = net(), data()
    norms = fl.trace(model, x, y, attack=PGD).matrix("input_grad_norm").values
    leaf = x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(model(leaf), y, reduction="sum").backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(norms[:, 0], leaf.grad.flatten(1).norm(dim=1), rtol=1e-10)
    assert np.isfinite(norms[:, :-1]).all() and np.isnan(norms[:, -1]).all()
    table = fl.trace(model, x, y, attack=PGD, controls=["gaussian-noise"]).steps
    assert table["input_grad_norm"].null_count == 9 * (1 + 7)


@pytest.mark.parametrize("size", [1, 7])
def test_batches_do_not_matter_in_float64(size: int) -> None:
    whole, cut = run(batch_size=9), run(batch_size=size)
    for table in ("steps", "layers"):
        a, b = columns(getattr(whole, table)), columns(getattr(cut, table))
        for name in a:
            if a[name].dtype == float:
                np.testing.assert_allclose(a[name], b[name], rtol=1e-9, atol=1e-12, err_msg=name)
            else:
                assert (a[name] == b[name]).all() or (a[name] != a[name]).all(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_twice_is_bit_equal(dtype: torch.dtype) -> None:
    attack = fl.attacks.PGD(eps=0.1, steps=6, random_start=True)
    one, two = run(attack=attack, dtype=dtype), run(attack=attack, dtype=dtype)
    assert one.steps.equals(two.steps) and one.layers.equals(two.layers)
    assert one.images is not None and two.images is not None
    assert np.array_equal(one.images.x, two.images.x)
    other = run(attack=attack, dtype=dtype, seed=1)
    assert not one.steps.equals(other.steps)


def test_schema_and_paths() -> None:
    trace = run()
    assert trace.steps.schema.equals(STEPS) and trace.layers.schema.equals(LAYERS)
    assert trace.paths == ("attack", "line-to-other-class", "gaussian-noise")
    assert trace.steps.num_rows == trace.layers.num_rows == 3 * 9 * 7
    assert set(trace.layers["method"].to_pylist()) == {"closed-form"}
    assert trace.to_pandas("layers").relative_flatness.notna().all()


def test_controls_go_where_they_say() -> None:
    x, y = data()
    trace = run()
    for name in trace.paths:
        size = trace.matrix("linf", path=name).values
        assert (size[:, 0] == 0).all()
    noise = trace.matrix("linf", path="gaussian-noise").values
    assert (noise[:, -1] <= 0.1 * (1 + 1e-12)).all() and noise[:, -1].max() > 0.09
    line = trace.matrix("l2", path="line-to-other-class").values
    np.testing.assert_allclose(np.diff(line, axis=1), line[:, -1:] / 6 * np.ones(6), rtol=1e-9)
    ends = [float((x[j] - x[i]).norm()) for i in range(9) for j in range(9) if y[i] != y[j]]
    assert all(np.isclose(ends, value).any() for value in line[:, -1])


def test_key_images_are_those_of_the_key_steps() -> None:
    key, everything = run(), run(images="all")
    assert key.images is not None and everything.images is not None
    stored = {
        (int(s), int(t)): v
        for s, t, v in zip(everything.images.sample, everything.images.step, everything.images.x, strict=True)
    }
    valley = key.valley()
    flipped = key.matrix("flipped").values
    for i in range(9):
        steps = key.images.step[key.images.sample == i]
        first = int(flipped[i].argmax()) if flipped[i].any() else 0
        assert set(steps) == {0, first, int(valley.peak_step[i]), 6}
    for s, t, v in zip(key.images.sample, key.images.step, key.images.x, strict=True):
        assert np.array_equal(stored[int(s), int(t)], v)
    np.testing.assert_allclose(key.images.probabilities.sum(1), 1, rtol=1e-5)
    assert np.array_equal(key.x_adv, everything.x_adv)


def test_targeted() -> None:
    model, (x, y) = net(), data()
    for target, wanted in (("next", (y + 1) % 10), (3, torch.full_like(y, 3))):
        trace = fl.trace(model, x, y, attack=fl.attacks.PGD(eps=0.5, steps=20, target=target))
        predicted, flipped = trace.matrix("prediction").values, trace.matrix("flipped").values
        assert (flipped == (predicted == wanted.numpy()[:, None])).all()
        assert (trace.matrix("target").values[:, 0] == wanted.numpy()).all()
        before, after = (model(torch.as_tensor(at).double()).log_softmax(1) for at in (x, trace.x_adv))
        assert (after.gather(1, wanted[:, None]) > before.gather(1, wanted[:, None])).all()
    least = fl.trace(model, x, y, attack=fl.attacks.PGD(eps=0.1, steps=1, target="least-likely"))
    assert (least.matrix("target").values[:, 0] == model(x).argmin(1).numpy()).all()
    with pytest.raises(AttackError, match="target 10: this model has the labels 0 … 9"):
        fl.trace(model, x, y, attack=fl.attacks.PGD(target=10))


def test_success_is_confirmed_on_the_users_own_model() -> None:
    confirmed = run().steps["confirmed"]
    assert confirmed.null_count == 3 * 9 * 7 - 9
    assert all(confirmed.drop_null().to_pylist())


def test_curvature_of_a_list_is_a_dictionary() -> None:
    x, y = data()
    one, several = fl.curvature(net(), x, y, layer="head"), fl.curvature(net(), x, y, layer=["head"])
    assert torch.equal(one.trace, several["head"].trace)
    assert one.spectrum.shape == (9, 9) and one.trace.dtype == torch.float64
    torch.testing.assert_close(one.spectrum.sum(1), one.trace, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x, y + 5), "label 13 of sample 1 is out of range: the model has 10 classes, 0 … 9"),
        (lambda x, y: (x, -y - 1), "is negative; labels are 0"),
        (lambda x, y: (x, y.double()), "labels have shape (9,) and type torch.float64"),
        (lambda x, y: (x, y[:3]), "labels have shape (3,)"),
        (lambda x, y: (x[:0], y[:0]), "there are no samples"),
        (lambda x, y: ((255 * x).to(torch.uint8), y), "inputs are torch.uint8; give floating-point"),
        (
            lambda x, y: (x.index_put((torch.tensor(2),), torch.tensor(torch.nan).double()), y),
            "inputs of 1 samples hold NaN or inf, first sample 2",
        ),
    ],
)
def test_says_what_is_wrong_with_the_data(change: object, said: str) -> None:
    with pytest.raises(DataError) as error:
        fl.trace(net(), *change(*data()))  # type: ignore[operator]
    assert said in str(error.value) and "\n" not in str(error.value)


def test_text_has_no_matrix() -> None:
    trace = fl.trace(net(), *data(), attack=fl.attacks.PGD(eps=0.1, steps=1))
    for column in ("kind", "path", "method", "layer"):
        with pytest.raises(SpecError, match=f"column '{column}' holds text, which has no matrix"):
            trace.matrix(column)


def test_one_class_has_no_line_to_another() -> None:
    x, y = data()
    with pytest.raises(AttackError, match="finds only images of class 1"):
        fl.trace(net(), x, torch.ones_like(y), controls=["line-to-other-class"])
