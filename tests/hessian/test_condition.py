"""Condition numbers of probes: against mpmath, dense Hessians by autograd, and the conventions that they stand for."""

from __future__ import annotations

import math
import re

import mpmath
import numpy as np
import pytest
import torch

import flatlens as fl
from flatlens.hessian import condition as module
from tests.expected import cautioned


def features(n=60, d=4, spread=2.0, seed=0):
    """``[n, d]``, the columns' scales from 1 to 10^-spread, mixed by a rotation."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return rng.normal(size=(n, d)) * np.logspace(0, -spread, d) @ q


def by_mpmath(x, ridge):
    """Eigenvalues of XᵀX/n + ρ·tr/d·I, descending, with 60 digits."""
    with mpmath.workdps(60):
        a = mpmath.matrix(x.tolist())
        k = a.T * a / len(x)
        d = x.shape[1]
        k = k + mpmath.mpf(ridge) * sum(k[i, i] for i in range(d)) / d * mpmath.eye(d)
        return sorted((mpmath.mpf(v) for v in mpmath.eigsy(k, eigvals_only=True)), reverse=True)


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 1e-2, 3.0])
@pytest.mark.parametrize("spread", [0.0, 3.0, 6.0])
def test_it_is_the_exact_one_of_the_gram_matrix(spread, ridge):
    x = features(spread=spread)
    found, exact = fl.condition(x, ridge=ridge), by_mpmath(x, ridge)
    assert found.condition_number == pytest.approx(float(exact[0] / exact[-1]), rel=1e-8)
    assert found.lambda_max == pytest.approx(float(exact[0]), rel=1e-12)
    assert found.lambda_min == pytest.approx(float(exact[-1]), rel=1e-8)
    assert (found.n, found.d, found.rank) == (60, 4, 4)
    assert found.trace == pytest.approx((x**2).sum() / 60)


def test_singular_values_are_right_where_the_gram_matrix_is_rounding():
    x = features(spread=7.9)  # κ of XᵀX is 1e16
    exact = by_mpmath(x, 0)
    assert fl.condition(x).condition_number == pytest.approx(float(exact[0] / exact[-1]), rel=1e-6)
    gram = np.linalg.eigvalsh(x.T @ x / len(x))
    assert abs(gram[0] / float(exact[-1]) - 1) > 1e-3


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("probe", ["l2", "ce"])
def test_the_unit_of_the_features_changes_nothing_but_the_eigenvalues(probe, scale):
    x, p = features(), np.random.default_rng(1).dirichlet(np.ones(3), size=60) if probe == "ce" else None
    one, other = (fl.condition(v, ridge=0.01, probe=probe, probabilities=p) for v in (x, scale * x))
    assert other.condition_number == pytest.approx(one.condition_number, rel=1e-9)
    assert other.lambda_max == pytest.approx(scale**2 * one.lambda_max, rel=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_cross_entropy_is_the_dense_hessian_of_autograd_off_the_directions_that_change_nothing(classes):
    x = torch.from_numpy(features(n=40, d=3, spread=0.5))
    w = torch.randn(classes, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(classes))

    def loss(flat):
        return torch.nn.functional.cross_entropy(x @ flat.reshape(classes, 3).T, torch.zeros(40, dtype=torch.long))

    dense = torch.autograd.functional.hessian(loss, w.flatten())
    eigenvalues = torch.linalg.eigvalsh(dense).flip(0)[: (classes - 1) * 3]
    found = fl.condition(x, probe="ce", probabilities=(x @ w.T).softmax(1))
    assert found.lambda_max == pytest.approx(eigenvalues[0].item(), rel=1e-10)
    assert found.lambda_min == pytest.approx(eigenvalues[-1].item(), rel=1e-8)
    assert found.condition_number == pytest.approx((eigenvalues[0] / eigenvalues[-1]).item(), rel=1e-8)
    assert found.d == found.rank == (classes - 1) * 3


@pytest.mark.parametrize("classes", [2, 4])
def test_at_equal_probabilities_cross_entropy_is_as_well_conditioned_as_squares(classes):
    x = features()
    found = fl.condition(x, probe="ce", probabilities=np.full((60, classes), 1 / classes))
    assert found.condition_number == pytest.approx(fl.condition(x).condition_number, rel=1e-9)
    assert found.lambda_max == pytest.approx(fl.condition(x).lambda_max / classes, rel=1e-9)


def test_blocks_of_rows_are_the_same_as_all_at_once():
    x = features(n=300, d=7)
    sigma = module.singular_values(iter(np.array_split(x, 13)), 7)
    np.testing.assert_allclose(sigma, np.linalg.svd(x, compute_uv=False), rtol=1e-12)


@cautioned("singular", "constant-features")
@pytest.mark.parametrize("n", [5, 9])
def test_rank_deficient_features_are_finite_with_a_ridge_and_the_rest_is_told_apart(n):
    x = np.random.default_rng(0).normal(size=(n, 3)) @ np.random.default_rng(1).normal(size=(3, 8))
    found = fl.condition(x, ridge=0.01)
    sigma = np.linalg.svd(x, compute_uv=False)
    assert found.rank == 3 and found.plain == math.inf
    assert found.effective == pytest.approx((sigma[0] / sigma[2]) ** 2)
    assert found.condition_number == pytest.approx(1 + sigma[0] ** 2 / (0.01 * (sigma**2).sum() / 8))


def test_the_released_convention_is_right_on_many_samples_and_rounding_on_few():
    many = fl.condition(features(n=2000, d=8, spread=1))
    assert many.released == pytest.approx(many.condition_number, rel=1e-3)
    with pytest.warns(fl.CautionWarning, match="singular"):
        few = fl.condition(features(n=20, d=64), ridge=0.01)
    assert few.released == pytest.approx((few.lambda_max - 0.01 * few.trace / 64) / 1e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("x", "code"),
    [
        (np.c_[features(), np.ones(60)], "constant-features"),
        (np.c_[features(), features()[:, :1]], "singular"),
        (features(n=12), "few-samples"),
    ],
    ids=["constant", "twice", "few"],
)
def test_what_misleads_is_cautioned(x, code):
    with pytest.warns(fl.CautionWarning, match=f"^{code}: "):
        found = fl.condition(x)
    assert code in [caution.code for caution in found.cautions]
    assert code != "singular" or found.condition_number == math.inf


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, "list", "integers"])
def test_features_come_as_tensors_arrays_and_lists(kind):
    x = np.round(features(spread=0) * 4)
    given = x.tolist() if kind == "list" else x.astype(np.int32) if kind == "integers" else torch.tensor(x, dtype=kind)
    if isinstance(given, torch.Tensor):
        given.requires_grad_()
    assert fl.condition(given).condition_number == pytest.approx(fl.condition(x).condition_number)


GOOD = features()
REFUSED = {
    "few": ((GOOD[:3],), {}, "3 samples of 4 features.* at least 4 samples .20 for .*ridge=0.01"),
    "nan": ((np.where(GOOD > 1, np.nan, GOOD),), {}, "NaN or infinite values in .* of 60 samples, the first at"),
    "vector": ((GOOD[0],), {}, r"shape \[4\]; give a matrix"),
    "images": ((np.zeros((2, 1, 8, 8)),), {}, r"shape \[2, 1, 8, 8\]; .*flatten"),
    "empty": ((np.zeros((0, 4)),), {}, "are empty"),
    "text": ((np.array([["a"]]),), {}, "<U1; give a matrix"),
    "complex": ((GOOD * 1j,), {}, "complex128; give"),
    "ragged": (([[1, 2], [3]],), {}, "cannot be read as numbers"),
    "zero": ((np.zeros((5, 2)),), {}, "the Hessian is zero"),
    "ridge": ((GOOD,), {"ridge": -0.1}, "ridge=-0.1: needs a number of at least 0"),
    "nan ridge": ((GOOD,), {"ridge": math.nan}, "ridge=?.*nan: needs"),
    "ridge text": ((GOOD,), {"ridge": "much"}, "ridge.*much: needs"),
    "probe": ((GOOD,), {"probe": "cee"}, "no probe 'cee'; there are: l2, ce. Did you mean 'ce'"),
    "no p": ((GOOD,), {"probe": "ce"}, "needs probabilities"),
    "p for l2": ((GOOD,), {"probabilities": np.full((60, 2), 0.5)}, "does not depend on them"),
    "p of logits": ((GOOD,), {"probe": "ce", "probabilities": np.ones((60, 3))}, "do not sum to 1"),
    "p of others": ((GOOD,), {"probe": "ce", "probabilities": np.full((9, 2), 0.5)}, r"shape \[9, 2\] for 60 samples"),
    "wide": ((np.zeros((1, 5000)),), {"ridge": 1}, "5000 features make a Hessian of 5,000 rows; at most 4,096"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_cannot_be_is_one_line_that_says_what_would_work(which):
    args, settings, says = REFUSED[which]
    with pytest.raises(fl.FlatlensError) as refused:
        fl.condition(*args, **settings)
    assert re.search(says, str(refused.value)) and "\n" not in str(refused.value)
