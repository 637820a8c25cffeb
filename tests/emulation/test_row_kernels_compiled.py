"""The row kernels as compiled for sm_80, emulated, against the torch backend in float64.

In processes of their own: where kernels are interpreted, as in this one, none can be compiled.
``make emulate`` runs every case.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from lossgen import paths

LOSSES = {"gce", "cross_entropy", "kd_forward_kl", "dice", "trades", "token_stats"}


def emulated(which: str, word: str) -> list[dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(paths.PACKAGE.parent), *sys.path[1:]])
    command = [sys.executable, "-m", "tests.emulation", which, word]
    done = subprocess.run(
        command, env=environment, cwd=paths.PACKAGE.parent, capture_output=True, encoding="utf-8"
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_compiled_kernels_compute_the_loss(dtype):
    found = emulated("few", dtype)
    assert not [f"{one['case']}: {one['problem']}" for one in found if one["problem"]]
    # Nothing is shown by launches that are all alike.
    assert {one["case"].split()[0] for one in found} == LOSSES
    launches = [launch for one in found for launch in one["launches"]]
    assert {launch["kernel"] for launch in launches} == {"forward", "merge", "backward", "fused"}
    held = [launch["constants"] for launch in launches]
    long = [constants for constants in held if constants.get("ROWS") == 1]
    assert {constants["ALIGNED"] for constants in long} == {0, 1, 2}
    assert any(constants.get("ROWS", 1) > 1 for constants in held)
    assert any(constants.get("SPLITS", 1) > 1 for constants in held)
    assert {constants["ONE_TILE"] for constants in long if "ONE_TILE" in constants} == {True, False}
    assert {1, 8} <= {launch["warps"] for launch in launches}


def test_faults_in_them_are_found():
    found = emulated("faults", "")
    assert [one["fault"] for one in found if not one["applied"]] == []
    assert [one["fault"] for one in found if not one["problem"]] == []
