"""Numbers that stand for infinity, or for what is masked, in the row programs."""

from __future__ import annotations

__all__ = ["CLAMP", "FAR", "FAR_GAP", "FLOOR", "LARGEST", "LARGEST_INVERSE", "MASKED"]

CLAMP = 1.0e32  # stand-in for an infinite z, finite times a parameter too
LARGEST = 1.0e24  # a loss that was made of that is infinite beyond it
LARGEST_INVERSE = 3.0e38  # of a sum that underflowed
MASKED = -4.0e3  # a logit that says no, by any convention of masking: -1e4, -1e9, -inf
FAR_GAP = 1.0e18  # stands for the distance of a masked pivot
FAR = -1.0e4  # a logit that no class of weight has
FLOOR = -1.0e18  # finite stand-in for logp = -inf: exp of it is 0, so 0·logp is 0
