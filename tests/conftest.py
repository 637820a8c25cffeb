"""What every test needs, set before torch or Triton is imported.

``TRITON_INTERPRET=0 pytest -m gpu`` runs the device tests on a machine that has one.
``HYPOTHESIS_PROFILE=ci`` draws the same examples in every run.
"""

from __future__ import annotations

import os

# Triton decorates its own library at import: the interpreter is chosen before that, or never.
os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Not a test of how fast the machine is: the limit of 30 processor seconds has tests of its own.
os.environ.setdefault("LOSSGEN_MAX_SECONDS", "240")

import pytest
import torch
from hypothesis import HealthCheck, settings

from lossgen.verify import interpreter

SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large]  # the interpreter is slow

settings.register_profile("default", deadline=None, suppress_health_check=SLOW_IS_FINE)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=SLOW_IS_FINE,
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
)

if interpreter.active():
    interpreter.install()

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _private_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test reads or writes the user's cache of compiled specs."""
    monkeypatch.setenv("LOSSGEN_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped where there is no device, or the interpreter is on."""
    interpreted = os.environ["TRITON_INTERPRET"] == "1"
    if torch.cuda.is_available() and not interpreted:
        return
    reason = "TRITON_INTERPRET is 1" if interpreted else "no CUDA or HIP device"
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))
