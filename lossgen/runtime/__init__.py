"""All that a generated module imports besides torch and Triton; never imports the compiler."""

from lossgen.runtime.arguments import Input, Parameter, Variant
from lossgen.runtime.loss import RowLoss

__all__ = ["Input", "Parameter", "RowLoss", "Variant"]
