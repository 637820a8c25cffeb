"""Property-based verification of a loss against its literal formula."""

from lossgen.verify.run import PropertyResult, VerificationResult, verify

__all__ = ["PropertyResult", "VerificationResult", "verify"]
