"""Property-based verification of a loss against its literal formula."""

from lossgen.verbs import make_callable
from lossgen.verify.run import PropertyResult, VerificationResult, verify

__all__ = ["PropertyResult", "VerificationResult", "verify"]

make_callable(__name__)
