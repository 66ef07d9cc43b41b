"""Every recipe, cut off and gone on with: the same weights to the bit, and the same rows of what was watched."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flatlens.errors import RunError
from flatlens.progress import Progress
from flatlens.specs.defences import RECIPES
from flatlens.specs.train import TrainSpec
from flatlens.training import judging, recipes
from flatlens.training.epochs import SCHEMA

TINY: dict[str, Any] = {"data": "flatlens:digits", "limit": 64, "epochs": 3, "batch_size": 16, "steps": 2, "eps": 0.1}
MODEL = "flatlens:mlp"
CASES: dict[str, dict[str, Any]] = {name: {"defence": name} for name in RECIPES} | {
    "standard": {},
    "best of standard": {"keep": "best"},
    "best of pgd": {"defence": "pgd", "keep": "best"},
    "rising eps": {"defence": "trades", "eps_warmup": 2},
    "l2": {"defence": "pgd", "norm": "l2", "eps": 0.5},
    "l2 of a generator": {"defence": "gan", "norm": "l2", "eps": 0.5, "keep": "best"},
    "l2 of free": {"adversarial": "free?replays=2", "norm": "l2", "eps": 0.5},
    "l2 of the gradient": {"penalty": "gradient", "norm": "l2", "eps": 0.5},
    "awp that waits": {"defence": "awp", "perturb_weights": "awp?warmup=1"},
    "all at once": {"defence": "trades-awp", "penalty": "fam?at=clean+gradient+spectral", "weight_decay": 0.01},
}
ANY_EPOCH = ("pgd", "free", "gan", "trades-awp", "best of pgd", "awp that waits")


JUDGED: list[Any] = []


@pytest.fixture(autouse=True)
def judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """How robust a model is takes longer than its training: all are said to be as robust as the first."""
    reached = judging.reached

    def first(*given: Any, **named: Any) -> Any:
        if not JUDGED:
            JUDGED.append(reached(*given, **named))
        return JUDGED[0]

    monkeypatch.setattr(judging, "reached", first)


class Cut(KeyboardInterrupt):
    """Ctrl-C, at a certain step."""


def cut_at(share: float) -> Any:
    def progress(at: Progress) -> None:
        if at.done > share * at.total:
            raise Cut

    return progress


def result(file: Path, made: recipes.Trained) -> dict[str, Any]:
    """All that must be the same: weights, rows and record, but for what time it took."""
    table = pq.read_table(file.with_suffix(".training.parquet"))
    assert table.schema == SCHEMA and table.num_rows == made.record["recipe"]["epochs"]
    rows = table.drop_columns(["seconds"]).to_pylist()
    record = json.loads(file.with_suffix(".json").read_text())
    record = {key: value for key, value in record.items() if not key.endswith(("seconds", "sha256_of_this"))}
    return {"rows": repr(rows), "record": record, "weights": file.read_bytes()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A case's training that was never cut off, made once."""
    known: dict[str, dict[str, Any]] = {}
    folder = tmp_path_factory.mktemp("whole")

    def of(name: str) -> dict[str, Any]:
        if name not in known:
            file = folder / f"{len(known)}.safetensors"
            known[name] = result(file, recipes.train(MODEL, TrainSpec(**TINY | CASES[name]), file))
        return known[name]

    return of


@pytest.mark.parametrize(
    ("name", "shares"),
    [*((name, (0.5,)) for name in CASES if name not in ANY_EPOCH), *((name, (0.2, 0.5, 0.8)) for name in ANY_EPOCH)],
)
def test_goes_on_to_the_same_bits(name: str, shares: tuple[float, ...], whole: Any, tmp_path: Path) -> None:
    """Cut off within an epoch: 0.2 is the first, 0.5 the second and 0.8 the third; one after the other."""
    file, spec = tmp_path / "t.safetensors", TrainSpec(**TINY | CASES[name])
    for share in shares:
        with pytest.raises(Cut):
            recipes.train(MODEL, spec, file, progress=cut_at(share))
        assert not file.exists()
    made = recipes.train(MODEL, spec, file)
    assert made.resumed == "resumed"
    assert result(file, made) == whole(name)
    assert [path.name for path in tmp_path.glob("*.part*")] == []
    assert recipes.train(MODEL, spec, file).resumed == "finished"


def test_the_recipes_differ(whole: Any) -> None:
    """Else the test above would hold for axes that do nothing."""
    weights = {name: whole(name)["weights"] for name in CASES}
    assert len(set(weights.values())) == len(CASES)


@pytest.mark.parametrize("other", [{"defence": "mart"}, {"defence": "trades", "eps_warmup": 1}, {"keep": "best"}])
def test_a_snapshot_of_another_recipe_is_not_gone_on_from(other: dict[str, Any], tmp_path: Path) -> None:
    file, spec = tmp_path / "t.safetensors", TrainSpec(**TINY, defence="trades")
    with pytest.raises(Cut):
        recipes.train(MODEL, spec, file, progress=cut_at(0.5))
    assert recipes.train(MODEL, TrainSpec(**TINY | other), file).resumed == "new"


def test_a_recipe_and_its_axes_are_one_file(tmp_path: Path) -> None:
    file = tmp_path / "t.safetensors"
    recipes.train(MODEL, TrainSpec(**TINY, defence="trades"), file)
    assert recipes.train(MODEL, TrainSpec(**TINY, adversarial="pgd", loss="trades"), file).resumed == "finished"
    with pytest.raises(RunError, match=r"another recipe \(loss mart instead of trades\)"):
        recipes.train(MODEL, TrainSpec(**TINY, defence="mart"), file)


@pytest.mark.parametrize(("limit", "held"), [(64, 16), (300, 64)])
def test_the_best_epoch_is_told_by_samples_held_out(limit: int, held: int, tmp_path: Path) -> None:
    spec = TrainSpec(**TINY | {"limit": limit, "epochs": 2}, keep="best")
    record = recipes.train(MODEL, spec, tmp_path / "t.safetensors").record
    assert record["samples"] == limit - held and record["epoch"] in (1, 2)


def test_too_few_samples_to_hold_any_out(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--keep best: needs at least 4 samples, to hold some out; there are 3"):
        recipes.train(MODEL, TrainSpec(**TINY | {"limit": 3}, keep="best"), tmp_path / "t.safetensors")


@pytest.mark.parametrize("name", ["rising eps", "awp that waits", "free", "gan"])
def test_a_cost_is_known_before(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLATLENS_CACHE", str(tmp_path))
    spec = TrainSpec(**TINY | CASES[name])
    cost = recipes.cost(MODEL, spec)
    plain = recipes.cost(MODEL, replace(spec, adversarial=None, loss=None, perturb_weights=None))
    assert cost.seconds > 0 and cost.passes > plain.passes > 0


@pytest.mark.faults
def test_killed_and_gone_on_with(tmp_path: Path) -> None:
    """The command itself, with all that a snapshot holds: a generator, the best epoch, a rising eps."""
    spec = TrainSpec(**TINY | {"epochs": 20}, defence="gan", penalty="fam", keep="best", eps_warmup=3)
    whole, out = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    expected = result(whole, recipes.train(MODEL, spec, whole))
    flags = [word for key, value in spec.to_dict().items() for word in (f"--{key.replace('_', '-')}", str(value))]
    words = [sys.executable, "-m", "flatlens", "train", "--model", MODEL, "--out", str(out), "--quiet", *flags]
    with subprocess.Popen(words) as process:
        part = out.with_name("cut.safetensors.part")
        while process.poll() is None and not part.exists():
            time.sleep(0.002)
        assert process.poll() is None, "finished before it could be killed"
        process.send_signal(signal.SIGKILL)
    assert not out.exists()
    made = recipes.train(MODEL, spec, out)
    assert made.resumed == "resumed" and result(out, made) == expected
