"""`NAME.condition.parquet`: condition numbers at each epoch of a training, which they leave as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flatlens import datasets, models
from flatlens.errors import DataError, LayerError, SpecError
from flatlens.files.borders import DamageError
from flatlens.hessian.condition import Figures, condition_of
from flatlens.measure.features import features
from flatlens.records.schema import CONDITION_EPOCHS
from flatlens.specs.train import TrainSpec
from flatlens.training import conditions, recipes
from flatlens.training.conditions import Conditions
from tests.training.test_resumed import Cut, cut_at, judged_once  # noqa: F401

TINY: dict[str, Any] = {"data": "flatlens:digits", "limit": 80, "epochs": 3, "batch_size": 16}
MODEL = "flatlens:mlp"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> recipes.Trained:
    return recipes.train(MODEL, TrainSpec(**TINY, condition=0.01), tmp_path_factory.mktemp("t") / "a.safetensors")


def test_the_first_and_the_last_row_are_of_the_models_features(whole: recipes.Trained) -> None:
    table = conditions.read(whole.file)
    assert table.schema.equals(CONDITION_EPOCHS) and table["epoch"].to_pylist() == [0, 1, 2, 3]
    data = datasets.load("flatlens:digits?split=train")
    x = torch.from_numpy(data.take(datasets.balanced(data.y, 80, 0)).x)
    found = table.to_pandas()
    for epoch, uri in ((0, MODEL), (3, f"ckpt:{whole.file}?arch={MODEL}")):
        expected = condition_of(features(models.load(uri, shape=(1, 8, 8), classes=10).model, x).x, 0.01)
        assert found.loc[epoch].n == 80 and found.loc[epoch]["rank"] == expected.rank
        for name in Figures._fields:
            assert found.loc[epoch][name] == pytest.approx(getattr(expected, name), rel=1e-5), name
    told = whole.record["condition"]
    assert (told["before"], told["after"]) == (found.condition_number[0], found.condition_number[3])


def test_it_moves_no_weight(whole: recipes.Trained, tmp_path: Path) -> None:
    plain = recipes.train(MODEL, TrainSpec(**TINY), tmp_path / "a.safetensors")
    assert plain.file.read_bytes() == whole.file.read_bytes() and plain.record["hash"] != whole.record["hash"]
    with pytest.raises(FileNotFoundError):
        conditions.read(plain.file)


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_cut_off_and_gone_on_with_it_has_the_same_rows(whole: recipes.Trained, share: float, tmp_path: Path) -> None:
    file, spec = tmp_path / "a.safetensors", TrainSpec(**TINY, condition=0.01)
    with pytest.raises(Cut):
        recipes.train(MODEL, spec, file, progress=cut_at(share))
    assert recipes.train(MODEL, spec, file).resumed == "resumed"
    assert conditions.read(file).equals(conditions.read(whole.file))
    # What is replaced leaves no rows behind.
    recipes.train(MODEL, TrainSpec(**TINY), file, force=True)
    assert not conditions.beside(file).exists()


def test_many_samples_are_not_all_looked_at() -> None:
    data = datasets.load("flatlens:digits?split=train")
    model = models.load(MODEL, shape=(1, 8, 8), classes=10).model
    found = Conditions.of(model, data, 0.0, 0)
    found.look(model, 0)
    assert found.rows[0][2] == 5 * 64 < len(data)


def test_features_that_are_not_finite_have_no_numbers() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    x = torch.rand(9, 4, generator=torch.Generator().manual_seed(0))
    found = Conditions(model, x, 0.1)
    with torch.no_grad():
        model[0].weight[0, 0] = np.nan
    found.look(model, 1)
    assert np.isnan(found.rows[0][4]) and found.told()["after"] is None


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="40 samples of 64 features: .*--ridge 0.01"):
        recipes.train(MODEL, TrainSpec(**TINY | {"limit": 40}, condition=0), tmp_path / "a.safetensors")
    with pytest.raises(SpecError, match="--condition -1: needs a ridge"):
        TrainSpec(condition=-1)
    headless = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    with pytest.raises(LayerError, match="--condition: this model has no head"):
        Conditions(headless, torch.rand(9, 4), 0.1)
    (tmp_path / "b.condition.parquet").write_bytes(b"PAR1")
    with pytest.raises(DamageError, match="is damaged"):
        conditions.read(tmp_path / "b.safetensors")
