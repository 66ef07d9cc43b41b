"""The defences of a sweep: how trainings fold over their seeds, the sentence their numbers make, and the card."""

from __future__ import annotations

import math
import re
import statistics
from itertools import permutations

import numpy as np
import pytest

from flatlens.records.intervals import wilson
from flatlens.report import defences_card, sweep_page
from flatlens.report.defences import COLUMNS, folded
from flatlens.report.flat_or_robust import verdict
from flatlens.specs.train import TrainSpec
from tests import drawn_cells
from tests.drawn_cells import HOSTILE, cell, reached, spec


@pytest.fixture(scope="module")
def digest():
    return drawn_cells.digests()[0]


def of_rows(digest, rows, seeds=2, **more):
    """A training for each seed of each ``name: (κ, worst)``; seeds lie one point and a tenth of κ apart."""
    return [
        cell(
            10 * i + seed,
            spec(train=TrainSpec(epochs=3, eps=0.1, seed=seed, **drawn_cells.axes(name))),
            digest,
            trained=reached(kappa=kappa and kappa * (1 + 0.1 * seed), worst=worst + 0.01 * seed, **more),
        )
        for i, (name, (kappa, worst)) in enumerate(rows.items())
        for seed in range(seeds)
    ]


FOUR = {"none": (6.0, 0.40), "pgd": (30.0, 0.73), "trades": (45.0, 0.75), "fam": (0.3, 0.45)}
FIVE = FOUR | {"sam": (7.0, 0.42), "gradient": (16.0, 0.66)}


# --- folding


def test_trainings_fold_over_their_seeds(digest):
    cells = of_rows(digest, FOUR, seeds=3)
    found = folded([cells[0]._replace(key="again", spec=cells[0].spec | {"attack": "fgsm"}), *cells])
    assert [row["name"] for row in found["rows"]] == ["standard", "pgd", "trades", "fam"]
    assert [row["attacked"] for row in found["rows"]] == [False, True, True, False]
    assert {row["seeds"] for row in found["rows"]} == {3} and len(found["points"]) == 12
    for row, (kappa, worst) in zip(found["rows"], FOUR.values(), strict=True):
        for name, values in (
            ("kappa", [kappa * f for f in (1, 1.1, 1.2)]),
            ("worst", [worst + 0.01 * k for k in range(3)]),
        ):
            np.testing.assert_allclose(row[name], [statistics.mean(values), statistics.stdev(values), 3], rtol=1e-12)
    point = found["points"][4]
    assert (point["row"], point["seed"], point["n"]) == (1, 1, 400)
    assert point["worst"] == list(wilson(round(0.74 * 400), 400)[:3])
    assert (found["eps"], found["norm"], found["models"], found["enough"]) == (0.1, "linf", 1, False)
    assert folded(of_rows(digest, FOUR, seeds=5))["enough"]


def test_clean_and_worst_are_of_the_same_samples(digest):
    """The run attacked others: of those a worst case may even exceed the clean accuracy."""
    (told, ran) = (folded(of_rows(digest, {"none": (6.0, 0.4)}, seeds=1, clean=c))["rows"][0] for c in (0.93, None))
    assert told["clean"][0] == pytest.approx(0.93) and ran["clean"][0] == digest["accuracy"]["clean"]["value"]


def test_a_step_is_told_in_steps_of_the_standard_twin(digest):
    """Also where a defence has settings that standard training has no use for."""
    standard = cell(0, spec(train=TrainSpec(epochs=3)), digest, trained=reached(step_seconds=0.01))
    other = cell(1, spec(train=TrainSpec(epochs=4)), digest, trained=reached(step_seconds=0.5))
    train = TrainSpec(epochs=3, adversarial="pgd", steps=3, eps_warmup=2)
    defended = cell(2, spec(train=train), digest, trained=reached(step_seconds=0.04))
    rows = folded([standard, other, defended])["rows"]
    assert [row["cost"][0] for row in rows] == [1, 1, pytest.approx(4)]
    assert [row["cost"][0] for row in folded([other, defended])["rows"]] == [1, None]


def test_names_tell_rows_apart_by_what_else_differs(digest):
    specs = [spec(model, train=TrainSpec(epochs=e)) for model in ("flatlens:cnn", "flatlens:mlp") for e in (3, 4)]
    found = folded([cell(k, one, digest, trained=reached()) for k, one in enumerate(specs)])
    assert found["rows"][3]["name"] == "standard, flatlens:mlp, epochs 4" and found["models"] == 2


@pytest.mark.parametrize(
    "trained",
    [None, {}, [1], *({"worst": w} for w in (None, 3, {"value": None, "low": 0, "high": 1}, {"value": "1"}))],
)
def test_what_was_not_judged_makes_no_row(digest, trained):
    assert folded([cell(0, spec(train=TrainSpec(epochs=3)), digest, trained=trained)]) is None


@pytest.mark.parametrize(
    "left", ["clean", "kappa", "loss_gap", "lipschitz", "masked", "alarms", "step_seconds", "eps", "norm"]
)
def test_what_a_record_leaves_out_is_left_out(digest, left):
    whole = reached()
    found = folded(
        [cell(0, spec(train=TrainSpec(epochs=3)), digest, trained={k: v for k, v in whole.items() if k != left})]
    )
    assert verdict(found).sentence and defences_card.card(found)
    assert {name for name in COLUMNS if found["rows"][0][name][2] == 0} <= {left, "cost"}


def exact(values):
    """Spearman's without ties by its textbook formula, and the share of all orders that give as strong a one."""
    ranks = [np.argsort(np.argsort(column)) for column in zip(*values, strict=True)]
    n = len(values)
    rho = lambda order: 1 - 6 * ((order - ranks[1]) ** 2).sum() / (n * (n**2 - 1))  # noqa: E731
    own = rho(ranks[0])
    every = [abs(rho(np.array(order))) >= abs(own) - 1e-9 for order in permutations(range(n))]
    return own, float(np.mean(every))


@pytest.mark.parametrize("rows", [FOUR, FIVE], ids=len)
def test_the_correlation_is_the_textbooks_and_chance_is_that_of_all_orders(digest, rows):
    value, chance = folded(of_rows(digest, rows))["correlation"]
    expected, share = exact(list(rows.values()))
    assert value == pytest.approx(expected, abs=1e-12) and chance == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize(
    "rows",
    [
        dict(list(FOUR.items())[:3]),
        {**FOUR, "pgd": (None, 0.7)},
        dict.fromkeys(FOUR, (3.0, 0.5)),
    ],
    ids=["three", "one without a head", "all alike"],
)
def test_there_may_be_no_correlation(digest, rows):
    assert folded(of_rows(digest, rows))["correlation"] is None


# --- the sentence

SIX = list(FIVE)
RISING = {name: (10.0**k, 0.3 + 0.08 * k) for k, name in enumerate(SIX)}
FALLING = {name: (10.0**-k, 0.3 + 0.08 * k) for k, name in enumerate(SIX)}
NEARLY_ALIKE = {name: (10.0**k, 0.6 + 0.005 * k) for k, name in enumerate(SIX)}
NO_ORDER = {name: (10.0**k, v) for (k, name), v in zip(enumerate(SIX), (0.5, 0.3, 0.7, 0.35, 0.6, 0.45), strict=True)}


@pytest.mark.parametrize(
    ("rows", "begins", "holds"),
    [
        (RISING, "Flat is not robust, and robust is not flat:", "which 0.28 % of shufflings"),
        (FALLING, "Here the flatter defences are the more robust ones: gradient is both the flattest", "−1.00"),
        (NO_ORDER, "Flat or sharp does not tell robust here:", "no proof that there is none"),
        (dict(list(RISING.items())[:4]), "Flat or sharp does not tell robust here:", "+1.00"),  # 1 in 12 by chance
        (dict(list(RISING.items())[:3]), "3 defences are too few", "4 or more"),
        (dict(list(RISING.items())[:1]), "One defence is too few", "4 or more"),
        (dict.fromkeys(RISING, (None, 0.5)), "No defence with a closed-form κ is too few", "4 or more"),
        (NEARLY_ALIKE, "These defences are about as robust", "2.5 points"),
        (dict.fromkeys(RISING, (2.0, 0.6)), "These defences are about as robust", "0.0 points"),
    ],
    ids=["rising", "falling", "no order", "four", "three", "one", "no κ", "alike", "the same"],
)  # fmt: skip
def test_the_sentence_says_what_the_numbers_say(digest, rows, begins, holds):
    said = verdict(folded(of_rows(digest, rows)))
    assert said.sentence.startswith(begins), said.sentence
    assert holds in said.below, said.below
    assert ("Flat is not robust" in said.sentence) == begins.startswith("Flat is not robust")


def test_it_names_the_flattest_and_the_most_robust_with_their_numbers(digest):
    said = verdict(folded(of_rows(digest, RISING, seeds=1))).sentence
    assert "the flattest, standard (κ 1), reaches 30.0 % in the worst case" in said
    assert "the most robust, gradient (κ 1e+05), 70.0 %" in said


@pytest.mark.parametrize(("seeds", "said"), [(1, "With one seed"), (4, "With 4 seeds"), (5, None)])
def test_fewer_than_five_seeds_compare_nothing_within_four_points(digest, seeds, said):
    below = verdict(folded(of_rows(digest, RISING, seeds=seeds))).below
    assert ("±4 points" in below) == (said is not None) and (said is None or said in below)


def test_what_else_is_to_be_borne_in_mind(digest):
    below = verdict(folded(of_rows(digest, RISING, masked=True, alarms=["not-learnt"]))).below
    assert "6 of the 6 defences mask their gradients" in below and "6 of the 6 defences hold trainings" in below
    (one,) = (verdict(folded([*of_rows(digest, FOUR), *more])).below
              for more in [of_rows(digest, {"sam": (7.0, 0.42)}, seeds=1, masked=True)])  # fmt: skip
    assert "1 of the 5 defences masks its gradients: its worst case" in one
    two = [one._replace(spec=one.spec | {"model": f"m:{k}"}) for k, one in enumerate(of_rows(digest, RISING, seeds=1))]
    assert "κ of 6 different models" in verdict(folded(two)).below


def test_worst_cases_at_different_eps_are_not_compared(digest):
    cells = of_rows(digest, RISING, seeds=1)
    found = folded([cells[0]._replace(trained=reached(eps=0.2)), *cells[1:]])
    assert found["eps"] is None and "judged at different eps" in verdict(found).sentence


# --- the card


def texts(row):
    return [re.sub(r"<[^>]+>", "", part) for part in re.findall(r"<t[hd].*?</t[hd]>", row)]


def test_the_table_tells_each_mean_with_its_spread(digest):
    text = defences_card.card(folded(of_rows(digest, FOUR, alarms=["stands-still", "masked"], masked=True)))
    head, *rows = re.findall("<tr.*?</tr>", text)
    assert texts(head) == ["defence", "seeds", "clean, %", "worst case, %", "loss gap, nats", "κ, clean",
                           "Lipschitz bound", "valleys, % of the flipped", "a step, × standard", "masked"]  # fmt: skip
    found = texts(rows[1])
    spread = 100 * 0.01 / math.sqrt(2)
    assert found[0] == "◆ pgdstands still" and texts(rows[0])[0].startswith("●")
    assert found[1] == "2" and found[3] == f"73.5 ± {spread:.1f}" and found[5] == "31.5 ± 2.1" and found[-1] == "2 of 2"
    assert "class=alarmed" in rows[1]


def test_one_seed_has_no_spread_and_what_is_not_there_is_a_dash(digest):
    text = defences_card.card(folded(of_rows(digest, {"pgd": (None, 0.7)}, seeds=1)))
    found = texts(re.findall("<tr.*?</tr>", text)[1])
    assert found[3] == "70.0" and found[5] == "–" and found[8] == "–" and found[-1] == "–"


def test_without_trainings_by_recipe_there_is_no_card(digest):
    text = sweep_page.document([cell(0, spec(), digest)], name="s", plotly="plotly.min.js")
    assert 'id="defences-card"' not in text and '"defences":null' in text.replace(" ", "")


def test_hostile_names_and_alarms_stay_text(digest):
    hostile = [
        one._replace(spec=one.spec | {"model": HOSTILE + str(k)}, trained=reached(alarms=[HOSTILE], norm=HOSTILE))
        for k, one in enumerate(of_rows(digest, FOUR, seeds=1))
    ]
    text = sweep_page.document(hostile, name="s", plotly="plotly.min.js")
    assert "<img" not in text and text.count("<script") == text.count("</script") == 3
