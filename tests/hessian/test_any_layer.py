"""The curvature of any layer against dense Hessians, many-digit arithmetic, other libraries, and its invariances."""

from __future__ import annotations

import mpmath as mp
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from flatlens.errors import UsageError
from flatlens.hessian import Curvature
from flatlens.hessian.any_layer import AnyLayer
from flatlens.victims.images import ImageVictim
from flatlens.victims.protocol import Pass
from tests.cases import BY_NAME, CASES, MANY, Case
from tests.oracles import many_digits, truth

MEASURES = ("trace", "relative_flatness", "top_eigenvalue")
LOSSES = {
    "cross-entropy": nn.functional.cross_entropy,
    "mse": lambda z, y: (z - nn.functional.one_hot(y, z.shape[1])).square().sum(),
    "margin": lambda z, y: (z.scatter(1, y[:, None], -torch.inf).amax(1) - z.gather(1, y[:, None])[:, 0]).sum(),
}


def measured(
    model: nn.Module, x: Tensor, y: Tensor, layers: list[str] | None = None, *, fold: bool = True, **options: object
) -> tuple[AnyLayer, dict[str, Curvature], Pass]:
    victim = ImageVictim(model, x, layers=layers or ["all"], fold_norms=fold)
    measure = AnyLayer(victim, x, **options)  # type: ignore[arg-type]
    here = measure.victim(victim.place(x), y)
    return measure, measure(here, spectrum=True), here


def of(case: Case, **options: object) -> tuple[AnyLayer, dict[str, Curvature], nn.Module, Tensor, Tensor]:
    model, (x, y) = case.model(), case.data()
    measure, found, _ = measured(model, x, y, **options)  # type: ignore[arg-type]
    return measure, found, model, x, y


def close(found: Tensor, expected: Tensor, rel: float) -> None:
    torch.testing.assert_close(found, expected, rtol=rel, atol=1e-300)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_which_layers_are_exact_is_found_out(case: Case) -> None:
    measure, found, *_ = of(case)
    for name, (method, exact) in measure.methods.items():
        target = measure.victim.layers[name].target
        assert exact == (target not in case.smooth), name
        assert method == ("closed-form" if name == "head" else "exact" if exact else "hutchinson")
        assert (found[name].method, found[name].exact) == (method, exact)
    assert list(found) == list(measure.victim.layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_what_is_exact_does_not_depend_on_chance(case: Case, seed: int, dtype: torch.dtype) -> None:
    x, _ = case.data(1 + seed, dtype)
    measure = AnyLayer(ImageVictim(case.model(dtype), x, layers=["all"]), x, seed=seed)
    smooth = {measure.victim.layers[name].target for name, how in measure.methods.items() if not how.exact}
    assert smooth == set(case.smooth)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_equals_the_dense_hessian(case: Case) -> None:
    measure, found, model, x, y = of(case)
    for name, layer in measure.victim.layers.items():
        expected, seen = truth(model, layer.target, x, y), found[name]
        # A Hessian without positive eigenvalues has 0 on top, up to the rounding of the dense one.
        rounding = 1e-14 * float(expected.spectrum.abs().amax())
        torch.testing.assert_close(seen.top_eigenvalue, expected.top_eigenvalue, rtol=1e-8, atol=rounding)
        close(seen.weight_grad_norm, expected.weight_grad_norm, 1e-8)
        close(seen.weight_norm, layer.weight.norm().expand(len(x)), 1e-12)
        if not seen.exact:
            assert (seen.trace_se >= 0).all()
            assert seen.spectrum is None
            continue
        close(seen.trace, expected.trace, 1e-8)
        close(seen.ggn_trace, expected.trace, 1e-8)
        close(seen.relative_flatness, expected.relative_flatness, 1e-8)
        close(seen.relative_sharpness, expected.trace * layer.weight.square().sum(), 1e-8)
        assert not seen.trace_se.any()
        assert seen.spectrum is not None
        rank = min(seen.spectrum.shape[1], expected.spectrum.shape[1])
        error = (seen.spectrum[:, :rank] - expected.spectrum[:, :rank]).abs().amax(1)
        assert (error <= 1e-8 * expected.top_eigenvalue).all()
        share = expected.trace.square() / expected.spectrum.square().sum(1)
        close(seen.effective_rank, share, 1e-8)


@pytest.mark.parametrize("loss", ["mse", "margin"])
@pytest.mark.parametrize("name", ["mlp", "residual", "cnn-silu"])
def test_other_losses_equal_the_dense_hessian(name: str, loss: str) -> None:
    measure, found, model, x, y = of(BY_NAME[name], loss=loss, probes=64)
    for layer in measure.victim.layers.values():
        expected, seen = truth(model, layer.target, x, y, loss=LOSSES[loss]), found[layer.name]
        torch.testing.assert_close(seen.top_eigenvalue, expected.top_eigenvalue, rtol=1e-8, atol=1e-12)
        close(seen.weight_grad_norm, expected.weight_grad_norm, 1e-8)
        if seen.exact:
            torch.testing.assert_close(seen.trace, expected.trace, rtol=1e-8, atol=1e-12)
            torch.testing.assert_close(seen.relative_flatness, expected.relative_flatness, rtol=1e-8, atol=1e-12)
        else:
            assert ((seen.trace - expected.trace).abs() < 5 * seen.trace_se + 1e-12).all()


def test_the_margin_has_no_curvature_at_the_head() -> None:
    _, found, *_ = of(BY_NAME["mlp-gelu"], loss="margin")
    assert found["head"].exact
    assert not found["head"].trace.any()


@pytest.mark.parametrize("name", ["mlp", "mlp-two-classes"])
@pytest.mark.parametrize("gap", [5, 17, 37, 60, 100, 300])
def test_stays_right_in_saturation(name: str, gap: float) -> None:
    classes = BY_NAME[name].classes
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, classes)).double().eval()
    with torch.no_grad():
        model[2].bias[1] += gap
    x, _ = BY_NAME[name].data()
    for label in (0, 1):
        _, found, _ = measured(model, x, torch.full((3,), label), ["0", "head"])
        for i in range(3):
            expected = many_digits(model, x[i], label, digits=60 + int(gap))
            for measure, value in expected.items():
                seen = mp.mpf(getattr(found["0"], measure)[i].item())
                assert abs(seen / value - 1) < 1e-6, (measure, seen, value)


def test_a_float32_model_stays_right_in_saturation() -> None:
    model, (x, y) = BY_NAME["mlp"].model(), BY_NAME["mlp"].data()
    with torch.no_grad():
        model[4].bias[0] += 80
    _, expected, _ = measured(model, x, y)
    _, found, _ = measured(model.float(), x.float(), y)
    for name in ("0", "2"):
        assert found[name].trace.dtype == torch.float64
        for measure in MEASURES:  # float32 logits of size 80 round by 4e-6, and p by as much
            close(getattr(found[name], measure), getattr(expected[name], measure), 5e-5)


@pytest.mark.parametrize("case", [BY_NAME["residual"], BY_NAME["grouped"], BY_NAME["tokens"]], ids=lambda c: c.name)
def test_float32_and_float64_agree(case: Case) -> None:
    x, y = case.data()
    _, expected, _ = measured(case.model(), x, y)
    _, found, _ = measured(case.model(torch.float32), x.float(), y)
    for name in found:
        for measure in MEASURES:
            close(getattr(found[name], measure), getattr(expected[name], measure), 2e-5)


@pytest.mark.parametrize("name", ["residual-gelu", "attention", "mlp-gelu"])
def test_smooth_layers_in_float32(name: str) -> None:
    case = BY_NAME[name]
    x, y = case.data()
    _, expected, _ = measured(case.model(), x, y)
    _, found, _ = measured(case.model(torch.float32), x.float(), y)
    for layer in found:
        size = expected[layer].trace.abs() + expected[layer].ggn_trace + expected[layer].trace_se * 8
        assert ((found[layer].trace - expected[layer].trace).abs() < 1e-4 * size).all()
        top, seen = expected[layer].top_eigenvalue, found[layer].top_eigenvalue
        hidden = torch.isnan(seen) & (top.abs() < 1e-4 * size)  # between 0 and what float32 can tell from it
        assert (((seen - top).abs() <= 1e-4 * torch.maximum(top, size)) | hidden).all()


@pytest.mark.parametrize("gap", [0, 60, 200])
def test_what_smooth_activations_add_stays_right_in_saturation(gap: float) -> None:
    model, (x, _) = BY_NAME["mlp-gelu"].model(), BY_NAME["mlp-gelu"].data()
    y = torch.full((3,), 1)
    with torch.no_grad():
        model[4].bias[1] += gap
    _, found, here = measured(model, x, y, ["2"])
    # The dense Hessian of ⟨r, z⟩ with r = p − e_y at unit length, which loses nothing to cancellation.
    log_p = torch.log_softmax(here.logits.detach(), 1)
    r = log_p.exp()
    r[:, 1] = -r[:, [0, *range(2, 10)]].sum(1)
    for i in range(3):
        norm = r[i].norm()
        bent = truth(model, "2", x[i : i + 1], y[:1], loss=lambda z, _, i=i, norm=norm: (z * (r[i] / norm)).sum())
        expected = found["2"].ggn_trace[i] + bent.trace[0] * norm
        torch.testing.assert_close(found["2"].trace[i], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["residual", "conv1d", "residual-gelu"])
def test_folding_changes_no_number(name: str) -> None:
    case = BY_NAME[name]
    x, y = case.data()
    measure, folded, _ = measured(case.model(), x, y)
    assert measure.victim.folded
    _, plain, _ = measured(case.model(), x, y, fold=False)
    for layer in plain:
        assert plain[layer].method == folded[layer].method
        measures = (*MEASURES, "ggn_trace", "weight_norm", "feature_norm_sq", "relative_sharpness", "weight_grad_norm")
        for column in measures if plain[layer].exact else ("top_eigenvalue", *measures[3:6]):
            close(getattr(folded[layer], column), getattr(plain[layer], column), 1e-10)
        # The very same probes: an estimate is no less reproducible than an exact number.
        close(folded[layer].trace, plain[layer].trace, 1e-10)


def test_kappa_is_invariant_to_layer_scaling_and_trace_is_not() -> None:
    case = BY_NAME["cnn"]
    (x, y), model, scaled = case.data(), case.model(), case.model()
    with torch.no_grad():
        scaled[3].weight *= 3
        scaled[0].weight /= 3
        scaled[0].bias /= 3
    _, one, _ = measured(model, x, y, ["3"])
    _, other, _ = measured(scaled, x, y, ["3"])
    close(other["3"].relative_flatness, one["3"].relative_flatness, 1e-12)
    close(other["3"].trace, one["3"].trace / 9, 1e-12)


def test_kappa_is_invariant_to_filter_scales_undone_by_batch_norm() -> None:
    case = BY_NAME["residual"]
    (x, y), model, scaled = case.data(), case.model(), case.model()
    d = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    with torch.no_grad():
        for m in (model, scaled):
            m.bn1.eps = 0.0
        scaled.conv1.weight *= d[:, None, None, None]
        scaled.bn1.running_mean *= d
        scaled.bn1.running_var *= d**2
    _, one, _ = measured(model, x, y, ["conv1"])
    _, other, _ = measured(scaled, x, y, ["conv1"])
    close(other["conv1"].relative_flatness, one["conv1"].relative_flatness, 1e-10)
    assert not torch.allclose(other["conv1"].trace, one["conv1"].trace, rtol=1e-2)


def test_kappa_is_not_invariant_to_scaling_input_channels() -> None:
    case = BY_NAME["mlp"]
    (x, y), model, scaled = case.data(), case.model(), case.model()
    d = torch.linspace(0.5, 3, 8, dtype=torch.float64)
    with torch.no_grad():
        scaled[2].weight *= d
        scaled[0].weight /= d[:, None]
        scaled[0].bias /= d
    _, one, _ = measured(model, x, y, ["2"])
    _, other, _ = measured(scaled, x, y, ["2"])
    assert not torch.allclose(other["2"].relative_flatness, one["2"].relative_flatness, rtol=1e-2)


def covered(estimates: Tensor, errors: Tensor, expected: Tensor, probes: int) -> float:
    return float(((estimates - expected).abs() <= stats.t.ppf(0.975, probes - 1) * errors).double().mean())


def check_intervals(name: str, layer: str, probes: int, seeds: int) -> None:
    case = BY_NAME[name]
    model, (x, y) = case.model(), case.data()
    measure, _, here = measured(model, x, y, [layer], probes=probes)
    expected, runs = truth(model, layer, x, y), []
    for seed in range(seeds):
        measure.seed = seed
        runs.append(measure(here)[layer])
    for column in ("trace", "relative_flatness"):
        means, errors = (torch.stack([getattr(r, c) for r in runs]) for c in (column, f"{column}_se"))
        assert (errors > 1e-10 * getattr(expected, column).abs()).all()  # an estimate, not a sum over the whole space
        assert 0.92 <= covered(means, errors, getattr(expected, column), probes) <= 0.98, column
        bias = (means.mean(0) - getattr(expected, column)).abs()
        assert (bias < 4 * means.std(0) / seeds**0.5).all(), column


@pytest.mark.slow
def test_intervals_of_a_smooth_layer_cover_the_truth() -> None:
    check_intervals("mlp-wide-gelu", "0", probes=8, seeds=340)


@pytest.mark.slow
@pytest.mark.parametrize("probes", [8, 16])
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("mlp-wide-gelu", "0"), ("attention", "qkv"), ("attention-wide", "qkv"),
        ("attention-wide", "up"), ("residual-gelu", "conv1"), ("residual-gelu", "conv2"),
    ],
)  # fmt: skip
def test_intervals_of_smooth_layers_cover_the_truth(name: str, layer: str, probes: int) -> None:
    check_intervals(name, layer, probes, seeds=1000)


def test_a_small_smooth_layer_is_measured_whole() -> None:
    for name, layer in (("mlp-gelu", "0"), ("mlp-gelu", "2"), ("swiglu", "gate"), ("attention", "up")):
        _, found, model, x, y = of(BY_NAME[name])
        expected = truth(model, layer, x, y)
        close(found[layer].trace, expected.trace, 1e-8)
        close(found[layer].relative_flatness, expected.relative_flatness, 1e-8)
        assert (found[layer].trace_se <= 1e-8 * expected.trace.abs()).all()


@pytest.mark.parametrize("probes", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_intervals_of_many_classes_cover_the_truth(probes: int) -> None:
    model, (x, y) = MANY.model(), MANY.data()
    measure, _, here = measured(model, x, y, ["2"], probes=probes, exact_classes=4)
    assert measure.methods["2"] == ("stratified", False)
    _, exact, _ = measured(model, x, y, ["2"], exact_classes=200)
    assert exact["2"].exact
    for column, error in (("trace", "trace_se"), ("relative_flatness", "relative_flatness_se")):
        runs = []
        for seed in range(1000):
            measure.seed = seed
            runs.append(measure(here)["2"])
        means, errors = (torch.stack([getattr(r, c) for r in runs]) for c in (column, error))
        assert 0.92 <= covered(means, errors, getattr(exact["2"], column), probes) <= 0.98
        bias = (means.mean(0) - getattr(exact["2"], column)).abs()
        assert (bias < 4 * means.std(0) / len(runs) ** 0.5).all()


def test_many_classes_are_taken_exactly_where_that_is_no_dearer() -> None:
    model, (x, y) = MANY.model(), MANY.data()
    measure, found, _ = measured(model, x, y, ["0", "head"], exact_classes=183)
    assert measure.methods == {"0": ("exact", True), "head": ("closed-form", True)}
    close(found["0"].trace, truth(model, "0", x, y).trace, 1e-8)
    assert AnyLayer(measure.victim, x, exact_classes=182).methods["0"] == ("stratified", False)


def test_a_sampled_tail_vanishes_with_its_mass() -> None:
    model, (x, y) = MANY.model(), MANY.data()
    with torch.no_grad():
        model[4].bias[:3] += 40
    exact = truth(model, "2", x, y)
    _, found, _ = measured(model, x, y, ["2"])
    close(found["2"].trace, exact.trace, 1e-10)
    close(found["2"].top_eigenvalue, exact.top_eigenvalue, 1e-8)
    close(found["2"].weight_grad_norm, exact.weight_grad_norm, 1e-8)
    assert not found["2"].exact  # no number claims more than its method does
    assert (found["2"].trace_se < 1e-9 * found["2"].trace).all()


def test_probes_are_the_same_at_every_step_and_for_every_batch() -> None:
    case = BY_NAME["cnn-silu"]
    x, y = case.data(4)
    measure, found, _ = measured(case.model(), x, y)
    again = measure(measure.victim(measure.victim.place(x), y))
    part = measure(measure.victim(measure.victim.place(x[1:3]), y[1:3]))
    for name in found:
        assert torch.equal(again[name].trace, found[name].trace)
        close(part[name].trace, found[name].trace[1:3], 1e-9)
        close(part[name].relative_flatness, found[name].relative_flatness[1:3], 1e-9)


def test_the_graph_is_left_to_the_attack() -> None:
    case = BY_NAME["attention"]
    x, y = case.data()
    victim = ImageVictim(case.model(), x, layers=["all"])
    measure = AnyLayer(victim, x)
    here = measure.victim(victim.place(x), y)
    measure(here)
    gradient = here.grad(lambda h: h.loss)
    bare = ImageVictim(case.model(), x)
    torch.testing.assert_close(gradient, bare(bare.place(x), y).grad(lambda h: h.loss), rtol=1e-9, atol=1e-12)


def test_a_final_pass_keeps_a_graph_only_where_a_layer_needs_one() -> None:
    case = BY_NAME["mlp"]
    x, y = case.data()
    for layers, graph in ((["head"], False), (["0"], True)):
        victim = ImageVictim(case.model(), x, layers=layers)
        measure = AnyLayer(victim, x)
        here = measure.victim(victim.place(x), y, final=True)
        assert here.logits.requires_grad == graph
        assert measure(here)[layers[0]].finite.all()


def test_needs_at_least_eight_probes() -> None:
    case = BY_NAME["mlp"]
    x, _ = case.data()
    with pytest.raises(UsageError, match="probes is 4; at least 8"):
        AnyLayer(ImageVictim(case.model(), x), x, probes=4)
    with pytest.raises(UsageError, match="no loss 'nll'.*cross-entropy, mse, margin"):
        AnyLayer(ImageVictim(case.model(), x), x, loss="nll")
    with pytest.raises(UsageError, match="exact_classes is 0"):
        AnyLayer(ImageVictim(case.model(), x), x, exact_classes=0)
