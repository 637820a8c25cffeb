"""From the arguments of a linear function to the call that both schedules start from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossgen.runtime import chunked
from lossgen.runtime.arguments import Input
from lossgen.runtime.batch import Batch, wider
from lossgen.runtime.dtensors import is_dtensor, local_factors, local_rest
from lossgen.runtime.entries import Entries, check_entries
from lossgen.runtime.linear_arguments import (
    Factors,
    LinearOptions,
    Source,
    autocast,
    check_linear,
    check_scaled,
    chunk_rows,
    constant,
    factor_names,
    is_tiled,
    parts_of,
    shifted,
    stand_in,
)
from lossgen.runtime.linear_call import LinearCall
from lossgen.runtime.loss import RowLoss
from lossgen.runtime.projected import flat
from lossgen.runtime.sharded import rows_of_a_chunk
from lossgen.runtime.shards import ClassShards, shards_of, whole_vector
from lossgen.runtime.tensors import admitted, check_tracing, transformed

__all__ = ["Arguments", "Bound", "bound", "call_of", "called", "checked", "rows_in_cache"]

#: Logits of a chunk where they exist: they should be in cache when the gradient is formed.
_CHUNK = {"cpu": 1 << 18}
_CHUNK_ON_GPU = 1 << 24


@dataclass(frozen=True)
class Arguments:
    """What a generated function was called with, beside the factors."""

    target: Tensor | None
    #: [*, V], (hidden, weight[, bias]) or Entries
    streams: tuple[Tensor | tuple[Tensor, ...] | Entries, ...]
    parameters: tuple[float, ...]
    inputs: tuple[Tensor | None, ...]
    ignore_index: int
    backend: str


@dataclass(frozen=True)
class Bound:
    """The rows of a call, whose logits and streams are stand-ins without memory."""

    lead: torch.Size  # of the results
    positions: Tensor | None  # rows of hidden that the results belong to; None: all
    run: tuple[int, int]  # see ``LinearCall``
    index: int  # of the variant
    batch: Batch
    inputs: list[Tensor | None]  # of the rows that count


def checked(
    loss: RowLoss,
    factors: Source,
    given: Arguments,
    reduction: str,
    options: LinearOptions,
    name: str | None = None,
) -> tuple[list[Source], Arguments, LinearOptions]:
    """Logits and class inputs in the dtype of autocast, and the rest, as torch's own tensors and
    Python's numbers; ``name``: of the function, for messages.

    Raises:
        TypeError, ValueError, IndexError: as the generated function says.
    """
    name = name or called(loss, factors)
    if isinstance(factors, Factors) and (options.group is not None or is_dtensor(factors.weight)):
        parts, group = local_factors(name, factors, options.group)
        factors, options = Factors(*parts), replace(options, group=group)
        kinds = (declared.kind for declared in loss.others)
        inputs = (local_rest(v, k, group) for v, k in zip(given.inputs, kinds, strict=True))
        target = local_rest(given.target, "row", group)
        given = replace(given, target=target, inputs=tuple(inputs))
    given = _admitted(name, loss, given)
    streams = [s if isinstance(s, (Tensor, Entries)) else Factors(*s) for s in given.streams]
    declared_as = (None, *loss.streams)
    pairs = zip(declared_as, (factors, *streams), strict=True)
    sources = [autocast(_admitted_source(name, *pair)) for pair in pairs]
    options = check_linear(name, [*zip(declared_as, sources, strict=True)], options)
    if options.group is not None:
        options = replace(options, group=_shards(name, loss, sources, given, options))
        given = _whole(loss, given, options.group)
    logits = stand_in(sources[0], options.group)
    for k, declared in enumerate(loss.streams, 1):
        source = sources[k]
        if isinstance(source, Factors):
            check_scaled(name, declared, options)
        elif isinstance(source, Entries):
            lead = logits.shape[:-1]
            sources[k] = check_entries(name, declared, source, lead, logits.device)
    others = [stand_in(source, options.group, logits) for source in sources[1:]]
    if options.shift and logits.dim() == 1:
        raise ValueError(f"{name}: shift needs hidden [*, S, D], but it has no axis of positions")
    parameters, ignore_index = loss.check(
        logits,
        given.target,
        others,
        given.parameters,
        given.inputs,
        given.ignore_index,
        reduction,
        given.backend,
        False,
        function=name,
        held=sources[1:],
    )
    given = replace(given, parameters=tuple(parameters), ignore_index=ignore_index)
    constants = (constant(name, *pair) for pair in zip(loss.streams, sources[1:], strict=True))
    return [sources[0], *constants], given, options


def _whole(loss: RowLoss, given: Arguments, shards: ClassShards) -> Arguments:
    """With vectors over all classes."""
    pairs = zip(loss.others, given.inputs, strict=True)
    found = (whole_vector(v, shards) if i.kind == "vocab" else v for i, v in pairs)
    return replace(given, inputs=tuple(found))


def _shards(
    name: str, loss: RowLoss, sources: list[Source], given: Arguments, options: LinearOptions
) -> ClassShards:
    """Of the ranks of ``group``. Raises RuntimeError, TypeError, ValueError."""
    if options.schedule == "tiled" or given.backend not in ("auto", "torch"):
        raise ValueError(f"{name}: classes in shards run on backend 'torch', by the chunk")
    if any(isinstance(source, Entries) for source in sources):
        raise ValueError(f"{name}: class inputs of classes in shards are rows, not entries")
    whole = stand_in(sources[0])
    rows, classes = whole.shape[:-1].numel(), whole.shape[-1]
    for declared, source in zip(loss.streams, sources[1:], strict=True):
        own = stand_in(source).shape[-1] if isinstance(source, (Tensor, Factors)) else classes
        if own != classes:
            raise ValueError(
                f"{name}: {declared.name} has {own} classes, but this rank's logits {classes}; "
                "with group each rank gives its own classes of everything"
            )
    return shards_of(name, options.group, rows, classes, whole.device)


def _admitted(name: str, loss: RowLoss, given: Arguments) -> Arguments:
    if torch.compiler.is_compiling():
        return given
    check_tracing(name)
    pairs = zip(loss.others, given.inputs, strict=True)
    return replace(
        given,
        target=admitted(name, "target", given.target),
        inputs=tuple(admitted(name, declared.name, value) for declared, value in pairs),
    )


def _admitted_source(name: str, declared: Input | None, source: Source) -> Source:
    if torch.compiler.is_compiling():
        return source
    if isinstance(source, Tensor):
        found: Tensor = admitted(name, declared.name if declared else "logits", source)
        return found
    if isinstance(source, Entries):
        label = declared.name if declared else "logits"
        return source.mapped(lambda part: admitted(name, label, part))
    pairs = zip(factor_names(declared), source, strict=True)
    return Factors(*(admitted(name, part, value) for part, value in pairs))


def bound(loss: RowLoss, sources: list[Source], given: Arguments, options: LinearOptions) -> Bound:
    """Shift and flatten; nothing here looks at a value."""
    logits = stand_in(sources[0], options.group)
    others = [stand_in(source, options.group, logits) for source in sources[1:]]
    dtype, device = wider(logits, others), logits.device
    shift, lead, classes = options.shift, logits.shape[:-1], logits.shape[-1]
    positions, run = None, (lead.numel(), lead.numel())
    if shift:
        run = max(0, lead[-1] - shift), lead[-1]
        every = torch.arange(lead.numel(), device=device).reshape(lead)
        every = every[..., : max(0, lead[-1] - shift)]
        lead, positions = every.shape, every.reshape(-1)
    kinds = [declared.kind for declared in loss.others]
    inputs = [
        None if value is None else shifted(value, kind, shift)
        for value, kind in zip(given.inputs, kinds, strict=True)
    ]
    target = None if given.target is None else shifted(given.target, "row", shift).reshape(-1)
    rows = torch.zeros((), dtype=dtype, device=device).expand(lead.numel(), classes)
    streams = (rows,) * (len(sources) - 1)
    index, batch = loss.bind(rows, target, streams, given.parameters, inputs, given.ignore_index)
    return Bound(lead, positions, run, index, batch, inputs)


def call_of(
    loss: RowLoss,
    sources: list[Source],
    given: Arguments,
    options: LinearOptions,
    name: str | None = None,
) -> tuple[LinearCall, list[Tensor | None], Bound]:
    """The call, its tensors (see ``LinearCall``), and the rows that it is about."""
    name = name or called(loss, sources[0])
    found = bound(loss, sources, given, options)
    batch = found.batch
    tensors: list[Tensor | None] = []
    for source in sources:
        first, second, third = parts_of(source)
        second = _flat(second) if isinstance(source, Entries) else second
        tensors += [_flat(first), second, third]
    tensors += [batch.target, *batch.inputs]
    wanted = given.backend
    if options.schedule == "tiled" and wanted == "auto":
        wanted = "triton"
    backend = loss.backend_of(batch.logits, wanted)
    call = LinearCall(
        loss=name,
        variant=loss.variants[found.index],
        backend=backend,
        batch=replace(batch, target=None, inputs=()),
        projected=tuple(isinstance(source, Factors) for source in sources),
        fills=tuple(s.fill if isinstance(s, Entries) else None for s in sources),
        options=options,
        shape=found.lead,
        positions=found.positions,
        run=_run(found, tensors[: 3 * len(sources)]),
        kept=_kept(batch, options),
        step=0,
        tiled=False,
        unseen=transformed(),
    )
    if options.group is not None:
        own, device = options.group.sizes[options.group.rank], batch.logits.device.type
        sizes = (own, len(sources), device, options.memory_budget, any(call.projected))
        step = rows_of_a_chunk(name, *sizes)
        return replace(call, step=step), tensors, found
    row = chunked.bytes_per_row(call, tensors)
    listed = any(fill is not None for fill in call.fills)
    if not listed and is_tiled(name, backend, call.variant, options, row):
        return replace(call, tiled=True), tensors, found
    if isinstance(sources[0], Tensor):
        step = rows_in_cache(batch.logits)
    else:
        step = chunk_rows(name, batch.logits, options.memory_budget, row)
    return replace(call, step=step), tensors, found


def called(loss: RowLoss, first: Source) -> str:
    """The function that was called, of rows that exist or of a linear layer."""
    return loss.function if isinstance(first, Tensor) else f"linear_{loss.function}"


def _flat(rows: Tensor | None) -> Tensor | None:
    if rows is None:
        return None
    return rows.reshape(-1, rows.shape[-1]) if transformed() else flat(rows)


def rows_in_cache(logits: Tensor) -> int:
    """Rows of a chunk of logits that exist, some for each thread."""
    most = _CHUNK.get(logits.device.type, _CHUNK_ON_GPU) // max(1, logits.shape[1])
    return max(most, 4 * torch.get_num_threads())


def _run(found: Bound, factors: list[Tensor | None]) -> tuple[int, int]:
    """Of the results: sequences, where the rows of a source are parts of longer ones."""
    parts = any(t is not None and t.dim() == 3 for t in factors)
    length = found.lead[-1] if found.lead else 1
    return (length, length) if parts and found.positions is None else found.run


def _kept(batch: Batch, options: LinearOptions) -> Tensor | None:
    """The results that count; None: all, or not asked, as the answer is a wait for a GPU."""
    ignored, skip = batch.ignored, options.skip_ignored
    if ignored is None or transformed() or ignored.is_meta:
        return None
    if not (ignored.device.type == "cpu" if skip is None else skip) or not bool(ignored.any()):
        return None
    return (~ignored).nonzero().squeeze(1)
