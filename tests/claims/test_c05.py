"""C5's targets are what the model says, and its columns what the paths do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from flatlens.claims import c05_language_models as c05
from flatlens.claims.nets import Case, Net
from flatlens.errors import ModelError
from flatlens.models import language
from flatlens.records.trajectory import Trace
from tests.synthetic_text import make_text_trace


@pytest.fixture(scope="module")
def tiny() -> language.Language:
    return language.load(f"lm:{language.TINY}")


def greedy(loaded: language.Language, text: str) -> str:
    """The most probable characters, one after the other, by the model's own forward passes."""
    ids = loaded.tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
    ids, begun = list(ids["input_ids"] if hasattr(ids, "keys") else ids), []
    with torch.no_grad():
        for _ in range(c05.TOKENS):
            begun.append(int(loaded.model(torch.tensor([ids + begun])).logits[0, -1].argmax()))
    return str(loaded.tokenizer.decode(begun, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("text", ["Repeat exactly: cold water.", "Say: sand.", "Name three colours."])
def test_an_answer_is_the_models_own(tiny: language.Language, text: str) -> None:
    assert c05.answer(tiny, text) == greedy(tiny, text) != ""


def test_targets_are_said_with_other_text_and_not_with_the_slot_as_it_begins(
    tiny: language.Language, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, str] = {}
    real = c05.answer
    monkeypatch.setattr(c05, "answer", lambda loaded, text: said.setdefault(text, real(loaded, text)))
    found = list(c05.reachable(tiny, 4))
    targets = [one.target for one in found]
    assert len(found) == len(set(targets)) == 4
    for one in found:
        texts = [text for text, answer in said.items() if answer == one.target]
        assert any(text.startswith(one.prompt) and greedy(tiny, text) == one.target for text in texts)
        assert greedy(tiny, f"{one.prompt}{' x' * c05.SLOT}") != one.target


def test_columns_are_what_the_paths_do() -> None:
    trace = make_text_trace()
    found = c05.followed(trace, "swap", "random-swap")
    kappa, flips = (trace.matrix(name, path="random-swap").values for name in ("relative_flatness", "flipped"))
    for i in range(len(kappa)):
        path, at_end = kappa[i][~np.isnan(kappa[i])], flips[i][~np.isnan(kappa[i])][-1]
        assert found["swap_rises"][i] == (path.max() > path[0])
        assert found["swap_flat"][i] == (bool(at_end) and path[-1] <= path.max() / 10)
        assert found["swap_depth"][i] == pytest.approx(np.log10(path.max() / path[-1]))


def scaled(trace: Trace, factor: float) -> Trace:
    """The same trace with another κ."""
    at = trace.layers.column_names.index("relative_flatness")
    values = pc.multiply(trace.layers["relative_flatness"], pa.scalar(factor))
    return replace(trace, layers=trace.layers.set_column(at, "relative_flatness", values))


def test_paths_of_twice_the_curvature_are_log_two_apart_at_equal_loss() -> None:
    trace = make_text_trace(controls=())
    np.testing.assert_allclose(c05.between(scaled(trace, 2), trace, 6), np.log10(2))
    high = make_text_trace(controls=(), flips=False)
    reached = trace.matched(c05.LOSS)["attack"].n, high.matched(c05.LOSS)["attack"].n
    assert np.isfinite(c05.between(high, trace, 6)).sum() == min(reached)


def test_prompts_of_ones_own_are_taken_and_images_are_not() -> None:
    def case(data: str, uri: str = "lm:flatlens-tiny") -> Case:
        return Case(Net("mine", {"text": uri}, data, 0.3), size=3)

    assert [one.id for one in c05.given(case("flatlens:short-targets"))] == ["shoes", "snow", "tea"]
    assert c05.given(case("flatlens:digits")) == []
    with pytest.raises(ModelError, match="'flatlens:digits-cnn' is no language model; write lm:FOLDER"):
        c05.measure(case("flatlens:digits", "flatlens:digits-cnn"))
