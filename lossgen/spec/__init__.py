"""The spec language: YAML text to a checked, typed :class:`~lossgen.spec.model.LossSpec`."""

from lossgen.extras import require

require("compiler")
