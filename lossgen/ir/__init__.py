"""The intermediate representation: the elementwise vocabulary, symbols and pipeline stages."""

from lossgen.extras import require

require("compiler")
