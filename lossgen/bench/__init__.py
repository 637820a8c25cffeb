"""Measuring: bytes moved, time against peers, ahead of and on a device.

``device`` and ``report`` need torch alone: a machine with a GPU may lack the compiler's libraries.
"""
