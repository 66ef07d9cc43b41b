"""`condition.parquet`: at each step the figures of `fl.condition` on that step's features, whatever the batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import flatlens as fl
from flatlens import models
from flatlens.errors import DataError, FlatlensError, LayerError, SpecError, StaleRunError
from flatlens.hessian.condition import Figures, condition_of
from flatlens.measure import run as execute
from flatlens.measure.conditions import opened, table
from flatlens.measure.features import features
from flatlens.progress import Progress
from flatlens.records import runs
from flatlens.records.schema import CONDITION
from flatlens.records.trajectory import Trace
from flatlens.specs.run import RunSpec
from tests.attacks.test_attacks import data, net
from tests.expected import cautioned
from tests.measure.test_loop import EVEN, N, Stopping

pytestmark = cautioned("flat-because-confident", "not-converged", "low-accuracy", "stopped-early", "singular")
SPEC = RunSpec(
    "flatlens:digits-cnn", "flatlens:digits", eps=0.3, steps=3, limit=60, images="all", control=("gaussian-noise",),
    random_start=True, condition=0.01,
)  # fmt: skip


def tanh_net() -> torch.nn.Module:
    """Five features of full rank."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)
    ).eval()


def points(trace: Trace, step: int) -> torch.Tensor:
    assert trace.images is not None
    return torch.from_numpy(trace.images.x[trace.images.step == step])


def rows(trace: Trace, path: str = "attack", restart: int = 0) -> Any:
    assert trace.condition is not None
    table = trace.condition.to_pandas()
    return table[(table.path == path) & (table.restart == restart)].reset_index(drop=True)


def check(found: Any, x: Any, ridge: float) -> None:
    expected = condition_of(x, ridge)
    assert found.n == len(x) and found["rank"] == expected.rank and found.ridge == ridge
    for name in Figures._fields:
        assert found[name] == pytest.approx(getattr(expected, name), rel=1e-5), name  # passes are float32


@pytest.mark.parametrize("batch_size", [7, 40, 60])
def test_a_run_has_the_figures_of_the_features_at_each_step(batch_size: int, tmp_path: Path) -> None:
    """Batches with fewer rows than the 32 features, and with more."""
    trace = execute.run(replace(SPEC, batch_size=batch_size), tmp_path / "run").trace()
    assert trace.condition is not None and trace.condition.schema.equals(CONDITION)
    model = models.load(SPEC.model, shape=(1, 8, 8), classes=10).model
    here = rows(trace)
    assert here.step.tolist() == [0, 1, 2, 3, 4] and set(trace.condition["path"].to_pylist()) == {
        "attack",
        "gaussian-noise",
    }
    for step in range(5):
        check(here.loc[step], features(model, points(trace, step)).x, 0.01)
    assert rows(trace, "gaussian-noise").condition_number[0] == pytest.approx(here.condition_number[0], rel=1e-9)
    assert "condition.parquet" in trace.manifest["files"]


@pytest.mark.parametrize(("ridge", "batch_size"), [(0, 3), (0.01, 30)])
def test_python_takes_it_too_and_saves_it(ridge: float, batch_size: int, tmp_path: Path) -> None:
    model, x = tanh_net(), torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    trace = fl.trace(
        model, x, torch.arange(30) % 3, images="all", condition=ridge, batch_size=batch_size, out=tmp_path / "r"
    )
    for step in (0, 17, 40):
        check(rows(trace).loc[step], model[:3](points(trace, step)).detach().double(), ridge)
    assert fl.open(tmp_path / "r").condition == trace.condition
    assert runs.load(tmp_path / "r").spec.condition == ridge


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_sample_whose_path_has_ended_stays_where_it_is(restarts: int) -> None:
    model, (x, y) = net(norm=False), data()
    trace = fl.trace(model, x, y, attack=Stopping(False, restarts), images="all", condition=1e-3)
    here = rows(trace)
    assert here.step.tolist() == [0, 1, 2, 3, 4] and (here.n == N).all()
    assert trace.images is not None
    at = {(s, t): x for s, t, x in zip(trace.images.sample, trace.images.step, trace.images.x, strict=True)}
    for step in (2, 3, 4):
        now = [at[i, step if i in EVEN.tolist() else min(step, 2)] for i in range(N)]
        if restarts == 1:  # with more, the last image of a sample is of its best run
            check(here.loc[step], features(model, torch.from_numpy(np.stack(now))).x, 1e-3)
    assert restarts == 1 or rows(trace, restart=1).condition_number[4] != here.condition_number[4]


def test_features_that_are_not_finite_are_a_row_without_numbers() -> None:
    x = np.random.default_rng(0).normal(size=(2, 4, 3))
    x[1, 2] = np.nan
    found = table([{"0:attack": x}], 4, 0.0).to_pandas()
    assert found.loc[0].condition_number == pytest.approx(np.linalg.cond(x[0]) ** 2)
    assert found.loc[1, ["condition_number", "lambda_max"]].isna().all() and found.loc[1]["rank"] == 0


@pytest.mark.parametrize("power", [6, 7.5])
def test_it_does_not_pass_through_the_gram_matrix(power: int) -> None:
    """At κ = 1e12 and 1e15, whose eigenvalues by XᵀX would be rounding; in batches of two sizes."""
    rng = np.random.default_rng(0)
    q, r = (np.linalg.qr(rng.normal(size=(n, 6)))[0] for n in (50, 6))
    x = q * 10.0 ** -np.linspace(0, power, 6) @ r.T
    expected = 10.0 ** (2 * power)
    blocks = [{"0:attack": np.linalg.qr(x[:30], mode="r")[None]}, {"0:attack": np.stack([x[30:34]])}]
    blocks.append({"0:attack": x[34:][None]})
    found = table(blocks, 50, 0.0).to_pandas().loc[0]
    assert found.condition_number == pytest.approx(expected, rel=1e-6) and found["rank"] == 6
    if power > 7:
        eigenvalues = np.linalg.eigvalsh(x.T @ x)
        assert abs(eigenvalues[-1] / eigenvalues[0] / expected - 1) > 1e-2


@pytest.mark.parametrize("batches", [1, 4])
def test_killed_and_gone_on_with_it_has_the_same_rows(batches: int, tmp_path: Path) -> None:
    spec = replace(SPEC, batch_size=12)

    def interrupt(at: Progress) -> None:
        if at.done > batches * 12 * 2 * 5 + 12:
            raise KeyboardInterrupt

    whole = execute.run(spec, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        execute.run(spec, tmp_path / "cut", progress=interrupt)
    done = sum(file.name.endswith("features.safetensors") for file in (tmp_path / "cut" / "parts").iterdir())
    assert done == batches
    assert execute.run(spec, tmp_path / "cut").resumed == "resumed"
    one, other = (pq.read_table(folder / "condition.parquet") for folder in (whole.path, tmp_path / "cut"))
    assert one.equals(other) and not (tmp_path / "cut" / "parts").exists()


def test_a_damaged_part_is_told_and_a_damaged_table_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    part = tmp_path / "parts" / "00000.features.safetensors"
    part.write_bytes(b"nothing")
    with pytest.raises(StaleRunError, match="the features of its batches are damaged"), opened([part]):
        pass
    run = execute.run(SPEC, tmp_path / "run")
    (run.path / "condition.parquet").write_bytes(b"PAR1")
    with pytest.raises(StaleRunError, match=r"condition.parquet is not what was written"):
        run.trace()


def test_a_run_without_it_is_what_it_was() -> None:
    assert fl.trace(net(), *data(), attack=Stopping(False)).condition is None
    assert "condition" not in RunSpec(SPEC.model, SPEC.data).to_dict()
    assert RunSpec(SPEC.model, SPEC.data, condition=0.0).hash() != RunSpec(SPEC.model, SPEC.data).hash()


REFUSED: dict[str, tuple[dict[str, Any], type[FlatlensError], str]] = {
    "few": ({"condition": 0}, DataError, r"9 samples of \d+ features: .*ridge=0.01"),
    "negative": ({"condition": -1}, SpecError, "condition=-1: needs a ridge of at least 0"),
    "nan": ({"condition": float("nan")}, SpecError, "condition=nan|nan: needs a ridge"),
    "text": ({"condition": "all"}, SpecError, "'all': needs a number"),
    "layer": ({"condition": 0.1, "layer": "0"}, LayerError, "the head's features: add"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_means_nothing_is_refused_in_a_line(which: str) -> None:
    given, error, said = REFUSED[which]
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Flatten(), torch.nn.Linear(108, 10)).eval()
    x = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(error, match=said) as caught:
        fl.trace(model, x, torch.arange(9), **given)
    assert "\n" not in str(caught.value)
