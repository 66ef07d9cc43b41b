"""`fl.immunize`: every method's figures by dense matrices, what is found again, resumed and refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import flatlens as fl
from flatlens.immunity import climbing, folder
from flatlens.immunity.immunize import METHODS
from tests.expected import cautioned
from tests.immunity.made import pair

PRIMARY, HARMFUL = pair()
X, Z = PRIMARY[0], HARMFUL[0]
STEPPING = [name for name in METHODS if name != "ceiling"]


def kappa(x, theta, ridge):
    """Of the samples with as many more as stand for the ridge: none of them squared, so that 1e12 is told apart."""
    added = (ridge * (x**2).sum() / x.shape[1]) ** 0.5 * np.eye(x.shape[1])
    return np.linalg.cond(np.vstack([x, added]) @ theta) ** 2


@cautioned("not-held-out")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_the_figures_are_those_of_dense_matrices(method, ridge):
    found = fl.immunize(PRIMARY, HARMFUL, method, ridge=ridge, holdout=0, steps=30)
    x, z, eye = PRIMARY[0], HARMFUL[0], np.eye(6)
    i, ii = (kappa(v, found.theta, ridge) / kappa(v, eye, ridge) for v in (z, x))
    assert (found.i, found.ii, found.rir) == pytest.approx((i, ii, i / ii), rel=1e-6)
    assert found.harmful == pytest.approx((kappa(z, eye, ridge), kappa(z, found.theta, ridge)), rel=1e-6)
    assert found.primary == pytest.approx((kappa(x, eye, ridge), kappa(x, found.theta, ridge)), rel=1e-6)
    assert found.rir <= found.bound * (1 + 1e-9) and found.heldout is None
    # R_ill harms both tasks; IMMA climbs losses, and promises nothing about condition numbers.
    assert method == "imma" or (found.rir > 1 and found.i > 1 and (method == "r-ill") == (found.ii > 1.5))
    assert found.samples == (120, 120) and found.ridge == ridge and found.method == method


@cautioned("not-held-out")
@pytest.mark.parametrize("method", METHODS)
def test_held_out_samples_are_not_seen_and_are_told_apart(method):
    found = fl.immunize(PRIMARY, HARMFUL, method, holdout=0.25, seed=3, steps=10)
    order = np.random.default_rng(3).permutation(120)
    held, seen = order[:30], np.sort(order[30:])
    parts = [(x[seen], y[seen]) for x, y in (PRIMARY, HARMFUL)]
    again = fl.immunize(*parts, method, holdout=0, steps=10)
    assert np.array_equal(found.theta, again.theta) and found.samples == (90, 90)
    i, ii = (kappa(x[held], found.theta, 0.01) / kappa(x[held], np.eye(6), 0.01) for x in (Z, X))
    assert found.heldout == pytest.approx((i, ii, i / ii), rel=1e-6)


@pytest.mark.parametrize("method", ["alg1", "opt-kappa"])
def test_the_ratio_rises_at_each_step_that_is_taken_and_the_primary_task_does_not_suffer(method):
    found = fl.immunize(PRIMARY, HARMFUL, method, holdout=0, steps=60)
    rir, ii = (found.history[name].to_numpy() for name in ("rir", "ii"))
    assert (np.diff(rir) >= 0).all() and rir[0] == 1 and rir[-1] == found.rir
    assert method != "alg1" or ii.max() <= 1 + 1e-12
    assert found.history["step"].to_pylist() == list(range(found.steps + 1))


def test_the_ceiling_is_above_every_other_method_and_says_so():
    best = fl.immunize(PRIMARY, HARMFUL, holdout=0)
    assert best.stop == "ceiling" and best.rir == pytest.approx(best.bound, rel=1e-6) and best.history is None
    for method in STEPPING:
        assert fl.immunize(PRIMARY, HARMFUL, method, holdout=0).rir <= best.rir * (1 + 1e-9)


@pytest.mark.parametrize(
    ("steps", "target", "stop"), [(5, None, "steps"), (500, 1.5, "target"), (3000, None, "stalled")]
)
def test_why_it_ended(steps, target, stop):
    found = fl.immunize(X, Z, "alg1", steps=steps, target=target, holdout=0)
    assert found.stop == stop and (stop != "target" or found.rir >= 1.5) and found.steps <= steps


@pytest.mark.parametrize("balance", [0, 0.5, 1])
def test_the_balance_of_the_ceiling(balance):
    found = fl.immunize(X, Z, balance=balance, holdout=0)
    assert found.rir == pytest.approx(found.bound, rel=1e-6)
    assert balance != 1 or found.ii == pytest.approx(1, rel=1e-6)
    assert balance != 0.5 or found.i == pytest.approx(1 / found.ii, rel=1e-6)
    assert balance != 0 or found.primary.after == pytest.approx(1, rel=1e-6) or found.i == pytest.approx(1, rel=1e-6)


def test_theta_itself_stays_well_conditioned():
    found = fl.immunize(PRIMARY, HARMFUL, "r-ill", max_cond=50, holdout=0)
    assert 25 < np.linalg.cond(found.theta) <= 50 * (1 + 1e-9)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_tensors_are_taken(kind):
    given = [tuple(torch.tensor(v, dtype=kind, requires_grad=v.ndim == 2) for v in task) for task in (PRIMARY, HARMFUL)]
    assert fl.immunize(*given, holdout=0).rir == pytest.approx(fl.immunize(PRIMARY, HARMFUL, holdout=0).rir, rel=1e-3)


# ---- a folder -----------------------------------------------------------------------------------


@cautioned("not-held-out")
@pytest.mark.parametrize("method", METHODS)
def test_a_finished_folder_is_found_again(method, tmp_path, monkeypatch):
    first = fl.immunize(PRIMARY, HARMFUL, method, steps=7, out=tmp_path / "a")
    monkeypatch.setattr("flatlens.immunity.immunize.of_tasks", None)
    again = fl.immunize(PRIMARY, HARMFUL, method, steps=7, out=tmp_path / "a")
    assert np.array_equal(again.theta, first.theta) and again.to_dict() == first.to_dict()
    assert again.history == first.history and again.attackers == first.attackers
    there = {"immunization.json", "theta.safetensors", "attackers.parquet", "history.parquet"}
    assert {file.name for file in (tmp_path / "a").iterdir()} == there - (
        {"history.parquet"} if method == "ceiling" else set()
    )


@cautioned("not-held-out")
@pytest.mark.parametrize("method", STEPPING)
def test_killed_and_gone_on_with_it_ends_in_the_same_bits(method, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "EVERY", 4)

    def stop(progress):
        if progress.done == 10:
            raise KeyboardInterrupt

    whole = fl.immunize(PRIMARY, HARMFUL, method, steps=25)
    with pytest.raises(KeyboardInterrupt):
        fl.immunize(PRIMARY, HARMFUL, method, steps=25, out=tmp_path / "a", progress=stop)
    seen = []
    rest = fl.immunize(PRIMARY, HARMFUL, method, steps=25, out=tmp_path / "a", progress=seen.append)
    assert seen[0].done == 9 and np.array_equal(rest.theta, whole.theta)
    assert rest.history == whole.history and rest.attackers == whole.attackers
    assert not (tmp_path / "a" / "unfinished.npz").exists()


@cautioned("not-held-out")
def test_what_is_left_of_another_search_or_damaged_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "EVERY", 1)

    def stop(progress):
        raise KeyboardInterrupt

    for content in (None, b"PK", b""):
        with pytest.raises(KeyboardInterrupt):
            fl.immunize(X, Z, "alg1", steps=25, out=tmp_path, progress=stop)
        if content is not None:
            (tmp_path / "unfinished.npz").write_bytes(content)
        seen = []
        delta = 0.2 if content is None else 0.3
        fl.immunize(
            PRIMARY, HARMFUL, "alg1", steps=25, delta=delta, out=tmp_path, progress=seen.append, force=content == b""
        )
        assert seen[0].done == 1
        for file in tmp_path.iterdir():
            file.unlink()


@cautioned("not-held-out")
def test_a_folder_of_something_else_is_left_alone(tmp_path):
    fl.immunize(PRIMARY, HARMFUL, out=tmp_path / "a")
    with pytest.raises(fl.FlatlensError, match="holds a result with ridge 0.01, not 0.1; .*force"):
        fl.immunize(PRIMARY, HARMFUL, ridge=0.1, out=tmp_path / "a")
    assert fl.immunize(PRIMARY, HARMFUL, ridge=0.1, out=tmp_path / "a", force=True).ridge == 0.1
    told = json.loads((tmp_path / "a" / "immunization.json").read_text())
    assert told["asked"]["ridge"] == 0.1 and told["rir"] > 1 and set(told["files"]) >= {"theta.safetensors"}
    (tmp_path / "a" / "theta.safetensors").write_bytes(b"other")
    with pytest.raises(fl.FlatlensError, match=r"damaged one .theta.safetensors is not what was written"):
        fl.immunize(PRIMARY, HARMFUL, ridge=0.1, out=tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").touch()
    with pytest.raises(fl.FlatlensError, match="holds other files .'thesis.tex'"):
        fl.immunize(PRIMARY, HARMFUL, out=tmp_path / "b")
    (tmp_path / "c").touch()
    with pytest.raises(fl.FlatlensError, match="is a file; name a folder"):
        fl.immunize(PRIMARY, HARMFUL, out=tmp_path / "c")


# ---- what cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_same_task_twice_is_said_not_to_be_immunizable(method):
    with pytest.warns(fl.CautionWarning, match="not-immunizable: no linear extractor has a ratio above 1"):
        found = fl.immunize(PRIMARY, PRIMARY, method, holdout=0)
    assert found.stop == "not-immunizable" and (found.i, found.ii, found.rir) == (1, 1, 1)
    assert np.array_equal(found.theta, np.eye(6))


@cautioned("few-samples", "constant-features", "not-held-out")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ["few", "constant", "zero", "twice"])
def test_features_without_full_rank_stay_finite_with_a_ridge(method, case):
    (x, y), (z, t) = ((v[0].copy(), v[1]) for v in (PRIMARY, HARMFUL))
    if case == "few":
        x, y = x[:5], y[:5]
    else:
        z[:, 2] = {"constant": 1.0, "zero": 0.0, "twice": z[:, 1]}[case]
    found = fl.immunize((x, y), (z, t), method, holdout=0.4, steps=10)
    assert np.isfinite(found.theta).all() and np.isfinite([found.i, found.ii, found.rir, found.bound]).all()
    codes = {caution.code for caution in found.cautions}
    assert codes >= {"few": {"few-samples"}, "twice": set()}.get(case, {"constant-features"})


def test_a_search_that_begins_where_all_eigenvalues_are_equal_ends():
    x = np.vstack([np.eye(4)] * 8)
    for method in STEPPING:
        found = fl.immunize((PRIMARY[0][:, :4], PRIMARY[1]), (x, x[:, 0]), method, holdout=0, ridge=0, steps=50)
        assert np.isfinite(found.rir) and (method == "imma" or found.rir >= 1)


BAD = HARMFUL[0].copy()
BAD[7, 3] = np.nan
REFUSED = {
    "method": ({"method": "celing"}, "no method 'celing'; there are: .*Did you mean 'ceiling'"),
    "ridge": ({"ridge": -1}, "ridge=-1: needs a number of at least 0"),
    "target": ({"target": 0.5}, "target=0.5: needs a number of at least 1"),
    "far target": ({"target": 1e9}, r"target=1000000000.0 is above the ceiling: no linear extractor exceeds"),
    "holdout": ({"holdout": 1}, "holdout=1: needs a number from 0 up to 1"),
    "small holdout": ({"holdout": 0.001}, "holdout=0.001 of 120 samples of the primary task leaves no sample"),
    "balance": ({"balance": 1.5}, "balance=1.5: needs a number from 0 to 1"),
    "steps": ({"steps": 0}, "steps=0: needs a number that is whole, at least 1"),
    "half a step": ({"steps": 2.5}, "steps=2.5: needs"),
    "delta": ({"delta": "x"}, "delta.*x: needs a number from 0"),
    "cond": ({"max_cond": 1}, "above max_cond=1.0; give a larger"),
    "seed": ({"seed": -1}, "seed=-1: needs"),
    "singular": ({"harmful": (HARMFUL[0][:4], HARMFUL[1][:4]), "ridge": 0}, "harmful task is singular: .*ridge=0.01"),
    "nan": ({"harmful": (BAD, HARMFUL[1])}, "the harmful features hold NaN .* first at index 7"),
    "columns": ({"harmful": HARMFUL[0][:, :5]}, "6 features and the harmful one 5; both need"),
    "targets": ({"primary": (PRIMARY[0], PRIMARY[1][:9])}, "120 samples and 9 targets"),
    "one class": ({"harmful": (HARMFUL[0], np.ones(120))}, "same for all 120 samples .one class"),
    "text": ({"harmful": (HARMFUL[0], np.array(["a"] * 120))}, "the harmful targets are <U1"),
    "no targets": ({"method": "imma", "primary": PRIMARY[0]}, "the primary task has no targets; give a pair"),
    "images": ({"primary": np.zeros((3, 1, 8, 8))}, r"the primary features have shape \[3, 1, 8, 8\]"),
}


@pytest.mark.filterwarnings("ignore::flatlens.wording.CautionWarning")
@pytest.mark.parametrize("which", REFUSED)
def test_what_cannot_be_is_one_line_that_says_what_would_work(which):
    given, says = REFUSED[which]
    given = {"primary": PRIMARY, "harmful": HARMFUL, "holdout": 0} | given
    with pytest.raises(fl.FlatlensError) as refused:
        fl.immunize(given.pop("primary"), given.pop("harmful"), **given)
    assert re.search(says, str(refused.value)) and "\n" not in str(refused.value)


def test_a_climb_of_no_length_ends():
    root = np.eye(3)
    assert list(climbing.climb("opt-kappa", root, root, 0.3, 1e6, climbing.begin(3)._replace(eta=0.0))) == []
