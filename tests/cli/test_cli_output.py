"""The command line, in this process: failures, exit codes, and what is printed where."""

from __future__ import annotations

import json
import os
import sys
import types

import numpy as np
import pytest
from flatlens_cli import app, summary, terminal

from flatlens.errors import ResourceError, RunError
from flatlens.measure import run as execute
from flatlens.progress import Progress
from flatlens.records.runs import Run
from flatlens.records.schema import Caution
from tests.synthetic import make_trace

NEEDED = ["--model", "flatlens:digits-cnn", "--data", "flatlens:digits"]


@pytest.fixture
def finished(monkeypatch, tmp_path):
    """`execute.run` made to return a run with a known trace; gives what the run shall be."""
    known = types.SimpleNamespace(trace=make_trace(30, 10), resumed="new", error=None, printed="", drawn=0, compared=0)

    class Known(Run):
        def trace(self, *, whole=True):
            return known.trace

    def run(of, out, *, force=False, progress=None):
        progress(Progress(1, 2, "attack, batch 1 of 2"))
        print(known.printed, end="")
        if known.error:
            raise known.error
        return Known(tmp_path, {}, known.resumed)

    def write(traces, file):
        known.drawn += 1
        file.write_text("page")
        return file

    def add_spectrum(done):
        known.compared += 1
        return done

    monkeypatch.setattr(execute, "run", run)
    monkeypatch.setattr("flatlens.report.page.write", write)
    # The run has no folder with tables, into which the real one would put more.
    monkeypatch.setattr("flatlens.peers.spectrum.add_spectrum", add_spectrum)
    return known


# ---- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RunError("another run: eps 0.2\ninstead of 0.3"), 2, "error: another run: eps 0.2 instead of 0.3\n"),
        (ResourceError("out of memory"), 1, "error: out of memory\n"),
        (KeyError("x"), 1, "error: internal: KeyError: 'x'; run again with --debug\n"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(flatlens, finished, tmp_path, error, code, said):
    finished.error = error
    assert flatlens("trace", *NEEDED, "--out", tmp_path) == (code, "", said)


@pytest.mark.parametrize("place", [0, 1])
def test_debug_shows_the_traceback_wherever_it_stands(flatlens, finished, tmp_path, place):
    finished.error = KeyError("x")
    words: list[object] = ["demo", "--out", tmp_path]
    words.insert(place * len(words), "--debug")
    answer = flatlens(*words)
    assert answer.code == 1
    assert answer.err.startswith("Traceback")
    assert answer.err.endswith("error: internal: KeyError: 'x'\n")


def test_an_interrupt_says_what_is_saved(flatlens, finished, tmp_path):
    finished.error = KeyboardInterrupt()
    answer = flatlens("trace", *NEEDED, "--out", tmp_path)
    assert answer == (130, "", "interrupted: nothing was saved yet\n")


# ---- what is printed where ----------------------------------------------------------------------


def test_a_summary_says_everything_in_80_columns(flatlens, finished, tmp_path):
    finished.trace = make_trace(30, 10, cautions=(Caution("code", "beware of this"),))
    answer = flatlens("trace", *NEEDED, "--out", tmp_path)
    assert (answer.code, answer.err) == (0, "")
    found = finished.trace.valley().summary()
    share = found.valley_of_flipped
    for said in (
        "flatlens:digits-cnn",
        "pgd, linf, eps 0.3, 10 steps of 0.075",
        "line-to-other-class",
        f"{found.flipped.count} of {found.flipped.n}",
        f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]",
        "caution  beware of this",
        f"report   {tmp_path / 'report.html'}",
    ):
        assert said in answer.out
    table = answer.out.split("\n\n")[1].splitlines()
    assert max(map(len, table)) <= 80
    assert not [line for line in answer.out.splitlines() if line != line.rstrip()]


def test_a_path_that_never_flips_has_no_medians(flatlens, finished, tmp_path):
    finished.trace = make_trace(10, 5, flips=False)
    answer = flatlens("demo", "--out", tmp_path)
    assert answer.code == 0
    assert "nan" not in answer.out
    assert "–" in answer.out


def test_json_is_one_object_and_people_read_stderr(flatlens, finished, tmp_path):
    finished.trace = make_trace(10, 5, flips=False, cautions=(Caution("code", "beware"),))
    finished.printed = "a model of one's own that prints"
    answer = flatlens("trace", *NEEDED, "--out", tmp_path, "--json")
    assert answer.out.count("\n") == 1
    result = json.loads(answer.out, parse_constant=pytest.fail)
    assert finished.printed in answer.err
    assert "accuracy" in answer.err
    assert list(result) == [
        "run", "report", "resumed", "spec", "accuracy", "paths", "cautions", "measure", "layer",
    ]  # fmt: skip
    assert result["paths"]["attack"]["valley_of_flipped"] == dict.fromkeys(("value", "low", "high")) | {
        "count": 0,
        "n": 0,
    }
    assert result["accuracy"]["n"] == 10
    assert result["cautions"] == [{"code": "code", "message": "beware"}]
    assert result["spec"]["eps"] == 0.3


def test_facts_are_those_of_the_trace():
    trace = make_trace(40, 12)
    facts = summary.facts(trace)
    for path in trace.paths:
        want = trace.valley(path=path).summary()
        assert facts["paths"][path]["flipped"] == want.flipped._asdict()
        assert facts["paths"][path]["depth"] == want.depth._asdict()
    right = trace.matrix("prediction").values == trace.matrix("label").values
    assert facts["accuracy"] == {"clean": right[:, 0].mean(), "attacked": right[:, -1].mean(), "n": 40}


def test_quiet_prints_nothing_but_json(flatlens, finished, tmp_path):
    assert flatlens("demo", "--out", tmp_path, "--quiet") == (0, "", "")
    answer = flatlens("demo", "--out", tmp_path, "--quiet", "--json")
    assert answer.err == ""
    assert json.loads(answer.out)["layer"] == "head"


@pytest.mark.parametrize(
    ("words", "times"), [(["demo"], 1), (["trace", *NEEDED], 0), (["trace", *NEEDED, "--spectrum"], 1)]
)
def test_the_spectrum_is_measured_where_it_is_asked_for_and_in_the_demo(flatlens, finished, tmp_path, words, times):
    assert flatlens(*words, "--out", tmp_path).code == 0
    assert finished.compared == times


def test_a_finished_run_says_so_and_keeps_its_report(flatlens, finished, tmp_path):
    finished.resumed = "finished"
    answer = flatlens("trace", *NEEDED, "--out", tmp_path)
    assert answer.err == f"nothing to do: '{tmp_path}' holds this run, finished\n"
    assert "accuracy" in answer.out
    assert finished.drawn == 1, "a report that is missing is drawn"
    flatlens("trace", *NEEDED, "--out", tmp_path)
    assert finished.drawn == 1


@pytest.mark.parametrize(
    ("value", "text"), [(1.4494, "1.45"), (46.71, "46.7"), (9216.0, "9200"), (1.4e6, "1.4e+06"), (np.inf, "inf")]
)
def test_ratios_are_short(value, text):
    assert summary._ratio(value) == text


def test_eps_is_shown_as_it_is_written():
    line = {"attack": "pgd", "norm": "linf", "eps": 8 / 255, "steps": 40, "step_size": 0.5 / 255}
    assert summary.attack(line) == "pgd, linf, eps 8/255, 40 steps of 0.00196"
    assert summary.attack(line | {"steps": 1}) == "pgd, linf, eps 8/255, 1 step of 0.00196"
    assert summary.attack(line | {"targeted": "3", "random_start": True}).endswith("random start, targeted: 3")


def test_plain_data_hold_what_json_can():
    odd = {"a": np.float64("nan"), "b": (np.int64(3), float("inf")), "c": terminal, 1: None, "d": True}
    plain = terminal.plain(odd)
    assert plain["a"] is None
    assert plain["b"] == [3, None]
    assert (plain["1"], plain["d"]) == (None, True)


# ---- listings and the rest ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "name"),
    [("attacks", "pgd"), ("attacks", "gaussian-noise"), ("models", "flatlens:digits-cnn"), ("datasets", "idx")],
)
def test_a_listing_has_a_line_for_each(flatlens, command, name):
    answer = flatlens(command)
    assert (answer.code, answer.err) == (0, "")
    (line,) = [line for line in answer.out.splitlines() if line.split()[:1] == [name]]
    assert len(line.split()) > 3
    assert name in {key for group in json.loads(flatlens(command, "--json").out).values() for key in group}


def test_layers_of_a_model(flatlens):
    answer = flatlens("layers", "--model", "flatlens:cnn")
    assert (answer.code, answer.err) == (0, "")
    head = next(line for line in answer.out.splitlines() if "head" in line)
    assert head.split()[:7] == ["fc", "=", "head", "Linear", "10", "×", "48"]
    rows = json.loads(flatlens("layers", "--model", "flatlens:cnn", "--json").out)["layers"]
    assert [row["name"] for row in rows if row["is_head"]] == ["fc"]


def test_doctor_says_what_is_there_and_what_is_missing(flatlens, monkeypatch):
    answer = flatlens("doctor")
    assert (answer.code, answer.err) == (0, "")
    for name in ("flatlens", "torch", "pyhessian", "cpu", "float64"):
        assert name in answer.out
    from flatlens_cli import doctor

    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "pandas" else real(name))
    assert "pip install 'flatlens[pandas]'" in flatlens("doctor").out
    assert json.loads(flatlens("doctor", "--json").out)["missing"] == {"pandas": "pip install 'flatlens[pandas]'"}


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_names_every_command(flatlens, words):
    answer = flatlens(*words)
    assert answer.code == 0
    for name in ("demo", "trace", "report", "layers", "models", "datasets", "attacks", "doctor"):
        assert name in answer.out


def test_version(flatlens):
    import flatlens as library

    assert flatlens("--version") == (0, f"flatlens {library.__version__}\n", "")


def test_output_that_nobody_reads_is_no_failure(tmp_path, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nowhere:
        monkeypatch.setattr(sys, "stdout", nowhere)
        assert app.run(["attacks"]) == 0
        terminal.say("more")
