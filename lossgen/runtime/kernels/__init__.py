"""Triton kernels written once: loops, masks and memory; a loss brings functions."""
