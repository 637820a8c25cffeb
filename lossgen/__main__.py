"""``python -m lossgen`` is the ``lossgen`` command, and says so where it is not installed whole."""

from __future__ import annotations

import sys
from typing import NoReturn

from lossgen.extras import MissingExtra

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line of this process."""
    try:
        from lossgen.cli import main as run
    except MissingExtra as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
