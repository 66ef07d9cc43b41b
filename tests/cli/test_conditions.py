"""`--condition` and `--ridge` of `flatlens trace` and `flatlens train`: what they say, and what they refuse."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from tests.expected import cautioned

pytestmark = cautioned("flat-because-confident", "not-converged", "low-accuracy")
TRACE = ["trace", "--model", "flatlens:digits-cnn", "--data", "flatlens:digits", "--limit", "60", "--steps", "2"]


def test_a_trace_tells_where_the_attack_begins_and_ends(flatlens, tmp_path):
    given = [*TRACE, "--condition", "--ridge", "0.01", "--out", tmp_path / "r"]
    shown = flatlens(*given)
    assert shown.code == 0 and "of a probe on the head's features, ridge 0.01" in shown.out
    told = json.loads(flatlens(*given, "--json", "--quiet").out)["condition"]
    rows = pq.read_table(tmp_path / "r" / "condition.parquet").to_pandas()
    assert rows.step.tolist() == [0, 1, 2]
    assert (told["start"], told["end"]) == (rows.condition_number[0], rows.condition_number[2]) and told[
        "ridge"
    ] == 0.01
    plain = json.loads(flatlens(*TRACE, "--out", tmp_path / "p", "--json", "--quiet").out)
    assert "condition" not in plain and not (tmp_path / "p" / "condition.parquet").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--limit", "20", "--condition"], "20 samples of 48 features: the Hessian is singular"),
        (["--ridge", "0.1"], "--ridge 0.1 is given without --condition"),
        (["--condition", "--ridge=-1"], "--ridge -1: needs a number of at least 0"),
        (["--condition", "--layer", "hidden"], "--condition is of the head's features: add --layer head"),
        (["--set", "condition=true"], "--condition True: needs a number"),
    ],
)
def test_what_cannot_be_is_one_line(flatlens, tmp_path, flags, said):
    done = flatlens(*TRACE, *flags, "--out", tmp_path / "r")
    assert done.code != 0 and said in done.err and done.err.count("\n") == 1, done.err
    train = [flag for flag in flags if flag in ("--condition", "--ridge", "0.1", "--ridge=-1")]
    if train and train == flags:
        given = ["--model", "flatlens:mlp", "--data", "flatlens:digits", "--out", tmp_path / "a.safetensors"]
        done = flatlens("train", *given, *flags)
        assert done.code != 0 and said in done.err
