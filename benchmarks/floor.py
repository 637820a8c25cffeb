"""What a loss of softmaxes on a CPU cannot do without: two exponentials per logit, and gradients.

The loops are written by hand in C with the exponential of lossgen's C programs, compiled
with the same flags.  Each thread takes rows in shares, and a row is in cache from its first
exponential to its gradient.  There is no maximum, no target and no coefficient.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from lossgen.runtime.c_build import library

_SOURCE = """#include "row.h"

void two_exponentials(const float *restrict x, float *restrict out, int64_t classes, int64_t start,
    int64_t stop, int64_t keep) {
    for (int64_t row = start; row < stop; ++row) {
        const float *from = x + row * classes;
        float *to = out + (keep ? row : 0) * classes, sums[LANES] = {0}, total = 0;
        int64_t j = 0;
        for (; j + LANES <= classes; j += LANES)
            for (int k = 0; k < LANES; ++k) sums[k] += f_exp(from[j + k]);
        for (; j < classes; ++j) sums[0] += f_exp(from[j]);
        for (int k = 0; k < LANES; ++k) total += sums[k];
        total = 1 / total;
        for (j = 0; j < classes; ++j) to[j] = f_exp(from[j]) * total;
    }
}
"""
_SHARES = 4  # parts per thread, as in lossgen


class Floor:
    """Callable: streams [N, V] float32 and how many of them get a gradient; the gradients.

    Args:
        threads: that share the rows.
        allocate: memory like that of a tensor.  Torch's is mapped anew each time it is large.

    Raises:
        RuntimeError: there is no C compiler.
    """

    def __init__(
        self, threads: int, allocate: Callable[[Tensor], Tensor] = torch.empty_like
    ) -> None:
        program = library(_SOURCE, double=False)
        if program is None:
            raise RuntimeError("the floor needs a C compiler")
        self.function: Callable[..., None] = program.two_exponentials
        self.parts = _SHARES * threads if threads > 1 else 1
        self.pool = ThreadPoolExecutor(threads)
        self.allocate = allocate

    def __call__(self, streams: list[Tensor], gradients: int) -> list[Tensor]:
        fresh = [self.allocate(x) for x in streams[:gradients]]
        rows, classes = streams[0].shape
        step = -(-rows // self.parts)
        share = partial(self._rows, streams, fresh, classes, step)
        list(self.pool.map(share, range(0, rows, step)))
        return fresh

    def _rows(
        self, streams: list[Tensor], fresh: list[Tensor], classes: int, step: int, start: int
    ) -> None:
        stop = min(start + step, len(streams[0]))
        scratch = streams[0].new_empty(classes)
        for k, stream in enumerate(streams):
            out = fresh[k] if k < len(fresh) else scratch
            pointers = [ctypes.c_void_p(t.data_ptr()) for t in (stream, out)]
            sizes = [ctypes.c_int64(v) for v in (classes, start, stop, k < len(fresh))]
            self.function(*pointers, *sizes)
