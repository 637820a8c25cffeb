"""Ctrl-C and forks in the midst of threaded losses, each in a process of its own.

``interrupted(...)`` and ``forked(...)`` run it and return the finished process, whose exit status
is negative where a signal ended it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

#: The timer's signal raises KeyboardInterrupt in the main thread exactly as Ctrl-C's does, and
#: needs no second process.  The tensors of an interrupted call are freed, so that a thread which
#: still read them would end the process.  One signal is enough: none may be lost in a finaliser.
_INTERRUPTED = """
import signal, sys, torch
from lossgen.losses import gce_loss
threads, rows, classes, *delays = map(float, sys.argv[1:])
torch.set_num_threads(int(threads))
torch.manual_seed(0)
x, y = torch.randn(int(rows), int(classes)), torch.randint(0, int(classes), (int(rows),))

def step():
    leaf = x.clone().requires_grad_()
    loss = gce_loss(leaf, y)
    loss.backward()
    return loss.detach(), leaf.grad

gold, caught = step(), 0
signal.signal(signal.SIGALRM, signal.default_int_handler)
for delay in delays:
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        while True:
            step()
    except KeyboardInterrupt:
        caught += 1
assert all(torch.equal(a, b) for a, b in zip(gold, step(), strict=True))
print(caught)
"""

_FORKED = """
import os, signal, sys, torch
from lossgen.losses import gce_loss
torch.set_num_threads(2)
x, y = torch.randn(2000, 300), torch.randint(0, 300, (2000,))
gold = gce_loss(x, y)
for _ in range(int(sys.argv[1])):
    assert torch.equal(gce_loss(x, y), gold)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if torch.equal(gce_loss(x, y), gold) else 1)
    assert os.waitpid(child, 0)[1] == 0
print("done")
"""

_FIRST_IN_A_CHILD = """
import os, signal, sys, torch
torch.set_num_threads(2)
x, y = torch.randn(2000, 300), torch.randint(0, 300, (2000,))
gold = torch.nn.functional.cross_entropy(x, y)
child = os.fork()
if child == 0:
    signal.alarm(120)
    from lossgen.losses import cross_entropy_loss
    found = cross_entropy_loss(x, y, backend="c")
    os._exit(0 if abs(found - gold) < 1e-5 else 1)
assert os.waitpid(child, 0)[1] == 0
print("done")
"""


def interrupted(
    delays: Sequence[float], threads: int = 4, rows: int = 1024, classes: int = 8192
) -> subprocess.CompletedProcess[str]:
    """A loop of losses, interrupted after each of ``delays`` seconds; prints how often."""
    return _run(_INTERRUPTED, threads, rows, classes, *delays)


def forked(times: int) -> subprocess.CompletedProcess[str]:
    """Parents that have computed in two threads fork children that do; prints "done"."""
    return _run(_FORKED, times)


def first_in_a_child() -> subprocess.CompletedProcess[str]:
    """A parent that has computed in two threads forks a child that imports lossgen."""
    return _run(_FIRST_IN_A_CHILD)


def _run(script: str, *arguments: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    return subprocess.run(
        [*command, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
