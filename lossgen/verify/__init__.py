"""Property-based verification of a loss against its literal formula."""

from lossgen.extras import require
from lossgen.verbs import make_callable

require("verify")

from lossgen.verify.run import PropertyResult, VerificationResult, verify  # noqa: E402

__all__ = ["PropertyResult", "VerificationResult", "verify"]

make_callable(__name__)
