"""A sweep on Ray in a stranger's folder: nothing that lies in it is imported, in whatever process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from tests import assets

pytestmark = pytest.mark.faults

assets.package("ray", "pip install 'flatlens[ray]'")

MODULES = (
    *("pickle", "cloudpickle", "torch", "numpy", "json", "sitecustomize", "usercustomize", "flatlens", "flatlens_cli"),
    *("psutil", "socket", "selectors", "signal", "asyncio", "logging", "encodings", "site", "multiprocessing", "ray"),
    *("grpc", "aiohttp", "setproctitle", "colorama", "pyarrow", "safetensors", "filelock", "tomllib", "typing"),
    *("queue", "random", "subprocess", "threading", "uuid", "yaml", "msgpack", "google", "dataclasses", "traceback"),
)
BASE = {"model": "flatlens:mlp?width=4", "data": "flatlens:digits", "steps": 1, "limit": 2, "device": "cpu"}


@pytest.fixture
def hostile() -> Iterator[Path]:
    """A folder whose modules leave a file each when they are imported."""
    folder = Path(tempfile.mkdtemp(prefix="fl-", dir="/tmp"))  # sockets lie in it: a short name
    for name in MODULES:
        code = f"import os\nos.close(os.open({str(folder / 'ran')!r} + '-{name}', os.O_CREAT | os.O_WRONLY))\n"
        (folder / f"{name}.py").write_text(code + f"raise ImportError('{name} of a stranger')\n")
    (folder / "sweep.toml").write_text(tomli_w.dumps({"run": BASE, "grid": {"seed": [0, 1]}}))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_no_worker_imports_from_the_working_folder(hostile: Path) -> None:
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHON"))}
    mine |= {"TMPDIR": str(hostile), "HOME": str(hostile), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [Path(sys.executable).with_name("flatlens"), "sweep", "sweep.toml", "--out", "out", "--engine", "ray",
         "--workers", "1", "--json"],
        cwd=hostile, env=mine, capture_output=True, text=True,
    )  # fmt: skip
    assert not [file.name for file in hostile.glob("ran-*")], done.stderr
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["done"] == 2
