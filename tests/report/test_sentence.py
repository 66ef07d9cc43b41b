"""What a page says in its first sentence, and in its figures, of runs at the edges: one sample, nothing, everything."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from flatlens.records.digest import accuracy
from flatlens.records.intervals import Median, wilson
from flatlens.records.schema import ATTACK
from flatlens.report import drawn, figures, layout, page, page_data, series
from flatlens.report.sentence import difference, lead
from flatlens.report.static_svg import _Axis
from tests.synthetic import make_trace

LINE = "line-to-other-class"


class Shares:
    """Valleys of samples: True where one is a valley, False where it flips into none, None where it does not flip."""

    def __init__(self, told):
        self.sample = np.arange(len(told))
        self.flipped = np.array([one is not None for one in told], dtype=bool)
        self.is_valley = np.array([bool(one) for one in told])

    def summary(self):
        n, nothing = int(self.flipped.sum()), Median(np.nan, np.nan, np.nan, 0)
        flipped, valleys = wilson(n, len(self.sample)), wilson(int(self.is_valley.sum()), n)
        return SimpleNamespace(flipped=flipped, valley_of_flipped=valleys, rise=nothing, depth=nothing)


MANY, NONE, FEW = [True] * 40, [False] * 40, [True] * 3 + [False] * 37
CASES = {
    "one sample": ([True], [False], "1 of 1 flipped samples ends", "and 0 of 1 on a straight line", "may be chance"),
    "one that has none": ([False], None, "0 of 1 flipped samples ends in a flat", "under attack.", "Without a control"),
    "all on both": (MANY, MANY, "100.0 % of the flipped samples end", "and 100.0 %", "confidently is enough"),
    "none on both": (NONE, NONE, "0.0 % of", "and 0.0 %", "not enough for a valley"),
    "next to none": (FEW, NONE, "7.5 % of", "and 0.0 %", "not enough for a valley"),
    "all, and none": (MANY, NONE, "100.0 % of", "but only 0.0 %", "100 points"),
    "none, and all": (NONE, MANY, "0.0 % of", "fewer than the 100.0 %", "more valleys, by 100 points"),
    "few": ([True] * 3, [True, False, False], "100.0 % of", "and 33.3 %", "may be chance"),
    "none in both": ([True, None] * 9, [None, True] * 9, "100.0 % of", "and 100.0 %", "nothing compares"),
    "a control that stands still": (
        MANY,
        [None] * 40,
        "100.0 %",
        "under attack.",
        "No sample flips on a straight line",
    ),
    "nothing flips": ([None] * 9, MANY[:9], "The attack flips none", "", "none is wrong"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_sentence_is_true_at_the_edges(case):
    attack, control, begins, goes_on, below = CASES[case]
    trace = make_trace(12, 6, controls=() if control is None else (LINE,))
    found = {ATTACK: Shares(attack)} | ({} if control is None else {LINE: Shares(control)})
    said = lead(trace, found, accuracy(trace))
    text = "".join(part.text for part in said.sentence)
    assert text.startswith(begins) and goes_on in text and below in said.below


def test_a_difference_stays_within_what_shares_can_differ_by():
    for one, other in ((MANY, NONE), (NONE, MANY), (MANY[:1], NONE[:1]), (FEW, MANY)):
        found = difference(Shares(one), Shares(other))
        assert -1 <= found.low < found.value < 1 or found.value == 1 or found.low == -1
        assert -1 <= found.low <= found.value <= found.high <= 1 and found.high - found.low > 0.03


def test_the_ledger_says_no_more_than_is_known():
    whole = series.told(make_trace(), "head")
    assert "rises by" in whole and "falls by" in whole and "flipped samples)" in whole
    trace = make_trace(40, 6, seed=3)
    flips = series.flip_step(trace)
    one = int(np.flatnonzero(flips > 0)[0])
    alone = trace.steps.filter(np.asarray(trace.steps["sample"]) == one)
    layers = trace.layers.filter(np.asarray(trace.layers["sample"]) == one)
    assert "(the one flipped sample)" in series.told(_with(trace, alone, layers), "head")
    # Where κ is 0 at the end, no number of decades leads there.
    at_end = np.asarray(trace.layers["step"]) == 6
    column = trace.layers.column_names.index("relative_flatness")
    values = np.where(at_end, 0.0, np.asarray(trace.layers["relative_flatness"]))
    zero = trace.layers.set_column(column, "relative_flatness", [values])
    said = series.told(_with(trace, trace.steps, zero), "head")
    assert "nan" not in said and "inf" not in said and "falls" not in said and "rises by" in said


def _with(trace, steps, layers):
    return replace(trace, steps=steps.cast(trace.steps.schema), layers=layers.cast(trace.layers.schema))


@pytest.mark.parametrize(("steps", "dtick"), [(1, 1), (3, 1), (6, 1), (40, None)])
def test_steps_have_no_ticks_between_them(steps, dtick):
    found = page_data.pages([make_trace(30, steps)])["runs"][0]["figures"]
    for name in ("valley", "margin", "loss", "ledger"):
        for variant in found[name]["variants"].values():
            axis = (found[name]["layout"] | variant["layout"])["xaxis"]
            low, high = axis["range"]
            assert axis.get("dtick", None) == (1 if high - low < 8 else None) and (dtick is None or high - low < 16)


def test_the_picture_without_a_script_has_the_same_ticks():
    def said(axis):
        return [text for _, text in _Axis(axis, [], 0.0, 1.0).ticks]

    assert said({"range": [-1.5, 1.5], "dtick": 1}) == ["−1", "0", "1"]
    assert said({"range": [0.0, 40.0]}) == ["0", "10", "20", "30", "40"]
    assert said({"range": [-3.1, 0.1], "type": "log"}) == ["10⁻³", "10⁻²", "10⁻¹", "1"]
    assert said({"range": [-3.4, -2.8], "type": "log"}) == ["0.0005", "0.001"]


def test_no_mark_is_cut_at_the_edge_of_flip_against_peak():
    found = series.FlipPeakCounts(np.array([0, 40, 40]), np.array([40, 0, 40]), np.array([9, 9, 9]))
    made = drawn.counts(found, 40)
    largest = float(np.max(made["data"][0]["marker"]["size"])) / 2
    for axis in ("xaxis", "yaxis"):
        low, high = made["layout"][axis]["range"]
        assert (0 - low) / (high - low) * 150 >= largest - 0.5 and (high - 40) / (high - low) * 150 >= largest - 0.5
    nothing = drawn.counts(series.FlipPeakCounts(*[np.zeros(0, dtype=np.int64)] * 3), 40)
    assert [note["text"] for note in nothing["layout"]["annotations"]] == ["no sample flips"]


@pytest.mark.parametrize(
    ("ends", "ticks"), [([0, 0.8], {"nticks": 6}), ([0.9, 2.1], {"dtick": "D2"}), ([-3, 4], {"dtick": 1})]
)
def test_logarithmic_ticks_leave_each_other_room(ends, ticks):
    assert layout.decades_axis(ends, "log") == ticks


def test_a_side_that_is_too_narrow_for_its_words_has_none():
    def words(xs):
        return [note["text"] for note in drawn._sides(xs)[1]]

    assert words([-6, 20]) == ["<b>← prediction right</b>", "<b>prediction wrong →</b>"]
    assert words([-3, 20]) == ["<b>← right</b>", "<b>prediction wrong →</b>"]
    assert words([-2, 19]) == ["<b>prediction wrong →</b>"] and words([-19, 1]) == ["<b>← prediction right</b>"]


def test_a_targeted_attack_reaches_its_target_and_is_not_merely_wrong():
    plain, targeted = (make_trace(30, 12, targeted=target) for target in (None, "next"))
    for trace, said, unsaid in (
        (plain, "prediction wrong →", "target reached →"),
        (targeted, "target reached →", "wrong →"),
    ):
        layouts = page_data.pages([trace])["runs"][0]["figures"]["valley"]
        text = str([layouts["layout"], *(variant["layout"] for variant in layouts["variants"].values())])
        assert said in text and unsaid not in text
        # As in a notebook, and in the picture that stands without a script.
        assert said in str(figures.valley(trace).layout.annotations) and said in page.picture(trace)
    still = lead(targeted, {ATTACK: Shares([None] * 9)}, accuracy(targeted))
    assert "none is taken for its target on its path" in still.below


def test_one_point_is_a_mark_and_no_line():
    assert layout.curve_line([0, 1], [np.nan, 2.0], "attack")["mode"] == "lines+markers"
    assert layout.curve_line([0, 1], [1.0, 2.0], "attack")["mode"] == "lines"


def test_powers_of_ten_are_no_prefixes():
    made = layout.figure_layout(xaxis={"type": "log"}, yaxis={})
    assert [made[axis]["exponentformat"] for axis in ("xaxis", "yaxis")] == ["power", "e"]


def test_the_title_of_the_loss_is_true():
    assert series.rising(make_trace())
    still = make_trace(flips=False)
    column = still.steps.column_names.index("loss")
    steps = still.steps.set_column(column, "loss", [np.zeros(len(still.steps))])
    assert not series.rising(_with(still, steps, still.layers))
