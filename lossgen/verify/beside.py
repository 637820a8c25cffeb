"""Properties of class inputs beside the logits: which gradients are computed, and their storage."""

from __future__ import annotations

import warnings
from itertools import product

import torch

from lossgen.verify.cases import LAYOUTS, Case, store
from lossgen.verify.judge import close, close_gradients, fail
from lossgen.verify.runner import Runner
from lossgen.verify.streams import streams, vectors
from lossgen.verify.tolerances import slack

__all__ = ["constant_streams", "stream_storage", "wanted_gradients"]


def wanted_gradients(case: Case, run: Runner) -> None:
    """Whichever of logits and class inputs require a gradient, the numbers are the same."""
    logits, target = case.tensors(run.device)
    keys = case.keywords(run.device)
    names = vectors(case.spec)
    subsets = [{n} for n in names] + [set(names) - {n} for n in names if len(names) > 2]
    for reduction in ("none",) if case.spec.outputs else ("none", "sum"):
        options = {**keys, "reduction": reduction}
        loss, grads = run.slopes(logits, target, options)
        for wanted in subsets:
            part, slopes = run.slopes(logits, target, options, wanted=wanted)
            which = " and ".join(sorted(wanted))
            close(f"the loss where only {which} need a gradient", part, loss, 4.0)
            expected = {name: grads[name] for name in sorted(wanted)}
            limit = 4.0 * slack(case.spec)
            close_gradients(
                case, f"computed for {which} only ({reduction})", slopes, expected, limit
            )


def constant_streams(case: Case, run: Runner) -> None:
    """A class input that gets no gradient is a constant, also where it requires one."""
    logits, target = case.tensors(run.device)
    keys = case.keywords(run.device)
    plain = run.loss(logits.detach().requires_grad_(), target, **keys)
    for name in streams(case.spec):
        if case.spec.inputs[name].differentiable:
            continue
        stream, leaf = keys[name].detach().requires_grad_(), logits.detach().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said once in a process
            loss = run.loss(leaf, target, **{**keys, name: stream})
        if not torch.equal(loss.detach().nan_to_num(), plain.detach().nan_to_num()):
            fail(f"{name} gives another loss where it requires a gradient")
        if loss.requires_grad:
            (found,) = torch.autograd.grad(loss.sum(), [stream], allow_unused=True)
            if found is not None and found.any():
                fail(f"{name} gets a gradient, and is not differentiable")


def stream_storage(case: Case, run: Runner) -> None:
    """Logits and class inputs may be stored differently."""
    logits, target = case.tensors(run.device)
    keys = case.keywords(run.device)
    names = streams(case.spec)
    loss, grads = run.slopes(logits, target, keys)
    for outer, inner in product(LAYOUTS[:3], LAYOUTS[:3]):
        stored = {
            name: store(keys[name], LAYOUTS[(LAYOUTS.index(inner) + k) % 3], 5 + 2 * k)
            for k, name in enumerate(names)
        }
        other, slopes = run.slopes(store(logits, outer), target, {**keys, **stored})
        what = f"{outer} logits beside {inner} {names[0]}"
        # Triton cuts rows that begin elsewhere in memory into other tiles.
        factor = 64.0 if run.backend == "triton" else 4.0
        close(f"the loss of {what}", other, loss, factor)
        close_gradients(case, f"of {what}", slopes, grads, factor * slack(case.spec))
