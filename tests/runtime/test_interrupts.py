"""Ctrl-C and forks while a loss runs in threads."""

from __future__ import annotations

import pytest

from lossgen.runtime import c_build
from tests.runtime.interrupts import forked, interrupted

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
