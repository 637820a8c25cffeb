"""How the names of a spec are spelled in generated code, where they can meet none of ours.

    q → u_q        and with what the compiler adds: u_t_y, u_t_ptr, grad_u_t, stride_u_t

No name of ours begins with ``u_``, nor goes on with it after grad_, stride_, features_ or out_.
A name that ends like an addition of the compiler, as in ``t_y``, is closed by a further ``_``, and
so is one that ends with ``_``: two names never give one spelling, whatever is added to them.
"""

from __future__ import annotations

import re

__all__ = ["PREFIX", "said", "spelled"]

PREFIX = "u_"
#: What the compiler puts behind a name: the value at y, of a side of a merge, arguments of kernels.
_ADDED = re.compile(r".*_(y|a|b|ptr|base|hidden|weight|bias|ref|fixed|\d+)?", re.DOTALL)


def spelled(name: str) -> str:
    """A declared name as generated code has it."""
    return f"{PREFIX}{name}{'_' if _ADDED.fullmatch(name) else ''}"


def said(spelling: str) -> str:
    """The declared name that is spelled so."""
    return spelling.removeprefix(PREFIX).removesuffix("_")
