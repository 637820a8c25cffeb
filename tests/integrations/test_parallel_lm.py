"""A model whose head is cut over ranks trains as it does in one process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "gce"])
def test_four_ranks_train_as_one_process(loss: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    example = [str(ROOT / "examples" / "parallel_lm.py"), "--loss", loss]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *example], capture_output=True, text=True, check=False, env=environment
    )
    assert not done.returncode, done.stderr[-2000:]
    [apart] = re.findall(r"difference from one process over 40 steps: (\S+)", done.stdout)
    assert float(apart) <= 1e-5
    losses = [float(v) for v in re.findall(rf"step \d+: {loss} (\S+)", done.stdout)]
    assert losses[-1] < losses[0]
