"""``lossgen new``: a spec to start from."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Annotated

import typer

from lossgen import paths
from lossgen.errors import BuildError

__all__ = ["new"]


class BadLossName(BuildError):
    id = "LG308"
    template = "{name!r} cannot name a loss"
    advice = "lower case, as in my_margin"


class SpecExists(BuildError):
    id = "LG309"
    template = "{path} exists"
    advice = "remove it first, or choose another name"


class TakenName(BuildError):
    id = "LG314"
    template = "{name!r} is a loss of the catalogue"
    advice = "choose another name: commands would take one for the other"


STARTER = """\
# A loss is a formula over one row of logits x and its target class y. Try it:
#   lossgen build {name}.yaml      compile it to {name}.py
#   lossgen explain {name}.yaml    see the derivation
#   lossgen verify {name}.yaml     test it against float64 autograd
name: {name} # also the name of the function, {name}_loss, and of this file
title: {title}
reference: where the formula comes from

# Run-time scalars: changing one never recompiles.
parameters:
  strength: {{default: 1, domain: "[0, 8]", doc: "how much confident rows are played down"}}

# p and logp are the softmax of x and its logarithm, vectors over the classes; p[y] is the target's
# entry. Vectors are reduced with sum, mean, max, logsumexp; add over=others to leave the target
# out. Arithmetic, ** and exp log log1p expm1 sqrt tanh sigmoid softplus where(…) act elementwise.
transform: -(1 - p[y])**strength * logp[y]

# Optional terms are added to the transform, each with the parameter that weighs it:
# regularizer:
#   - {{name: penalty, weight: penalty_weight, value: logsumexp(x)**2}}

# Identities that every build checks: another loss of the catalogue, or a formula.
limits:
  - {{when: {{strength: 0}}, equals: "-logp[y]"}}
"""


def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of the loss: lower case, as in my_loss.")
    ],
    out_dir: Annotated[
        Path, typer.Option("-o", "--out-dir", metavar="DIR", help="Where to put NAME.yaml.")
    ] = Path(),
) -> None:
    """Write NAME.yaml, a commented spec that builds and verifies, to start from.

    Example: [bold]lossgen new my_loss[/bold]
    """
    from lossgen.build import write_atomically
    from lossgen.spec.limit import LOSS_NAME

    if not LOSS_NAME.fullmatch(name) or keyword.iskeyword(name):
        raise BadLossName(name=name)
    if name in paths.spec_names():
        raise TakenName(name=name)
    path = out_dir / f"{name}.yaml"
    if path.exists():
        raise SpecExists(path=path)
    title = name.replace("_", " ").capitalize()
    write_atomically(path, STARTER.format(name=name, title=title))
    typer.echo(f"wrote {path}; next: lossgen build {path}")
