"""What the page embeds of a language model's run is what the tables say, in bounded size; redacted, nothing is left."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from flatlens.records.schema import Caution
from flatlens.records.valley import wilson
from flatlens.report import page, page_data, redaction, sentence_text, text_data
from tests.page_text import embedded
from tests.report.test_report import KINDS
from tests.report.test_report import unpack as unpacked
from tests.synthetic_text import HOSTILE, make_text_trace

ROOT = Path(__file__).parents[2]
CASES = {
    "text": {},
    "soft": {"soft": True},
    "one step": {"steps": 1},
    "no flips": {"flips": False},
    "no controls": {"controls": ()},
    "one prompt": {"n": 1},
    "hostile": {"pieces": HOSTILE},
    "both averagings": {"layers": ("head", sentence_text.EVERYWHERE)},
}


def unpack(packed):
    KINDS.setdefault("u8", "<u1")
    return unpacked(packed)


@pytest.fixture(scope="module")
def trace():
    return make_text_trace()


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_tokens_and_positions_of_every_step_are_the_tables(options):
    trace = make_text_trace(**options)
    text = page_data.pages([trace])["runs"][0]["text"]
    pieces, ids = np.array(text["pieces"], dtype=object), np.array(text["ids"])
    for path, found in zip(trace.paths, text["paths"], strict=True):
        own = trace.tokens.filter(pc.equal(trace.tokens["path"], path)).to_pydict()
        at = trace.positions.filter(pc.equal(trace.positions["path"], path)).to_pydict()
        assert pieces[unpack(found["slot"])].tolist() == own["piece"]
        assert ids[unpack(found["slot"])].tolist() == own["token"]
        assert unpack(found["changed"]).astype(bool).tolist() == own["changed"]
        assert pieces[unpack(found["greedy"])].tolist() == at["greedy_piece"]
        for key, column in text_data.NUMBERS.items():
            np.testing.assert_allclose(unpack(found[key]), at[column], rtol=1e-6)
        np.testing.assert_allclose(unpack(found["kappa"]) / unpack(found["a2"]), at["weight_variance"], rtol=1e-5)
        for name, rows in (("slots", own), ("targets", at)):
            lengths = unpack(found[name])
            assert lengths.sum() == len(rows["step"])
            for i, t in zip(*np.nonzero(lengths), strict=True):
                assert lengths[i, t] == sum(
                    s == i and k == t for s, k in zip(rows["sample"], rows["step"], strict=True)
                )
        if found["distance"]:
            np.testing.assert_allclose(unpack(found["distance"]), own["nearest_distance"], rtol=1e-6)
        norm, step = (
            unpack(found["norm"]),
            np.repeat(np.arange(unpack(found["slots"]).size), unpack(found["slots"]).ravel()),
        )
        if found["grad"]:
            said = unpack(found["grad"]) / 255 * norm[step]
            np.testing.assert_allclose(said, np.nan_to_num(np.array(own["grad_norm"], float)), atol=norm.max() / 255)
            most = unpack(found["most"])
            said = (unpack(found["dot"]).astype(float) - 127) / 127 * most[step]
            np.testing.assert_allclose(said, np.nan_to_num(np.array(own["grad_dot"], float)), atol=most.max() / 127)
    for prompt, one in zip(text["prompts"], trace.prompts, strict=True):
        assert {part: pieces[at].tolist() for part, at in prompt["parts"].items() if at} == {
            k: v for k, v in one["pieces"].items() if v
        }


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_every_kind_of_run_is_drawn(options):
    trace = make_text_trace(**options)
    text = page.document([trace])
    assert (
        "window.owned=1</script>" not in text
        and "prediction wrong" not in text
        and "label" not in embedded(text)["runs"][0]["lead"][0]["below"]
    )
    assert trace._repr_html_()


def test_header_numbers_are_shares_with_wilson_intervals(trace):
    said, rest, below, numbers = sentence_text.said(
        trace, "relative_flatness", "head", {p: trace.valley(path=p) for p in trace.paths}
    )
    flipped, last = trace.matrix("flipped").values, trace.last_steps()
    counted = flipped.any(1) & ~flipped[:, 0]
    of = trace.steps.filter(pc.equal(trace.steps["path"], "attack")).to_pandas()
    never = of[of.step > 0].groupby("sample").retokenises.max().eq(False)
    end = flipped[np.arange(len(last)), last]
    expected = [
        (counted.sum(), len(flipped)),
        (end.sum(), counted.sum()),
        None,
        (end.sum(), end.sum()),
        (never.sum(), len(never)),
    ]
    assert said == f"{counted.sum()} of 6 prompts" and rest.startswith(" flipped")
    for number, pair in zip(numbers, expected, strict=True):
        if pair:
            share = wilson(int(pair[0]), int(pair[1]))
            assert (
                number[0] == f"{pair[0]} of {pair[1]}"
                and number[2] == f"{100 * share.low:.0f}–{100 * share.high:.0f} %"
            )
    assert "plain text with copies of the target" in below


def test_both_averagings_stand_side_by_side():
    trace = make_text_trace(layers=("head", sentence_text.EVERYWHERE))
    below = page_data.pages([trace])["runs"][0]["lead"][0]["below"]
    assert "Averaged over the target: " in below and sentence_text.AS_IN_THE_CODE in below


def test_runs_of_both_kinds_and_of_other_prompts_stand_on_one_page(trace):
    from tests.synthetic import make_trace

    data = page_data.pages([trace, make_text_trace(seed=1), make_trace(20, 6), trace])
    assert [one["paired"] for one in data["compared"]["relative_flatness"]] == [False, False, True]
    assert [run["text"] is None for run in data["runs"]] == [False, False, True, False]


def test_redacted_nothing_of_a_prompt_is_left(tmp_path):
    long = tuple(f" secret{k}word" for k in range(8))
    caution = Caution("unconfirmed", "The prompt named-2 does not say it.")
    trace = make_text_trace(
        pieces=long, cautions=(caution,), init=" secret0word", prompt="a secret thing", target="secret1word"
    )
    plain = page.write([trace], tmp_path / "plain.html").read_text("utf-8")
    text = page.write([trace], tmp_path / "black.html", redact=True).read_text("utf-8")
    data = embedded(text)
    held = [str(embedded(whole)) + whole[: whole.index("flatlens-data")] for whole in (plain, text)]
    for piece in [*long, *(f" verbum{k}x" for k in range(40)), *(f"named-{i}" for i in range(6)), "secret"]:
        assert piece.strip() not in held[1]
    assert all(piece in held[0] for piece in long)  # the test can fail
    assert data["runs"][0]["text"]["ids"] is None and set("".join(data["runs"][0]["text"]["pieces"])) <= set(
        redaction.BLACK + " \n"
    )
    assert data["runs"][0]["text"]["paths"][0]["nll"] == embedded(plain)["runs"][0]["text"]["paths"][0]["nll"]


def test_a_run_on_images_is_redacted_as_it_is():
    from tests.synthetic import make_trace

    trace = make_trace(5, 4)
    assert redaction.redacted(trace) is trace


def test_a_page_holds_the_tokens_of_as_many_prompts_as_it_may(trace, monkeypatch):
    monkeypatch.setattr(text_data, "TEXT_BYTES", 11 * trace.tokens.num_rows // 3)
    text = page_data.pages([trace])["runs"][0]["text"]
    assert 1 <= len(text["held"]) < 6 and len(text["prompts"]) == 6
    assert all(len(unpack(path["slots"])) == len(text["held"]) for path in text["paths"])


def test_prompts_without_any_right_start_are_told():
    trace = make_text_trace(n=2)
    steps = trace.steps.set_column(
        trace.steps.schema.get_field_index("flipped"), "flipped", pc.is_valid(trace.steps["step"])
    )
    assert (
        "said from the start" in page_data.pages([replace(trace, steps=steps)])["runs"][0]["lead"][0]["sentence"][0][0]
    )


def test_it_is_drawn_without_torch_and_a_tokenizer():
    script = f"""
import runpy, sys
for name in ('torch', 'transformers', 'tokenizers'):
    sys.modules[name] = None
make = runpy.run_path({str(ROOT / "tests" / "synthetic_text.py")!r})['make_text_trace']
from flatlens.report import page
print(len(page.document([make(2, 3)])))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000


def test_texts_of_mixtures_stand_beside_the_path_and_change_nothing_of_it():
    plain, relaxed = (make_text_trace(soft=True, relaxed=also) for also in (False, True))
    one, other = (page_data.pages([trace])["runs"][0] for trace in (plain, relaxed))
    assert one["results"] == other["results"] and one["measures"] == other["measures"]
    for name, before, after in zip(relaxed.paths, one["text"]["paths"], other["text"]["paths"], strict=True):
        for key in ("slots", "changed", "norm", "grad", "distance", "targets", "nll", "kappa", "retokenises"):
            assert before[key] == after[key], key
        texts = [np.array(of["text"]["pieces"], dtype=object) for of in (one, other)]
        assert (texts[0][unpack(before["slot"])] == texts[1][unpack(after["slot"])]).all()
        assert before["rounded"] is None and (after["rounded"] is None) == (name != "attack")
    own = relaxed.tokens.filter(pc.equal(relaxed.tokens["kind"], "discrete"))
    attack = other["text"]["paths"][0]
    assert texts[1][unpack(attack["rounded"])].tolist() == own["piece"].to_pylist()
    losses = relaxed.matrix("loss", kind="discrete").values
    np.testing.assert_allclose(unpack(attack["rounded_loss"]).reshape(losses.shape), losses, rtol=1e-6)
