"""All that a generated module imports besides torch and Triton; never imports the compiler."""

from lossgen.runtime.arguments import Input, Parameter, Tiled, Variant
from lossgen.runtime.batch_loss import BatchLoss, Part, xlogy
from lossgen.runtime.documentation import documented
from lossgen.runtime.entries import Entries
from lossgen.runtime.linear import Arguments, linear_loss, linear_rows
from lossgen.runtime.linear_arguments import Factors, LinearOptions
from lossgen.runtime.loss import RowLoss
from lossgen.runtime.module import LossModule
from lossgen.runtime.refused import refuse
from lossgen.runtime.shards import Group, Ranks
from lossgen.runtime.weights import Weights

__all__ = [
    "Arguments",
    "BatchLoss",
    "Entries",
    "Factors",
    "Group",
    "Input",
    "LinearOptions",
    "LossModule",
    "Parameter",
    "Part",
    "Ranks",
    "RowLoss",
    "Tiled",
    "Variant",
    "Weights",
    "documented",
    "linear_loss",
    "linear_rows",
    "refuse",
    "xlogy",
]
