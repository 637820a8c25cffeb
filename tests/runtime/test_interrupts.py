"""Ctrl-C and forks while a loss runs in threads."""

from __future__ import annotations

import sys

import pytest
import torch

from lossgen.runtime import c_build, threads
from tests.runtime.interrupts import first_in_a_child, forked, interrupted

pytestmark = pytest.mark.skipif(c_build.find_compiler() is None, reason="no C compiler")


def test_an_interrupted_call_is_over_before_its_tensors_are_freed():
    """The threads of a call outlived it: five of ten delays ended in a segmentation fault."""
    delays = [0.02 + 0.007 * k for k in range(8)]
    ran = interrupted(delays)
    assert (ran.returncode, ran.stdout) == (0, f"{len(delays)}\n"), ran.stderr


def test_a_forked_child_computes_in_threads():
    """As OpenMP's threads do not, after a parent that used them."""
    ran = forked(2)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr


def test_a_child_may_be_the_first_that_computes():
    """It knows without having seen the fork that torch's threads are not there."""
    ran = first_in_a_child()
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_threads_are_torchs_own():
    """Others take the processor from those of torch that wait for work: 128 x 1000 took longer in
    two threads than in one."""
    if "parallel backend: OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("torch has threads of another kind")
    assert threads.team() is not None
