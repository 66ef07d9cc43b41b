"""Files of surfaces, gradients and PyHessian's numbers as a stranger may have written them: one line, or harmless."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

import flatlens as fl
from flatlens.errors import RunError
from flatlens.records import runs
from flatlens.records.schema import PEERS
from tests import strangers
from tests.edited import unsealed

Arrays = dict[str, Any]
NEW = ("surfaces.safetensors", "gradients.safetensors", "peers.parquet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strange") / "run"
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fl.CautionWarning)
        fl.trace(net, x, y, attack=fl.attacks.PGD(eps=0.5, steps=2), surface=True, out=folder)
    row = dict.fromkeys(PEERS.names, 1) | {"at": "clean", "layer": "head", "method": "exact", "exact": True}
    runs.load(folder).save_table("peers", pa.Table.from_pylist([row], schema=PEERS))
    return folder


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fl.CautionWarning)
        yield


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def put(name: str, at: Any, value: float) -> Callable[[Arrays], Arrays]:
    def change(found: Arrays) -> Arrays:
        values = found[name].copy()
        values[at] = value
        return found | {name: values}

    return change


def grown(found: Arrays, points: int) -> Arrays:
    """The same with axes of so many points, and no weights."""
    held = {k: v for k, v in found.items() if not k.startswith("weight_")}
    return {k: np.zeros([points if n == 41 else n for n in v.shape], v.dtype) for k, v in held.items()}


SURFACES: dict[str, Callable[[Arrays], Arrays]] = {
    "nothing": lambda _: {"a": np.zeros(1)},
    "no κ": lambda found: {k: v for k, v in found.items() if k != "kappa"},
    "a part of the weights": lambda found: {k: v for k, v in found.items() if k != "weight_loss"},
    "κ in float32": lambda found: found | {"kappa": found["kappa"].astype(np.float32)},
    "samples as fractions": lambda found: found | {"sample": found["sample"].astype(np.float64)},
    "fewer samples": lambda found: found | {"sample": found["sample"][:-1]},
    "an axis too short": lambda found: found | {"u": found["u"][:, :-1]},
    "no square": lambda found: found | {"loss": found["loss"][:, :-1]},
    "flat": lambda found: {k: v.reshape(-1) for k, v in found.items()},
    "samples twice": lambda found: found | {"sample": np.zeros_like(found["sample"])},
    "an axis backwards": lambda found: found | {"v": found["v"][:, ::-1]},
    "an axis not finite": put("u", (0, -1), np.nan),
    "an infinite axis of weights": put("weight_s", (0, 0, -1), np.inf),
    "a negative class": put("prediction", (0, 0, 0), -1),
    "another row": put("way_row", -1, 99),
    "rows out of order": lambda found: found | {"way_row": found["way_row"][::-1]},
    "another path": put("way_path", 0, 7),
    "a negative step": put("way_step", 0, -1),
    "off by nothing known": put("way_off", 0, np.nan),
    "a corner nowhere": put("corner_at", (0, 0, 0), np.inf),
    "a third point of no kind": put("third_kind", 0, 3),
    "a third point that is none": put("third_x", 0, np.nan),
    "a plane of no step": put("weight_step", (0, 0), -2),
    "a plane of no length": put("weight_length", (0, 0), np.nan),
    "many points": lambda found: grown(found, 1_100),
}
HARMLESS: dict[str, Callable[[Arrays], Arrays]] = {
    "κ of NaN": put("kappa", (0, 0, 0), np.nan),
    "an infinite loss": put("loss", (0, 0, 0), np.inf),
    "a tensor more": lambda found: found | {"new": np.zeros(3)},
    "no weights": lambda found: {k: v for k, v in found.items() if not k.startswith("weight_")},
    "other samples": lambda found: found | {"sample": found["sample"] + 1000},
}
GRADIENTS: dict[str, Callable[[Arrays], Arrays]] = {
    "nothing": lambda _: {"a": np.zeros(1)},
    "no steps": lambda found: {k: v for k, v in found.items() if k != "step"},
    "fewer steps": lambda found: found | {"step": found["step"][:-1]},
    "whole numbers": lambda found: found | {"values": found["values"].astype(np.int64)},
    "flat": lambda found: found | {"values": found["values"].reshape(-1)},
    "own as fractions": lambda found: found | {"own": found["own"].astype(np.float32)},
}


@pytest.mark.parametrize("kind", SURFACES)
def test_what_is_wrong_in_surfaces_is_one_line(kind: str, own: Path) -> None:
    refused(own, "surfaces.safetensors", SURFACES[kind])


@pytest.mark.parametrize("kind", GRADIENTS)
def test_what_is_wrong_in_gradients_is_one_line(kind: str, own: Path) -> None:
    refused(own, "gradients.safetensors", GRADIENTS[kind])


def refused(own: Path, name: str, change: Callable[[Arrays], Arrays]) -> None:
    file = own / name
    save_file({k: np.ascontiguousarray(v) for k, v in change(load_file(file)).items()}, file)
    for whole in (True, False):
        with pytest.raises(RunError, match=f"damaged: .*{name}.*; run it again with --force") as caught:
            runs.load(unsealed(own)).trace(whole=whole)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_harms_nobody_is_read(kind: str, own: Path) -> None:
    file = own / "surfaces.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in HARMLESS[kind](load_file(file)).items()}, file)
    found = runs.load(unsealed(own)).trace().surfaces
    assert found is not None and len(list(found)) == 5
    assert all(len(one.weights) == (0 if kind == "no weights" else len(one.weights)) for one in found)


@pytest.mark.parametrize("kind", [*strangers.PLACES, *strangers.CONTENTS])
@pytest.mark.parametrize("name", NEW)
def test_no_file_of_a_stranger_is_more_than_one_line(name: str, kind: str, own: Path) -> None:
    unsealed(own)
    if kind in strangers.PLACES:
        strangers.PLACES[kind](own / name)
    else:
        (own / name).write_bytes(strangers.CONTENTS[kind])
    if kind == "gone":
        trace = runs.load(own).trace()
        assert getattr(trace, name.partition(".")[0]) is None
        return
    with pytest.raises(RunError, match="damaged: ") as caught:
        runs.load(own).trace()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NEW)
def test_a_changed_byte_is_noticed(name: str, own: Path) -> None:
    content = bytearray((own / name).read_bytes())
    content[-5] ^= 1
    (own / name).write_bytes(content)
    with pytest.raises(RunError, match=f"{name} is not what was written"):
        fl.open(own)


def test_peers_without_a_key_are_refused_and_later_columns_are_null(own: Path) -> None:
    unsealed(own)
    table = pq.read_table(own / "peers.parquet")
    pq.write_table(table.drop_columns("peer_trace"), own / "peers.parquet")
    found = fl.open(own).peers
    assert found["peer_trace"].null_count == 1
    pq.write_table(table.drop_columns("sample"), own / "peers.parquet")
    with pytest.raises(RunError, match="there is no column 'sample'"):
        fl.open(own)


def test_older_runs_have_none(run: Path, tmp_path: Path) -> None:
    older = Path(shutil.copytree(run, tmp_path / "older"))
    manifest = json.loads((older / "manifest.json").read_text())
    for name in NEW:
        (older / name).unlink()
        manifest["files"].pop(name)
    manifest.pop("sha256", None)
    (unsealed(older) / "manifest.json").touch()
    trace = runs.load(older).trace()
    assert trace.surfaces is None and trace.gradients is None and trace.peers is None


def test_a_trace_keeps_them_when_it_is_saved(run: Path, tmp_path: Path) -> None:
    trace = fl.open(run)
    trace.save(tmp_path / "again")
    again = fl.open(tmp_path / "again")
    assert all(np.array_equal(again.surfaces.tensors[k], v, equal_nan=True) for k, v in trace.surfaces.tensors.items())
    assert all(np.array_equal(a, b) for a, b in zip(again.gradients, trace.gradients, strict=True))
    assert again.peers.equals(trace.peers)
    assert set(again.manifest["files"]) == {p.name for p in (tmp_path / "again").iterdir()} - {
        "manifest.json",
        "report.html",
    }
    lazily = runs.load(tmp_path / "again").trace(whole=False)
    assert all(np.array_equal(a, b) for a, b in zip(lazily.gradients, trace.gradients, strict=True))


def test_a_sample_is_found_by_its_id(run: Path) -> None:
    found = fl.open(run).surfaces
    assert found.of(3).sample == 3
    with pytest.raises(RunError, match=r"there is no surface of sample 99; those that have one: \[0, 1, 2, 3, 4\]"):
        found.of(99)
