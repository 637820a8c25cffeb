"""The passes of the compiler, one file each: a frozen stage in, a frozen stage out."""

from lossgen.extras import require

require("compiler")
