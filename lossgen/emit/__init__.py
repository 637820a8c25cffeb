"""Plans as text: expression printers, the lines of each sweep, and the module around them."""

from lossgen.extras import require

require("compiler")
