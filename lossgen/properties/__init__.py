"""What a loss is: bounded, convex, symmetric, proper, calibrated; with a proof or a witness."""

from lossgen.extras import require

require("verify")

from lossgen.properties.model import Statement  # noqa: E402
from lossgen.properties.sheet import Sheet, sheet  # noqa: E402

__all__ = ["Sheet", "Statement", "sheet"]
