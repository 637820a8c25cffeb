"""The Jinja environment of the templates."""

from __future__ import annotations

import re
from functools import cache

import jinja2

from lossgen.emit.printers import TRITON
from lossgen.paths import templates_dir
from lossgen.spec.spelling import said

__all__ = ["environment"]

_OF_THE_RUNTIME = re.compile(r"\b(Entries|Group|Ranks)\b")


@cache
def environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_dir()),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    made.globals["numbered"] = lambda names: list(enumerate(names))
    made.filters["triton"] = lambda function: TRITON.lines(function.lines)
    made.filters["typed"] = lambda kind, runtime: _OF_THE_RUNTIME.sub(rf"{runtime}.\1", kind)
    made.filters["said"] = lambda names: tuple(map(said, names))
    return made
