"""What is shipped, what becomes importable, and who imports whom."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import flatlens

ROOT = Path(__file__).resolve().parent.parent
RECORD_SIDE = (
    "flatlens.errors",
    "flatlens.specs.run",
    "flatlens.records.trajectory",
    "flatlens.records.valley",
    "flatlens.records.runs",
    "flatlens.records.unfinished",
    "flatlens.records.cautions",
    "flatlens.records.digest",
    "flatlens.records.matrices",
    "flatlens.datasets",
    "flatlens.attacks",
    "flatlens.models",
    "flatlens.progress",
    "flatlens.sweeps.grid",
    "flatlens.specs.wording",
    "flatlens.sweeps.folder",
    "flatlens.sweeps.owners",
    "flatlens.sweeps.opening",
    "flatlens.sweeps.finished",
    "flatlens.sweeps.hosting",
    "flatlens.sweeps.tables",
    "flatlens.export.table",
    "flatlens.sweeps.supervisor",
    "flatlens.sweeps.engines.local",
    "flatlens.sweeps.engines.worker",
)


OF_OTHERS = ("flatlens.callbacks.lightning", "flatlens.callbacks.huggingface")
"""Classes of optional packages: imported when they are asked for, and then need those."""


def modules(prefix: str = "flatlens.") -> list[str]:
    found = [m.name for m in pkgutil.walk_packages(flatlens.__path__, "flatlens.")]
    return [name for name in found if name.startswith(prefix) and name not in ("flatlens.__main__", *OF_OTHERS)]


def python(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return archive.namelist()


def test_a_wheel_holds_two_packages_and_nothing_else_at_its_top(wheel):
    top = {name.split("/")[0] for name in wheel}
    assert top == {"flatlens", "flatlens_cli", f"flatlens-{flatlens.__version__}.dist-info"}


@pytest.mark.parametrize("name", ["flatlens/py.typed", "flatlens_cli/py.typed", "flatlens/shipped/digits.npz"])
def test_a_wheel_holds_what_is_no_code(wheel, name):
    assert name in wheel


@pytest.mark.parametrize("pattern", ["flatlens/shipped/*", "flatlens/report/assets/**/*"])
def test_a_wheel_holds_every_file_of_a_data_folder(wheel, pattern):
    here = {str(file.relative_to(ROOT)) for file in ROOT.glob(pattern) if file.is_file() and file.suffix != ".pyc"}
    assert here
    assert here <= set(wheel)


@pytest.mark.parametrize("name", ["core/state.js", "pages/run.js", "colours.json", "plotly-cartesian.min.js"])
def test_a_wheel_holds_the_page(wheel, name):
    assert f"flatlens/report/assets/{name}" in wheel


def test_a_wheel_holds_the_trained_models(wheel):
    assert {"flatlens/shipped/digits-cnn.safetensors", "flatlens/shipped/digits-cnn-robust.safetensors"} <= set(wheel)


def test_a_wheel_holds_no_leftovers(wheel):
    assert not [name for name in wheel if "__pycache__" in name or name.endswith((".pyc", ".tmp", ".ipynb"))]


@pytest.mark.parametrize("name", ["cli", "tests", "data", "notebooks"])
def test_the_repositorys_other_folders_are_not_importable(name, tmp_path):
    # Another package may bring a `tests` of its own; ours must not be found.
    code = f"import importlib.util; print(importlib.util.find_spec({name!r}))"
    assert str(ROOT / name) not in python(code, tmp_path)


def test_both_packages_are_importable_from_anywhere(tmp_path):
    assert python("import flatlens, flatlens_cli.app; print(flatlens.__version__)", tmp_path) == flatlens.__version__


LIGHT = [*RECORD_SIDE, *modules("flatlens.report"), *modules("flatlens.viewer")]
APART = """
import os, sys
import numpy, pyarrow.parquet  # which are no torch, and what most of the time goes into
assert "torch" not in sys.modules
for name in sys.argv[1:]:
    if (child := os.fork()) == 0:
        __import__(name)
        os._exit("torch" in sys.modules)
    print(name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Each module is imported in a process of its own, of which none has imported another one."""


@pytest.fixture(scope="module")
def bring_torch(tmp_path_factory):
    done = subprocess.run(
        [sys.executable, "-c", APART, *LIGHT, "flatlens.victims.images"],
        cwd=tmp_path_factory.mktemp("apart"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", LIGHT)
def test_the_record_side_needs_no_torch(name, bring_torch):
    assert bring_torch[name] == "0"


def test_what_computes_does_need_it(bring_torch):
    assert bring_torch["flatlens.victims.images"] == "1"


def test_the_compute_side_does_not_draw(tmp_path):
    drawing = ("flatlens.report", "flatlens.viewer")
    names = [name for name in modules() if not name.startswith(drawing)]
    code = f"import sys, {', '.join(names)}; print([m for m in sys.modules if m.startswith('flatlens.report')])"
    assert python(code, tmp_path) == "[]"


def test_the_library_does_not_import_its_command_line(tmp_path):
    code = f"import sys, {', '.join(modules())}; print([m for m in sys.modules if m.startswith('flatlens_cli')])"
    assert python(code, tmp_path) == "[]"


def test_public_functions_stay_callable_after_every_submodule_is_imported(tmp_path):
    code = f"""
import {", ".join(modules())}
import flatlens as fl
assert all(callable(getattr(fl, name)) for name in ("trace", "curvature", "open"))
print(*fl.__all__)
"""
    assert python(code, tmp_path).split() == flatlens.__all__


def test_every_public_name_is_there():
    for name in flatlens.__all__:
        assert getattr(flatlens, name) is not None
    assert set(flatlens.__all__) <= set(dir(flatlens))
    with pytest.raises(AttributeError, match="no attribute 'tracee'"):
        _ = flatlens.tracee
