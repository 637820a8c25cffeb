"""The ``lossgen`` command: one module per subcommand, and what they share.

Exit codes: 0 done; 1 ``build --check`` or ``verify`` found something; 2 wrong usage or a wrong
spec, with the reason on stderr.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import NoReturn

from lossgen.errors import BuildError, CompilerBug, LossgenError
from lossgen.extras import require

require("compiler")

from lossgen.cli.app import app  # noqa: E402

__all__ = ["app", "main"]


class FileTrouble(BuildError):
    id = "LG313"
    template = "{reason}"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line, by default this process's own; exits, and hides our stack."""
    from lossgen.options import options

    for stream in (sys.stdout, sys.stderr):  # an ASCII terminal cannot show a formula's letters
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        traceback = options().traceback
    except LossgenError as error:
        _fail(error)
    try:
        app(arguments, prog_name="lossgen")
    except LossgenError as error:
        if traceback:
            raise
        _fail(error)
    except BrokenPipeError:  # `lossgen list | head`
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:  # a full disk, a folder that is not ours
        if traceback:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(FileTrouble(reason=f"{where}{error.strerror or error}"))
    except Exception as error:
        if traceback:
            raise
        _fail(CompilerBug(f"{type(error).__name__}: {error}"))
    sys.exit(0)


def _fail(error: LossgenError) -> NoReturn:
    print(error, file=sys.stderr)
    if isinstance(error, CompilerBug):
        print("LOSSGEN_TRACEBACK=1 shows where it happened", file=sys.stderr)
    sys.exit(2)
