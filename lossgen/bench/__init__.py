"""Measuring: bytes moved, time against peers, ahead of and on a device."""

from lossgen.extras import require

require("compiler")
