"""What a run of a language model can be asked for: defaults, and one line for each value that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from flatlens.errors import SpecError
from flatlens.specs.run import RunSpec, from_dict

MODEL, DATA = "lm:flatlens-tiny", "flatlens:benign-targets"


def made(**how: Any) -> RunSpec:
    return RunSpec(**{"model": MODEL, "data": DATA, **how})


def test_defaults_are_those_of_the_field() -> None:
    spec = made().resolved()
    assert (spec.attack, spec.steps, spec.candidates, spec.topk, spec.swaps) == ("gcg", 100, 512, 256, 1)
    assert (spec.slot_len, spec.slot, spec.chat, spec.positions, spec.batch_size) == (
        20,
        "suffix",
        "auto",
        "target",
        32,
    )
    soft = made(attack="embedding").resolved()
    assert (soft.step_size, soft.candidates, soft.ball) == (0.05, None, None)
    relaxed = made(attack="simplex").resolved()
    assert (relaxed.step_size, relaxed.sharpen, relaxed.candidates) == (0.4, 0.4, None)
    assert from_dict(relaxed.to_dict()) == relaxed and "sharpen" not in spec.to_dict()
    assert from_dict(spec.to_dict()) == spec and spec.resolved().hash() == spec.hash()


def test_all_controls_are_those_that_fit_the_slot() -> None:
    soft, hard = (made(attack=name, control=("all",)).resolved().control for name in ("embedding", "gcg"))
    assert soft == ("ask", "planted", "copies", "line-to-end", "random-direction")
    assert made(attack="simplex", control=("all",)).resolved().control == ("ask", "planted", "copies", "line-to-end")
    assert hard == ("ask", "planted", "copies", "random-swap", "random-walk")


def test_a_prompt_of_ones_own_needs_no_data() -> None:
    spec = from_dict({"model": MODEL, "prompt": "a", "target": "b"})
    assert spec.data == "flatlens:prompt" and spec.attack == "gcg"


def test_runs_of_images_have_nothing_of_it() -> None:
    spec = RunSpec(model="flatlens:cnn", data="flatlens:digits").resolved()
    assert (spec.attack, spec.steps) == ("pgd", 40)
    assert not {"slot_len", "candidates", "prompt", "positions"} & set(spec.to_dict())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "eps": ({"eps": 0.1}, "--eps 0.1: is of image classifiers"),
    "a norm": ({"norm": "l2"}, "--norm l2: is of image classifiers"),
    "bounds": ({"bounds": (0.0, 255.0)}, "--bounds 0.0 255.0: is of image classifiers"),
    "images": ({"images": "all"}, "--images all: is of image classifiers"),
    "only right ones": ({"only_correct": True}, "--only-correct True: is of image classifiers"),
    "a surface": ({"surface": True}, "--surface True: is of image classifiers"),
    "the worst case": ({"worst_case": True}, "--worst-case True: is of image classifiers"),
    "restarts": ({"restarts": 2}, "--restarts 2: is of image classifiers"),
    "an attack on images": ({"attack": "pgd"}, "attack 'pgd' is of image classifiers"),
    "an attack by another name": ({"attack": "gcgg"}, "Did you mean 'gcg'"),
    "data of images": ({"data": "flatlens:digits"}, "takes prompts"),
    "a prompt and data": ({"prompt": "a"}, "--prompt is given and --data"),
    "a prompt without a target": ({"data": "flatlens:prompt", "prompt": "a"}, "--target is missing"),
    "a target without a prompt": ({"data": "flatlens:prompt", "target": "a"}, "--prompt is missing"),
    "no slot": ({"slot_len": 0}, "--slot-len 0: needs a whole number from 1"),
    "a slot beyond all": ({"slot_len": 10**9}, "--slot-len 1000000000"),
    "no candidates": ({"candidates": 0}, "--candidates 0"),
    "no steps": ({"steps": 0}, "--steps 0"),
    "more swaps than places": ({"swaps": 21}, "--swaps 21: a slot of 20 tokens"),
    "more candidates than swaps": (
        {"topk": 2, "slot_len": 4},
        "--candidates 512: a slot of 4 tokens with --topk 2 has 8",
    ),
    "a setting of another attack": ({"attack": "embedding", "candidates": 5}, "attack 'embedding' has no candidates"),
    "a ball of gcg": ({"ball": 1.0}, "attack 'gcg' has no ball; those that have: embedding"),
    "sharpening of gcg": ({"sharpen": 0.4}, "attack 'gcg' has no sharpen; those that have: simplex"),
    "sharpened to single tokens": ({"attack": "simplex", "sharpen": 1.0}, "--sharpen 1: needs a number from 0"),
    "a step of no weight": (
        {"attack": "simplex", "step_size": -1.0},
        "--step-size -1: needs a number above 0, in weights",
    ),
    "a control of vectors": (
        {"attack": "simplex", "control": ("random-direction",)},
        "does not fit 'simplex', whose slot is a mixture of tokens",
    ),
    "a step of no length": ({"attack": "embedding", "step_size": 0.0}, "--step-size 0: needs a number above 0"),
    "a ball of infinity": ({"attack": "embedding", "ball": float("inf")}, "--ball inf"),
    "an empty start": ({"init": ""}, "--init '': needs a text"),
    "another place": ({"slot": "middle"}, "no slot 'middle'"),
    "another template": ({"chat": "yes"}, "no chat 'yes'"),
    "another averaging": ({"positions": "some"}, "no positions 'some'"),
    "few probes": ({"layer": ("all",), "probes": 4}, "--probes 4: needs at least 8"),
    "a control of images": ({"control": ("gaussian-noise",)}, "is of image classifiers; those of language models"),
    "a control that does not fit": ({"control": ("line-to-end",)}, "does not fit 'gcg', whose slot is made of tokens"),
    "a control by another name": ({"control": ("copy",)}, "Did you mean 'copies'"),
    "a chunk of none": ({"batch_size": 0}, "--batch-size 0"),
    "a seed below 0": ({"seed": -1}, "--seed -1"),
    "half precision": ({"dtype": "float16"}, "no dtype 'float16'"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_one_line_says_what_a_run_cannot_have(which: str) -> None:
    values, said = REFUSED[which]
    with pytest.raises(SpecError) as told:
        made(**values)
    assert said in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"slot_len": 3}, "--slot-len 3: is of language models"),
        ({"prompt": "a"}, "--prompt a: is of language models"),
        ({"attack": "gcg"}, "attack 'gcg' is of language models"),
        ({"data": DATA}, "holds prompts, and 'flatlens:cnn' is an image classifier"),
        ({"data": "prompts:x.jsonl"}, "holds prompts"),
    ],
)
def test_one_line_says_that_images_are_no_text(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as told:
        RunSpec(**{"model": "flatlens:cnn", "data": "flatlens:digits", **values})
    assert said in str(told.value) and "\n" not in str(told.value)
