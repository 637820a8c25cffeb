"""Run the row kernels in the emulator: ``python -m tests.emulation [few | every | faults] [WORD]``.

Prints a line of JSON for each case whose text has WORD; ends with 1 where one is wrong.  Triton
must be imported without its interpreter, and its cache must be one of its own.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any


def outcomes(which: str, word: str) -> Iterator[dict[str, Any]]:
    """Of the cases, or of the faults that are put into one."""
    from tests.emulation import cases, mutants

    if which == "faults":
        yield from mutants.outcomes()
        return
    for case in cases.FEW if which == "few" else cases.every():
        if word in str(case):
            yield cases.outcome(case)


def main(which: str = "every", word: str = "") -> int:
    os.environ.pop("TRITON_INTERPRET", None)
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITON_CACHE_DIR"] = folder
        for found in outcomes(which, word):
            wrong += bool(found["problem"])
            print(json.dumps(found), flush=True)
    return int(which != "faults" and wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
