"""Deliberately wrong kernels: what is wrong in each, and the property that has to notice.

A mutation is a substitution in the text of a generated module, or of the row kernels that all of
them call, one historical bug each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lossgen.errors import VerificationError

__all__ = ["MUTATIONS", "Mutation"]


@dataclass(frozen=True)
class Mutation:
    """One bug, as old text -> new text, in every place where the old text stands."""

    name: str
    doc: str  # what is wrong, and who shipped it where that is known
    old: str  # a regular expression
    new: str
    by: str = "value_and_gradient"  # the property that has to notice
    backend: str = "triton"
    kernels: str = ""  # of which file of the row kernels the text is, if not the module's own

    def apply(self, source: str) -> str:
        """The wrong module.

        Raises:
            VerificationError: the text does not occur, so that the mutation proves nothing.
        """
        changed, count = re.subn(self.old, self.new, source)
        if not count or changed == source:
            raise VerificationError(f"mutation {self.name} does not apply: no {self.old!r}")
        return changed


_INF = r'float\("-inf"\)'

MUTATIONS: tuple[Mutation, ...] = (
    # ------------------------------------------------------------ masks
    Mutation(
        "mask_before_transform",
        "padding is masked before a softcap, which makes -inf finite",
        rf"tl\.where\(valid, dl\.softcap\(x, (\w+)\), {_INF}\)",
        r'dl.softcap(tl.where(valid, x, float("-inf")), \1)',
    ),
    Mutation(
        "padding_counted",
        "the columns beyond V take part in the sums",
        r"counts = inside & \(cols != y\)",
        "counts = cols != y",
        kernels="sweeps",
    ),
    Mutation(
        "neighbour_counted",
        "the end of the row before takes part, where a row begins inside of 16 bytes",
        r"inside = \(cols >= 0\) & ",
        "inside = ",
        kernels="sweeps",
    ),
    Mutation(
        "neighbour_written",
        "the gradient is written over the end of that of the row before",
        r"inside = \(cols >= 0\) & ",
        "inside = ",
        kernels="stores",
    ),
    Mutation(
        "target_counted",
        "the target is not left out of the sum over the others",
        r"counts = (\w+) & \(cols != y\)",
        r"counts = \1",
        kernels="sweeps",
    ),
    Mutation(
        "target_tile_twice",
        "the tile of the target is read once more, as a full one",
        r"return low, high, \(.*",
        "return low, high, 0",
        kernels="sweeps",
    ),
    Mutation(
        "masked_tile_twice",
        "the tile of the target is the last one too, and counts twice",
        r"there & \(again == 0\)",
        "there",
        kernels="sweeps",
    ),
    Mutation(
        "last_tile_forgotten",
        "the classes that do not fill a tile are left out",
        r"tl\.where\(k == 1, 0, end // BLOCK\)",
        "0",
        kernels="sweeps",
    ),
    Mutation(
        "rows_beyond_the_last",
        "the rows that fill up a program of short rows are read and written",
        r"live = row < n_rows",
        "live = row >= 0",
        kernels="loads",
    ),
    # ------------------------------------------------------------ the online reduction
    Mutation(
        "dropped_rescale",
        "a new maximum does not rescale what was summed before",
        r"a0 = k0_a \* a0_a \+",
        "a0 = a0_a +",
    ),
    Mutation(
        "dropped_moment_shift",
        "the centred moment is rescaled, but not shifted",
        r"k0_a \* \(b0_a \+ d0_a \* a0_a\)",
        "k0_a * b0_a",
    ),
    Mutation(
        "wrong_rescale_power",
        "a sum of squares is rescaled like a sum",
        r"k0_a \* k0_a \* b0_a",
        "k0_a * b0_a",
    ),
    Mutation(
        "unguarded_merge",
        "-inf minus -inf where a whole tile is masked",
        r"d0_([ab]) = tl\.where\(\(m0_[ab] == m0\) \| .*",
        r"d0_\1 = m0_\1 - m0",
    ),
    Mutation(
        "unguarded_tile",
        "-inf minus -inf inside a masked tile",
        rf"t0 = l0 - tl\.where\(m0 == {_INF}, 0\.0, m0\)",
        "t0 = l0 - m0",
    ),
    Mutation(
        "unguarded_moment",
        "0 times -inf at a masked class",
        r"u0 = tl\.maximum\(t0, -1e18\)",
        "u0 = t0",
    ),
    Mutation(
        "low_precision_sum",
        "the exponentials are summed in bfloat16",
        r"a0 = dl\.row_sum\(e0\)",
        "a0 = dl.row_sum(e0.to(tl.bfloat16).to(tl.float32))",
    ),
    Mutation(
        "overlapping_splits",
        "every program reads to the end of the row",
        r"stop = tl\.minimum\(first \+ share, tiles\)",
        "stop = tiles",
        by="tile_independent",
        kernels="rows",
    ),
    Mutation(
        "lost_split",
        "the last partial states are not merged",
        r"tl\.arange\(0, SPLITS\)",
        "tl.arange(0, SPLITS // 2)",
        by="tile_independent",
        kernels="rows",
    ),
    Mutation(
        "no_tie_rule",
        "among equal maxima every tile keeps its last",
        r"dl\.row_min\(tl\.where\(f0 < near0, 2147483647, cols\)\)",
        "dl.row_max(tl.where(f0 < near0, -1, cols))",
    ),
    Mutation(
        "later_tile_wins_ties",
        "among equal maxima of two tiles the later one wins",
        r" \| \(max0_a == max0_b\) & \(index0_a <= index0_b\)",
        "",
    ),
    # ------------------------------------------------------------ NaN
    Mutation(
        "maximum_drops_nan",
        "the largest of a tile is taken without its NaN, as the hardware takes it",
        r"dl\.row_max_or_nan\(",
        "dl.row_max(",
        by="nan_shows",
    ),
    Mutation(
        "merge_drops_nan",
        "the larger of two maxima is taken without NaN",
        r"max0 = dl\.maximum\(",
        "max0 = tl.maximum(",
        by="nan_shows",
    ),
    Mutation(
        "gradient_drops_nan",
        "p > 0, which NaN is not, says which classes have a gradient",
        r"dl\.ne\(p0, 0\.0\)",
        "dl.lt(0.0, p0)",
        by="nan_shows",
    ),
    # ------------------------------------------------------------ the row's scalars
    Mutation(
        "naive_log1p",
        "log(1 + e^z) loses confident rows",
        r"loss = dl\.softplus\(z0\)",
        "loss = dl.log_accurate(1.0 + dl.exp_accurate(z0))",
        by="accurate_when_confident",
    ),
    Mutation(
        "p_minus_one",
        "the target's gradient as p - 1 (Liger and others)",
        r"grad_x_y = -c0\n",
        "grad_x_y = dl.sigmoid(-z0) - 1.0\n",
        by="accurate_when_confident",
    ),
    Mutation(
        "low_precision_p_minus_one",
        "p - 1 after rounding p to bfloat16",
        r"grad_x_y = -c0\n",
        "grad_x_y = dl.sigmoid(-z0).to(tl.bfloat16).to(tl.float32) - 1.0\n",
        by="half_precision_target",
    ),
    Mutation(
        "wrong_sign", "the target's gradient points uphill", r"grad_x_y = -c0\n", "grad_x_y = c0\n"
    ),
    Mutation(
        "wrong_saved",
        "the maximum is saved in place of the logarithm of the sum",
        r"return loss, m0, la0\n",
        "return loss, m0, m0\n",
    ),
    Mutation(
        "lone_lse",
        "the gradient subtracts one rounded log-sum-exp from the logit",
        r"    t0 = x - m0\n    e0 = dl\.exp_tile\(t0\)\n(?!.*row_)",
        "    t0 = x - (m0 - tl.log(rinv0))\n    e0 = dl.exp_tile(t0) / rinv0\n",
    ),
    Mutation(
        "forgotten_target",
        "the gradient at y is never written",
        r"    grad_x = tl\.where\(own, grad_x_y, grad_x\)\n",
        "",
    ),
    Mutation(
        "forgotten_weight",
        "the class weight scales the loss, but not its gradient",
        r"c0 = u_weight_y \+",
        "c0 = 1.0 +",
    ),
    # ------------------------------------------------------------ rows and storage
    Mutation(
        "first_grad_output",
        "every row takes the first row's grad_output (Liger #968)",
        r"grad_rows \+ k \* stride_out \+ row \* stride_rows",
        "grad_rows + k * stride_out",
        by="grad_output",
        kernels="stores",
    ),
    Mutation(
        "forgotten_grad_output",
        "grad_output is taken for 1",
        r"value = tl\.load\(grad_rows .*",
        "value = 1.0",
        by="grad_output",
        kernels="stores",
    ),
    Mutation(
        "dense_grad_output",
        "the stride of grad_output is taken for 1 (TransformerEngine)",
        r"row \* stride_rows",
        "row",
        by="fused_gradient",
        kernels="stores",
    ),
    Mutation(
        "ignored_gradient_unwritten",
        "an ignored row's gradient keeps what was in memory",
        r"at, zero, mask=inside\)",
        "at, zero, mask=inside & (at < 0))",
        by="ignored_rows",
        kernels="stores",
    ),
    Mutation(
        "ignored_gradient_computed",
        "the gradient of an ignored row that is one tile is that of any row",
        r"value = tl\.where\(marks\[0\], 0\.0, value\)",
        "value = value",
        by="ignored_rows",
        kernels="stores",
    ),
    Mutation(
        "ignored_loss_unwritten",
        "an ignored row's loss keeps what was in memory",
        r"n_rows \+ row, value, mask=live\)",
        "n_rows + row, value, mask=live & (marks[0] == 0))",
        by="ignored_rows",
        kernels="stores",
    ),
    Mutation(
        "int32_offset",
        "row * stride_row overflows 32 bits (flash-attention #714)",
        r"row = tl\.program_id\(0\)\.to\(tl\.int64\)",
        "row = tl.program_id(0)",
        by="large_offsets",
        kernels="loads",
    ),
    Mutation(
        "dense_logits",
        "the row stride of the logits is taken for V",
        r"\(stride_row,\)",
        "(n_classes,)",
    ),
    Mutation(
        "dense_target",
        "the stride of the labels is taken for 1",
        r"target \+ row \* stride",
        "target + row",
        kernels="loads",
    ),
    # ------------------------------------------------------------ logits that stay on chip
    Mutation(
        "tiles_padded",
        "the columns beyond V take part in the gradient",
        r"inside = \(cols < n_classes\) & \(row >= 0\)",
        "inside = (cols >= 0) & (row >= 0)",
        by="tiles_are_rows",
        kernels="tiled",
    ),
    Mutation(
        "tiles_forgotten_grad_output",
        "grad_output does not reach the gradient of a tile",
        r"grad = grad \* weight",
        "grad = grad * 1.0",
        by="tiles_are_rows",
        kernels="tiled",
    ),
    Mutation(
        "tiles_not_merged",
        "only the last of the partial states of a row is kept",
        r"found = SWEEP\[1\]\(\*kept, \*found, \*other\)",
        "found = other",
        by="tiles_are_rows",
        kernels="tiled",
    ),
    Mutation(
        "tiles_of_one_row",
        "every tile of rows has the first one's hidden states",
        r"row_at = tl\.load\(source_row \+ row\)",
        "row_at = tl.load(source_row + row * 0)",
        by="tiles_are_rows",
        kernels="tiled",
    ),
    # ------------------------------------------------------------ the torch backend
    Mutation(
        "torch_forgotten_grad_output",
        "grad_output does not reach the target's gradient",
        r"grad_x_y \* g \+ torch\.zeros_like",
        "grad_x_y + torch.zeros_like",
        "grad_output",
        "torch",
    ),
    Mutation(
        "torch_wrong_sign",
        "the other classes' gradient points downhill",
        r"e0\.mul_\(c0 \* rinv0",
        "e0.mul_(-c0 * rinv0",
        backend="torch",
    ),
    Mutation(
        "torch_target_counted",
        "the target is not left out of the sum over the others",
        r"l0 = x\.scatter_\(1, y, float\(\"-inf\"\)\)",
        "l0 = x",
        backend="torch",
    ),
    Mutation(
        "torch_unguarded",
        "-inf minus -inf where all other classes are masked",
        r'    m0 = torch\.where\(m0 == float\("-inf"\), 0\.0, m0\)\n',
        "",
        backend="torch",
    ),
)
