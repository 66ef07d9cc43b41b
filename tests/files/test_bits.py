"""No bit that changes on a disk goes unnoticed, and nothing finished is lost: by flips, typos, two at once."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flatlens_cli import app

import flatlens as fl
from flatlens.errors import RunError, SpecError
from flatlens.export import table as exporting
from flatlens.measure import run as execute
from flatlens.records import claims
from flatlens.records.schema import SPECTRUM
from flatlens.specs.run import RunSpec
from flatlens.specs.train import TrainSpec
from flatlens.sweeps.finished import figures, keys
from flatlens.sweeps.folder import Failure
from flatlens.sweeps.supervisor import run_sweep
from flatlens.training import recipes as trained
from tests.expected import cautioned

pytestmark = cautioned("low-accuracy", "zero-gradient")

FLIPS = 100
SPEC = RunSpec(model="flatlens:mlp?width=4", data="flatlens:digits", steps=2, limit=6, batch_size=3, device="cpu")
FILES = ("manifest.json", "spec.toml", "steps.parquet", "layers.parquet", "images.safetensors", "spectrum.parquet")


def flips(content: bytes, count: int = FLIPS, seed: int = 0) -> list[bytes]:
    """The content with one bit the other way round, at so many places."""
    places = random.Random(seed).sample(range(8 * len(content)), min(count, 8 * len(content)))
    found = []
    for place in places:
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        found.append(bytes(changed))
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bits") / "run"
    run = execute.run(SPEC, folder)
    columns = {"at": ["clean", "end"], "eigenvalue": [0.5, 1.5], "weight": [0.1, 0.9], "samples": [2, 2]}
    run.save_table("spectrum", pa.table(columns, schema=SPECTRUM))
    fl.open(folder).report(folder / "report.html")
    return folder


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("name", FILES)
def test_no_flipped_bit_of_a_run_is_silent(own: Path, name: str) -> None:
    file = own / name
    content = file.read_bytes()
    fl.open(own)
    for changed in flips(content):
        file.write_bytes(changed)
        with pytest.raises(RunError, match="damaged: .*; run it again with --force|--force") as caught:
            fl.open(own)
        assert "\n" not in str(caught.value)
        if name in FILES[2:4]:
            with pytest.raises(RunError):
                exporting.export(own, out=own.parent / "e.csv")
    if name == "images.safetensors":
        with pytest.raises(RunError):
            exporting.export(own, out=own.parent / "e.csv", images=True)
    file.write_bytes(content)
    fl.open(own)


def test_no_flipped_bit_of_a_cell_s_figures_is_silent(small_sweep: Path, tmp_path: Path) -> None:
    sweep = fl.open(shutil.copytree(small_sweep, tmp_path / "out"))
    key = keys(sweep)[0]
    for name in ("digest.json", "manifest.json"):
        file = sweep.cell(key) / name
        content = file.read_bytes()
        for changed in flips(content):
            file.write_bytes(changed)
            with pytest.raises(RunError, match=f"cell {key} .* is damaged: "):
                figures(sweep, key)
        file.write_bytes(content)


def test_no_flipped_bit_of_a_plan_or_a_failure_is_silent(small_sweep: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(small_sweep, tmp_path / "out"))
    sweep = fl.open(path)
    plan, key = dict(sweep.plan), next(iter(sweep.plan))
    sweep.fail(key, Failure("it broke", "ModelError", "", 1.0, 1))
    failure = sweep.failure(key)
    for file, read, said in (
        (path / "plan.json", lambda: fl.open(path).plan, plan),
        (path / "failed" / f"{key}.json", lambda: sweep.failure(key), failure),
    ):
        content = file.read_bytes()
        for changed in flips(content):
            file.write_bytes(changed)
            try:
                found = read()
            except RunError as error:
                assert "damaged" in str(error)
            else:
                # The key that the hash stands under is not what the record says; a failure may be told as damaged.
                assert found == said or "damaged" in found.error
        file.write_bytes(content)


def test_tables_bear_checksums_of_their_pages(finished: Path) -> None:
    """Also without the manifest: a flip within a page of values is found by whatever reads Parquet."""
    for name in ("steps", "layers"):
        content = (finished / f"{name}.parquet").read_bytes()
        column = pq.ParquetFile(finished / f"{name}.parquet").metadata.row_group(0).column(8)
        place = column.data_page_offset + column.total_compressed_size - 3
        damaged = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        with pytest.raises(OSError, match="checksum"):
            pq.read_table(pa.BufferReader(damaged), page_checksum_verification=True)


@pytest.mark.parametrize("name", ["steps.parquet", "layers.parquet", "images.safetensors", "json"])
@pytest.mark.parametrize("how", ["flipped", "emptied", "cut", "gone"])
def test_a_damaged_part_is_measured_again(name: str, how: str, finished: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    execute.measure(execute.begin(SPEC, place), [0, 1])
    part = place / "parts" / f"00001.{name}"
    content = part.read_bytes()
    changed = {"flipped": flips(content, 1, seed=len(name))[0], "emptied": b"", "cut": content[: len(content) // 2]}
    part.unlink() if how == "gone" else part.write_bytes(changed[how])
    done = execute.run(SPEC, place)
    for table in ("steps", "layers"):
        assert pq.read_table(place / f"{table}.parquet").equals(pq.read_table(finished / f"{table}.parquet"))
    assert done.resumed == "resumed" and not (place / "parts").exists()


# ---- models from the cache -----------------------------------------------------------------------


def test_weights_of_the_cache_are_those_of_their_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLATLENS_CACHE", str(tmp_path))
    recipe = TrainSpec("flatlens:digits", epochs=1, limit=40)
    made = trained.obtain("flatlens:mlp?width=4", recipe)
    (weights,) = tmp_path.glob("*.safetensors")
    record = weights.with_suffix(".json")
    for file in (weights, record):
        content = file.read_bytes()
        for changed in (*flips(content, 2), b"", content[:-9]):
            file.write_bytes(changed)
            assert trained.obtain("flatlens:mlp?width=4", recipe).sha256 == made.sha256
        assert trained.obtain("flatlens:mlp?width=4", recipe).sha256 == made.sha256


def test_damaged_weights_of_one_s_own_are_said(tmp_path: Path) -> None:
    recipe, file = TrainSpec("flatlens:digits", epochs=1, limit=40), tmp_path / "m.safetensors"
    trained.train("flatlens:mlp?width=4", recipe, file)
    content = file.read_bytes()
    file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(RunError, match="is damaged: its weights are not those that 'm.json' tells of; .* --force"):
        trained.train("flatlens:mlp?width=4", recipe, file)
    assert trained.train("flatlens:mlp?width=4", recipe, file, force=True).resumed == "new"


# ---- what is finished stays -----------------------------------------------------------------------


def trace(place: Path, *more: str, **other: object) -> list[str]:
    keys = ("model", "data", "steps", "limit", "batch_size", "device")
    values = {key: value for key, value in SPEC.to_dict().items() if key in keys} | other
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in values.items()]
    return ["trace", *flags, "--out", str(place), *more]


@pytest.mark.parametrize(
    "typo",
    [{"model": "flatlens:mpl"}, {"model": "missing.py:f"}, {"data": "npz:missing.npz"}, {"eps": "-1"},
     {"layer": "nothing"}, {"device": "cuda:99"}, {"attack": "torchattacks:Nothing"}, {"samples": "99999"},
     {"attack": "path:missing.npz"}],
    ids=str,
)  # fmt: skip
def test_a_typo_beside_force_removes_nothing(
    typo: dict[str, str], own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(own)
    assert app.run(trace(own, "--force", "--quiet", **typo)) == 2
    assert capsys.readouterr().err.count("\n") == 1 and files(own) == before


def test_force_replaces_what_is_finished_or_damaged(own: Path) -> None:
    (own / "notes.txt").write_text("mine")
    other = execute.run(replace(SPEC, seed=1), own, force=True)
    assert other.resumed == "new" and other.spec.seed == 1 and not (own / "report.html").exists()
    (own / "manifest.json").write_text("{")
    assert execute.run(SPEC, own, force=True).spec.seed == 0
    assert (own / "notes.txt").read_text() == "mine"


def test_two_at_once(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (own, tmp_path / "new"):
        with claims.claimed(place):
            before = files(place)
            for more in ([], ["--force"]):
                assert app.run(trace(place, "--quiet", *more)) == 2
                said = capsys.readouterr().err
                assert said == (
                    f"error: process {os.getpid()} on {socket.gethostname()} is at work on '{place}'; wait for it, or "
                    "stop it: nothing that it finished is lost\n"
                )
            assert files(place) == before
    assert not (tmp_path / "new").exists() and not list(own.glob(".lock*"))
    # Of one that was killed, the lock is let go of by itself.
    for name in claims.LOCK:
        (own / name).write_text("")
    assert app.run(trace(own, "--quiet")) == 0 and not list(own.glob(".lock*"))


def test_a_page_that_was_emptied_is_drawn_again(own: Path) -> None:
    page = own / "report.html"
    whole = page.read_bytes()
    for spoil in (
        lambda: page.write_bytes(b""),
        lambda: page.write_bytes(whole[:1000]),
        page.unlink,
        lambda: (page.unlink(), page.symlink_to("nowhere")),
    ):
        spoil()
        assert app.run(trace(own, "--quiet")) == 0
        assert page.is_file() and not page.is_symlink() and page.read_bytes().rstrip().endswith(b"</html>")
    stamp = page.stat().st_mtime_ns
    assert app.run(trace(own, "--quiet")) == 0 and page.stat().st_mtime_ns == stamp


def test_leftovers_of_killed_writers_go_and_others_stay(own: Path) -> None:
    for write, name in (
        (lambda: exporting.export(own), "export.csv"),
        (lambda: exporting.export(own, images=True), "export.npz"),
        (lambda: fl.open(own).report(own / "report.html"), "report.html"),
    ):
        dead, alive, other = (own / f".{name}.{end}.tmp" for end in ("99-ab", "98-cd", "x"))
        other = own / ".other.csv.99-ab.tmp"
        for file in (dead, alive, other):
            file.write_text("half")
        with alive.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            write()
        assert not dead.exists() and alive.exists() and other.exists()
        alive.unlink()


# ---- sweeps ---------------------------------------------------------------------------------------


def sweep_file(folder: Path, images: str, more: str = "", model: str = "flatlens:mlp?width=4") -> Path:
    file = folder / "s.toml"
    file.write_text(
        f'[run]\nmodel = "{model}"\ndata = "flatlens:digits"\nsteps = 1\nlimit = 2\ndevice = "cpu"\n'
        f'images = "{images}"\n{more}\n[grid]\nseed = [0, 1]\n'
    )
    return file


def test_other_inputs_to_keep_are_no_reason_to_measure_again_and_that_is_said(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_sweep(sweep_file(tmp_path, "key"), out, workers=1).notes == []
    page = out / "cells" / next(iter(fl.open(out).plan)) / "report.html"
    page.write_bytes(b"")
    again = run_sweep(sweep_file(tmp_path, "all"), out, workers=1)
    assert (again.done, again.new) == (2, 0)
    (note,) = again.notes
    assert note.startswith("2 finished cells keep their inputs as they are, images = key, and not all: ")
    assert {spec["images"] for spec in fl.open(out).plan.values()} == {"key"}
    for key in fl.open(out).plan:
        assert fl.open(out).trace(key).spec["images"] == "key"
    assert page.read_bytes().rstrip().endswith(b"</html>")
    (out / "plan.json").unlink()
    run_sweep(sweep_file(tmp_path, "all"), out, workers=1)
    assert {spec["images"] for spec in fl.open(out).plan.values()} == {"key"}
    # A shard for which there is nothing to do is a mistake, and no success.
    with pytest.raises(SpecError, match="--shard 3/3: has nothing to do, as the sweep has 2 cells"):
        run_sweep(sweep_file(tmp_path, "all"), out, workers=1, shard=(3, 3))


def test_a_quiet_sweep_says_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = sweep_file(tmp_path, "key", model="ckpt:no-such.safetensors?arch=flatlens:mlp")
    for more in ([], ["--json"]):
        words = ["sweep", str(file), "--out", str(tmp_path / f"out{len(more)}"), "--workers", "1", "--quiet"]
        assert app.run([*words, *more]) == 1
        said = capsys.readouterr()
        assert said.err.startswith("2 of 2 cells failed: mend the cause and give --retry\nfailed: ")
        assert "no-such" in said.err and (not said.out or json.loads(said.out)["done"] == 0)
