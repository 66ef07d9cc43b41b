"""A folder of an immunization that may be anybody's: read in full, or refused in one line."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import flatlens as fl
from flatlens.errors import RunError
from flatlens.records import immunized
from flatlens.records.immunized import ATTACKERS, FINETUNING, HISTORY, SUMMARY
from tests.immunity.made import pair


@pytest.fixture
def folder(tmp_path):
    fl.immunize(*pair(), "alg1", steps=4, out=tmp_path / "o")
    return tmp_path / "o"


def tuned(path, **more):
    columns = {"extractor": ["identity"], "optimizer": ["adam"], "seed": [0], "epoch": [1], "task": ["harmful"],
               "accuracy": [0.5], "loss": [1.0]}  # fmt: skip
    pq.write_table(pa.table(columns | more), path / FINETUNING)


def test_it_is_read_as_it_was_written(folder):
    found = fl.immunize(*pair(), "alg1", steps=4, out=folder)
    read = immunized.result(folder)
    assert immunized.is_one(folder) and (read.told["rir"], read.told["stop"]) == (found.rir, found.stop)
    assert set(read.tables) == {HISTORY, ATTACKERS}
    np.testing.assert_array_equal(read.tables[HISTORY]["rir"], found.history["rir"].to_numpy())
    assert read.tables[ATTACKERS]["attacker"].tolist() == found.attackers["attacker"].to_pylist()
    tuned(folder)
    assert immunized.result(folder).tables[FINETUNING]["accuracy"].tolist() == [0.5]
    table = pq.read_table(folder / FINETUNING)
    pq.write_table(table.slice(0, 0), folder / FINETUNING)
    assert FINETUNING not in immunized.result(folder).tables


def changed(folder):
    (folder / ATTACKERS).write_bytes((folder / HISTORY).read_bytes())


def linked(folder):
    (folder / ATTACKERS).rename(folder.parent / "elsewhere")
    (folder / ATTACKERS).symlink_to(folder.parent / "elsewhere")


DAMAGE = {
    "another table": (changed, "attackers.parquet is not what was written"),
    "a link": (linked, "a link, or no plain file"),
    "no JSON": (lambda folder: (folder / SUMMARY).write_text("{"), "immunization.json"),
    "no summary": (lambda folder: (folder / SUMMARY).unlink(), "immunization.json"),
    "another summary": (lambda folder: (folder / SUMMARY).write_text(json.dumps({"files": {}})), "SHA-256 differs"),
    "no parquet": (lambda folder: (folder / FINETUNING).write_bytes(b"PAR1"), "finetuning.parquet is damaged"),
    "a column of text": (lambda folder: tuned(folder, accuracy=["high"]), "finetuning.parquet is damaged"),
    "a missing column": (
        lambda folder: pq.write_table(pa.table({"seed": [1]}), folder / FINETUNING), "finetuning.parquet is damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(DAMAGE))
def test_damage_is_one_line(kind, folder):
    harm, says = DAMAGE[kind]
    harm(folder)
    with pytest.raises(RunError) as error:
        immunized.result(folder)
    assert says in str(error.value) and "\n" not in str(error.value) and "--force makes it anew" in str(error.value)
