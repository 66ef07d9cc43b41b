"""`flatlens immunize --fine-tune`: a table more in the result's folder, and what it says of it."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from flatlens.immunity import fine_tuning, folder
from tests.expected import cautioned

pytestmark = cautioned("few-samples", "constant-features", "singular", "not-held-out")
DIGITS = "flatlens:digits?split=all"
GIVEN = ["--model", "flatlens:digits-cnn", "--primary", DIGITS, "--primary-classes", "0-4", "--harmful", DIGITS]
GIVEN += ["--harmful-classes", "5-9", "--limit", "60", "--fine-tune", "--epochs", "1"]


def test_the_command_adds_it_to_a_finished_result(flatlens, tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "SEEDS", (0, 1))
    out = tmp_path / "o"
    plain = flatlens("immunize", *GIVEN[:-3], "--out", out, "--json", "--quiet")
    assert plain.code == 0 and "fine_tuning" not in json.loads(plain.out)
    shown = flatlens("immunize", *GIVEN, "--out", out)
    assert shown.code == 0 and "whole network fine-tuned, 1 epoch" in shown.out and "adam, mean of 2 seeds" in shown.out
    done = flatlens("immunize", *GIVEN, "--out", out, "--json", "--quiet")
    told = json.loads(done.out)["fine_tuning"]
    assert told["epochs"] == 1 and told["primary_head"] == "frozen" and set(told["rates"]) == {"immunized", "identity"}
    table = pq.read_table(out / "finetuning.parquet")
    rows = table.to_pandas()
    mine = rows[(rows.extractor == "immunized") & (rows.optimizer == "sgd") & (rows.task == "harmful")]
    ends = mine[mine.epoch == 1].accuracy
    said = told["accuracy"]["immunized"]["sgd"]["harmful"]
    assert said["end"] == pytest.approx(ends.mean()) and (said["least"], said["most"]) == (ends.min(), ends.max())
    assert table.num_rows == 2 * 2 * 2 * 2 * 2 and folder.read(out)["files"]["finetuning.parquet"]
    assert {file.name for file in out.iterdir() if not file.name.startswith(".")} == {
        "immunization.json", "theta.safetensors", "attackers.parquet", "finetuning.parquet", "report.html",
    }  # fmt: skip
    # Without the flag it is a part of the result all the same; another number of epochs is another one.
    assert json.loads(flatlens("immunize", *GIVEN[:-3], "--out", out, "--json", "--quiet").out)["fine_tuning"] == told
    other = flatlens("immunize", *GIVEN[:-1], "2", "--out", out)
    assert other.code == 2 and "a fine-tuning of 1 epochs, not 2" in other.err
    assert flatlens("immunize", *GIVEN[:-3], "--out", out, "--force", "--quiet").code == 0
    assert not (out / "finetuning.parquet").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([*GIVEN, "--holdout", "0"], "--holdout 0 leaves no samples to see a training of the whole network by"),
        ([*GIVEN[:-1], "0"], "--epochs 0: needs a whole number of at least 1"),
        ([*GIVEN[:-3], "--epochs", "3"], "without --fine-tune"),
        (["--primary", "table:a.csv?target=y", "--harmful", "table:a.csv?target=y", "--fine-tune"], "needs --model"),
    ],
)
def test_what_cannot_be_is_one_line(flatlens, tmp_path, flags, said):
    done = flatlens("immunize", *flags, "--out", tmp_path / "o")
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1, done.err
