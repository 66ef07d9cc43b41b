"""What a sweep is told of a run of a language model: κ where the loss first falls so far, beside what all runs tell."""

from __future__ import annotations

import base64

import numpy as np
import pytest

import flatlens as fl
from flatlens.files import borders
from flatlens.records import digest as digests
from flatlens.report.sweep_data import DrawnCell, page
from tests.language import tiny

PROMPTS = [fl.Prompt("Who wrote Hamlet?", "A goldfish."), fl.Prompt("Name a colour.", "No.")]


@pytest.mark.filterwarnings("ignore:wide-error")
def test_kappa_at_equal_loss_is_told_of_the_head_on_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny()
    attack = fl.attacks.Embedding(steps=4, step_size=0.3)
    trace = fl.trace_text(
        model, tokenizer, PROMPTS, attack=attack, slot_len=6, controls=["copies", "line-to-end"], layers="last:2"
    )
    reached = float(trace.matrix("loss").values[:, -1].max())
    monkeypatch.setattr(digests, "MATCHED", reached)
    told = digests.digest(trace)
    borders.check(told, borders.DIGEST, "digest.json")
    matched = trace.matched(reached)
    assert matched["attack"].n > 0
    for row in told["rows"]:
        if row["layer"] == "head":
            assert row["matched"] == digests.record(matched[row["path"]].median)
        else:
            assert "matched" not in row and row["measure"] == "ggn_trace"

    cell = DrawnCell("0" * 16, {"model": "lm:x", "attack": "embedding", "steps": 4}, told, None, "done", seconds=2.0)
    drawn = page([cell], "texts")
    assert drawn["matched"] == 0.1
    assert set(drawn["rows"]["shares"]) == {"valley_of_flipped", "valley_of_all", "settled", "flat_end", "flipped"}
    assert "matched" in drawn["rows"]["medians"]
    (seconds,) = np.frombuffer(base64.b64decode(drawn["cells"]["step_seconds"]["f32"]), "<f4")
    assert seconds == 2.0 / (2 * 4), "of two prompts and four steps"


def test_of_images_nothing_of_the_kind_is_told() -> None:
    cell = DrawnCell("0" * 16, {"model": "flatlens:cnn", "attack": "pgd", "steps": 4}, None, None, "waiting")
    drawn = page([cell], "images")
    assert drawn["matched"] is None and drawn["cells"]["step_seconds"] is None
    assert "matched" not in drawn["rows"]["medians"] and "settled" not in drawn["rows"]["shares"]
