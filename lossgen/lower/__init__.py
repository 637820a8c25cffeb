"""A kernel plan as row programs: functions of ``lossgen.ir.program`` in single assignments."""

from lossgen.extras import require

require("compiler")
