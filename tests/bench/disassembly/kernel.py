"""What sm90.txt and gfx942.txt beside this file are the machine code of: BLOCK=128, one warp.

A sweep over a row's full tiles, one over the rest, masked, and a loop that fills with zeros.
"""

import triton
import triton.language as tl


@triton.jit
def row_kernel(logits, loss, grad, stride, n_classes, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    base = logits + row * (stride // 8 * 8)
    cols = tl.arange(0, BLOCK)
    full = n_classes // BLOCK * BLOCK
    lanes = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, full, BLOCK):
        lanes += tl.exp2(tl.load(base + first + cols).to(tl.float32))
    for first in range(full, n_classes, BLOCK):
        x = tl.load(base + first + cols, mask=first + cols < n_classes, other=float("-inf"))
        lanes += tl.exp2(x.to(tl.float32))
    total = tl.sum(lanes, 0)
    tl.store(loss + row, total)
    out = grad + row * stride
    for first in range(0, n_classes, BLOCK):
        tl.store(out + first + cols, tl.zeros((BLOCK,), tl.bfloat16), mask=first + cols < n_classes)
