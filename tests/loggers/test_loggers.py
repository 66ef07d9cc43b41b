"""What trackers are told of a run is read back from their files, offline, by their own readers."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flatlens_cli import app

import flatlens as fl
from flatlens.errors import LoggerError
from flatlens.loggers import LOGGERS, history, made
from flatlens.records.trajectory import Trace
from tests import assets
from tests.expected import cautioned

pytestmark = [
    cautioned("flat-because-confident"),
    # of the libraries themselves
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
WORDS = "trace --model flatlens:digits-cnn --data flatlens:digits --eps 0.3 --steps 4 --limit 20 --control line-to-end"


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    out = tmp_path_factory.mktemp("run") / "run"
    assert app.run([*WORDS.split(), "--out", str(out), "--quiet"]) == 0
    return fl.open(out)  # type: ignore[no-any-return]


def test_the_history_is_that_of_the_table(trace: Trace) -> None:
    table = trace.to_pandas("steps")
    rows = table[(table["path"] == "attack") & (table["step"] == 3)]
    found = history.steps(trace)
    assert found["attack/loss"][3] == pytest.approx(np.median(rows["loss"]), rel=1e-12)
    assert found["attack/flipped"][3] == pytest.approx(rows["flipped"].mean(), rel=1e-12)
    layers = trace.to_pandas("layers")
    layers = layers[(layers["path"] == "line-to-end") & (layers["step"] == 2)]
    kappa = found["line-to-end/head/relative_flatness"][2]
    assert kappa == pytest.approx(np.median(layers["relative_flatness"]), rel=1e-12)
    assert {len(values) for values in found.values()} == {5}
    assert history.result(trace)["accuracy/attacked"] == pytest.approx(1 - rows["flipped"].mean(), abs=0.06)


def of_tensorboard(place: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    read = EventAccumulator(str(place))
    read.Reload()
    return {
        tag: [(one.step, float(tensor_util.make_ndarray(one.tensor_proto))) for one in read.Tensors(tag)]
        for tag in read.Tags()["tensors"]
    }


def of_mlflow(place: Path) -> dict[str, list[tuple[int, float]]]:
    from mlflow.tracking import MlflowClient

    read = MlflowClient(place.as_uri())
    experiment = read.get_experiment_by_name("flatlens")
    (run,) = read.search_runs([experiment.experiment_id])
    assert run.data.params["model"] == "flatlens:digits-cnn" and run.info.status == "FINISHED"
    assert {file.path for file in read.list_artifacts(run.info.run_id)} == {"note.txt"}
    return {
        tag: [(one.step, one.value) for one in read.get_metric_history(run.info.run_id, tag)]
        for tag in run.data.metrics
    }


def of_wandb(place: Path) -> dict[str, list[tuple[int, float]]]:
    """Records of the library's own messages; it has no reader in Python."""
    from wandb.proto import wandb_internal_pb2 as messages

    (file,) = place.glob("*.wandb")

    def whole() -> list[Any]:
        return [messages.Record.FromString(content) for content in records(file.read_bytes())]

    # Its own process writes the file, and is done with it a little after the run is.
    for _ in range(300):
        if any(record.WhichOneof("record_type") == "exit" for record in whole()):
            break
        time.sleep(0.1)
    found: dict[str, list[tuple[int, float]]] = {}
    artifacts = 0
    for record in whole():
        artifacts += record.WhichOneof("record_type") in ("artifact", "request") and "note.txt" in str(record)
        if record.WhichOneof("record_type") == "history":
            told = {"/".join([item.key, *item.nested_key]).strip("/"): item.value_json for item in record.history.item}
            for key, value in told.items():
                if not key.startswith("_"):
                    found.setdefault(key, []).append((int(told["_step"]), json.loads(value)))
        if record.WhichOneof("record_type") == "summary":
            for item in record.summary.update:
                key = "/".join([item.key, *item.nested_key]).strip("/")
                if key.startswith("result/"):
                    found[key] = [(0, json.loads(item.value_json))]
    assert artifacts
    return found


def records(content: bytes) -> Iterator[bytes]:
    """What a LevelDB log holds: blocks of 32 KiB, records cut into first, middle and last (after a header of 7)."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = struct.unpack_from("<HB", content, at + 4)
        whole += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield whole
            whole = b""


READ: dict[str, Any] = {"tensorboard": of_tensorboard, "wandb": of_wandb, "mlflow": of_mlflow}


@pytest.mark.parametrize("name", LOGGERS)
def test_what_was_told_is_read_back(name: str, trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets.package(name, f"pip install 'flatlens[{name}]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    note = tmp_path / "note.txt"
    note.write_text("x")
    place = made(name, tmp_path / "log").log(trace, name="first", files=[note])
    assert place.is_relative_to(tmp_path)
    found = READ[name](place)
    for tag, values in history.steps(trace).items():
        # The last step takes no gradient, and so tells no length of it.
        known = {step: value for step, value in enumerate(values) if np.isfinite(value)}
        assert dict(found[tag]) == pytest.approx(known, rel=1e-6) and len(known) >= 4, tag
    for tag, value in history.result(trace).items():
        (said,) = found[f"result/{tag}"]
        assert said == (0, pytest.approx(value, rel=1e-6)), tag


def test_a_tracker_that_cannot_write_loses_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assets.package("tensorboard", "pip install 'flatlens[tensorboard]'")
    from flatlens.loggers import tensorboard

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensorboard.history, "steps", full)
    out = tmp_path / "run"
    assert app.run([*WORDS.split(), "--out", str(out), "--log", "tensorboard", "--quiet"]) == 0
    said = capsys.readouterr().err
    assert "tensorboard could not write" in said and "the run itself is saved" in said and said.count("\n") == 1
    monkeypatch.undo()
    assert app.run([*WORDS.split(), "--out", str(out), "--log", "tensorboard"]) == 0  # later, without measuring again
    assert "nothing to do" in capsys.readouterr().err
    assert of_tensorboard(out / "log" / "tensorboard" / "run")["attack/loss"]
    assert app.run(["status", str(out)]) == 0


@pytest.mark.parametrize("name", LOGGERS)
def test_one_that_is_not_installed_is_told_of_before_anything_is_measured(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    out = tmp_path / "run"
    assert app.run([*WORDS.split(), "--out", str(out), "--log", name]) == 2
    assert f"pip install 'flatlens[{name}]'" in capsys.readouterr().err and not out.exists()


def test_there_is_no_other(tmp_path: Path) -> None:
    with pytest.raises(LoggerError, match=r"no logger 'tensorbord'; there are: .* Did you mean 'tensorboard'"):
        made("tensorbord", tmp_path)
