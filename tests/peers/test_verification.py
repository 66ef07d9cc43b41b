"""`verify`: exact methods equal dense Hessians, and PyHessian lies where its own error says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from flatlens.peers.verify import verify


@pytest.mark.parametrize("model", ["flatlens:digits-cnn", "flatlens:cnn?act=silu"])
def test_this_machine_agrees(model: str) -> None:
    checks = verify(model)
    assert [c.layer for c in checks] == [name for name in ("conv1", "conv2", "hidden", "fc") for _ in range(2)]
    assert any(c.dense is not None for c in checks)
    for check in checks:
        if check.exact:
            assert check.error is None or check.error < 1e-8, check
            # The seed is fixed; four standard errors of a mean of 64 probes.
            assert abs(check.deviation) < (4 if check.stderr else 1e-3), check


def test_the_command_prints_a_table_and_json() -> None:
    command = [sys.executable, "-m", "flatlens", "verify"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "rel. error" in text and "closed-form" in text
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert {check["method"] for check in found["checks"]} == {"exact", "closed-form"}
