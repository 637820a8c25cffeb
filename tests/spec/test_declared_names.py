"""What the document says that no parameter and no input may be called."""

from __future__ import annotations

import re
from pathlib import Path

from lossgen.spec.vocabulary import RESERVED

LANGUAGE = Path(__file__).parents[2] / "docs" / "language.md"


def test_the_names_that_are_taken() -> None:
    (paragraph,) = re.findall(r"^These are taken: (.*?)\n\n", LANGUAGE.read_text(), re.M | re.S)
    assert re.findall(r"`(\w+)`", paragraph) == sorted(RESERVED, key=str.lower)
