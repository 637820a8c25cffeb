"""Deliberately wrong kernels: the proof that the properties can fail.

A mutation is a substitution in the text of a generated module, one historical bug each.  The
mutant is imported like any other generated module and put before the property that has to fail.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from lossgen.errors import VerificationError
from lossgen.spec.model import LossSpec
from lossgen.verify.properties import PROPERTIES
from lossgen.verify.run import PropertyResult, check_property
from lossgen.verify.runner import Runner

__all__ = ["MUTATIONS", "Mutation", "load_mutant", "noticed"]


@dataclass(frozen=True)
class Mutation:
    """One bug, as old text -> new text, in every place where the old text stands."""

    name: str
    doc: str  # what is wrong, and who shipped it where that is known
    old: str  # a regular expression
    new: str
    by: str = "value_and_gradient"  # the property that has to notice
    backend: str = "triton"

    def apply(self, source: str) -> str:
        """The wrong module.

        Raises:
            VerificationError: the text does not occur, so that the mutation proves nothing.
        """
        changed, count = re.subn(self.old, self.new, source)
        if not count or changed == source:
            raise VerificationError(f"mutation {self.name} does not apply: no {self.old!r}")
        return changed


def load_mutant(mutation: Mutation, original: Path, folder: Path) -> ModuleType:
    """Write and import the mutant of a generated module (Triton reads its source file)."""
    text = mutation.apply(original.read_text(encoding="utf-8"))
    path = folder / f"{original.stem}_{mutation.name}.py"
    # The operators of a loss are registered under its key, once per process.
    text = re.sub(r'\bkey="(\w+)"', rf'key="\1_{mutation.name}"', text)
    path.write_text(text, encoding="utf-8")
    return _import_file(f"lossgen_mutant_{path.stem}", path)


def _import_file(name: str, path: Path) -> ModuleType:
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def noticed(mutation: Mutation, module: ModuleType, spec: LossSpec) -> PropertyResult:
    """What the property that the mutation names says about the mutant (``passed`` is bad)."""
    (entry,) = (p for p in PROPERTIES if p.name == mutation.by)
    return check_property(entry, spec, Runner(module, spec, mutation.backend), examples=2)


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
        r"valid = inside & \(cols != y\)",
        "valid = cols != y",
    ),
    Mutation(
        "target_counted",
        "the target is not left out of the sum over the others",
        r"valid = inside & \(cols != y\)",
        "valid = inside",
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
        r"stop = tl\.minimum\(start \+ class_share, n_classes\)",
        "stop = n_classes",
        by="tile_independent",
    ),
    Mutation(
        "lost_split",
        "the last partial state is not merged",
        r"range\(1, SPLITS\)",
        "range(1, SPLITS - 1)",
        by="tile_independent",
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
        r"max0_a >= max0_b",
        "max0_a > max0_b",
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
        r"tl\.store\(saved \+ 1 \* n_rows \+ row, la0\)",
        "tl.store(saved + 1 * n_rows + row, m0)",
    ),
    Mutation(
        "lone_lse",
        "the gradient subtracts one rounded log-sum-exp from the logit",
        r"t0 = x - m0\n    e0 = tl\.exp\(t0\)\n    r0 = e0 \* rinv0",
        "r0 = tl.exp(x - (m0 - tl.log(rinv0)))",
    ),
    Mutation(
        "forgotten_target",
        "the gradient at y is never written",
        r"    grad_x = tl\.where\(cols == y, grad_x_y, grad_x\)\n",
        "",
    ),
    Mutation(
        "forgotten_weight",
        "the class weight scales the loss, but not its gradient",
        r"c0 = u_weight_y \* dl\.sigmoid",
        "c0 = dl.sigmoid",
    ),
    # ------------------------------------------------------------ rows and storage
    Mutation(
        "first_grad_output",
        "every row takes the first row's grad_output (Liger #968)",
        r"grad_rows \+ row \* stride_grad_rows",
        "grad_rows",
        by="grad_output",
    ),
    Mutation(
        "forgotten_grad_output",
        "grad_output is taken for 1",
        r"g = tl\.load\(grad_rows .*",
        "g = 1.0",
        by="grad_output",
    ),
    Mutation(
        "dense_grad_output",
        "the stride of grad_output is taken for 1 (TransformerEngine)",
        r"grad_rows \+ row \* stride_grad_rows",
        "grad_rows + row",
        by="fused_gradient",
    ),
    Mutation(
        "ignored_gradient_unwritten",
        "an ignored row's gradient keeps what was in memory",
        r"(\.element_ty\), mask=inside)\)",
        r"\1 & ~ignored)",
        by="ignored_rows",
    ),
    Mutation(
        "ignored_loss_unwritten",
        "an ignored row's loss keeps what was in memory",
        r"tl\.store\(loss \+ row, tl\.where\(ignored, 0\.0, loss_row\)\)",
        "tl.store(loss + row, loss_row, mask=~ignored)",
        by="ignored_rows",
    ),
    Mutation(
        "int32_offset",
        "row * stride_row overflows 32 bits (flash-attention #714)",
        r"row = tl\.program_id\(0\)\.to\(tl\.int64\)",
        "row = tl.program_id(0)",
        by="large_offsets",
    ),
    Mutation(
        "dense_logits",
        "the row stride of the logits is taken for V",
        r"logits \+ row \* stride_row",
        "logits + row * n_classes",
    ),
    Mutation(
        "dense_target",
        "the stride of the labels is taken for 1",
        r"target \+ row \* stride_target",
        "target + row",
    ),
    # ------------------------------------------------------------ logits that stay on chip
    Mutation(
        "tiles_padded",
        "the columns beyond V take part in the gradient",
        r"inside = \(cols < n_classes\) & \(row >= 0\)",
        "inside = (cols >= 0) & (row >= 0)",
        by="tiles_are_rows",
    ),
    Mutation(
        "tiles_forgotten_grad_output",
        "grad_output does not reach the gradient of a tile",
        r"    grad = grad \* g\n",
        "",
        by="tiles_are_rows",
    ),
    Mutation(
        "tiles_not_merged",
        "only the last of the partial states of a row is kept",
        r"m0, a0 = _merge\(m0, a0, m0_b, a0_b\)\n(    tl\.store\(row_merged)",
        r"m0, a0 = m0_b, a0_b\n\1",
        by="tiles_are_rows",
    ),
    Mutation(
        "tiles_of_one_row",
        "every tile of rows has the first one's hidden states",
        r"row_at = tl\.load\(source_row \+ row\)",
        "row_at = tl.load(source_row + row * 0)",
        by="tiles_are_rows",
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
