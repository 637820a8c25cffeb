"""The fastest launches on this GPU that do not spill: `python benchmarks/gpu.py --tune`.

Each kernel is timed with launches around the one that follows from counts; one that is faster by
more than 3 % goes into lossgen/runtime/tuned.py, under the architecture of this GPU.  Tiled kernels
first, as most depends on theirs; what is not reached in time keeps its launch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lossgen.runtime import launch, tiled, tuned
from lossgen.runtime.architectures import architecture_of
from lossgen.runtime.tile_shapes import Launch

__all__ = ["ROWS", "TILES", "tune", "written"]

BETTER = 0.97  # of the time of the launch that follows from counts
#: A loss of each kind of tiled kernels, see ``tile_shapes``; "pair": its class input has factors.
TILES = {"light": "gce", "heavy": "nfl", "pair": "trades"}
#: Of row kernels: a light loss, and one with a class input.
ROWS = ("gce", "kd_forward_kl")


@dataclass(frozen=True)
class Sizes:
    rows: int
    features: int
    classes: int  # of the tiled kernels
    vocabularies: tuple[int, ...]  # of the row kernels, and rows of them


FULL = Sizes(4096, 2048, 65536, (32000, 128256))
SMALL = Sizes(32, 32, 96, (257,))


def around(stock: Launch, role: str) -> list[Launch]:
    """Launches to try, the one that follows from counts first."""
    changes: list[dict[str, int]] = [{}, {"stages": stock.stages + 1}, {"stages": stock.stages - 1}]
    changes += [{"classes": 128}, {"classes": 256}, {"classes": 128, "warps": 4}]
    if role != "product":
        changes += [{"part": 64}, {"part": 32}, {"classes": 256, "part": 32}]
    found = dict.fromkeys(replace(stock, **change) for change in changes)
    return [one for one in found if one.stages > 0 and one.part < one.classes]


def around_row(stock: launch.Config) -> list[launch.Config]:
    """The same of a row kernel: tiles and warps, 4 to 64 values in a thread."""
    pairs = ((1, 1), (2, 2), (1, 2), (2, 1), (0.5, 0.5), (1, 0.5))
    found = []
    for block, warps in pairs:
        size = stock.block if stock.one_tile else int(stock.block * block)
        one = replace(stock, block=size, warps=int(stock.warps * warps))
        if 1 <= one.warps <= 32 and 4 <= one.block / (32 * one.warps) <= 64:
            found.append(one)
    return list(dict.fromkeys(found)) or [stock]


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    stock = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, stock)


class Spills:
    """Which kernels were compiled with spills since the last question."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def any(self, kernels: Sequence[Any]) -> bool:
        found = False
        for kernel in kernels:
            made = getattr(kernel, "made", kernel)
            for cached in list(getattr(made, "device_caches", {}).values()):
                for compiled in cached[0].values():
                    new = id(compiled) not in self.seen
                    self.seen.add(id(compiled))
                    found |= new and getattr(compiled, "n_spills", 0) > 0
        return found


def fastest(
    candidates: Sequence[Any],
    trying: Callable[[Any], Any],
    run: Callable[[], object],
    kernels: Sequence[Any],
    bench: Any,
) -> Any:
    """The candidate to write down; None: the first, or nothing was measured in time."""
    spills, times = Spills(), {}
    for candidate in candidates:
        if bench.late:
            break
        try:
            with trying(candidate):
                run()
                if spills.any(kernels) and times:
                    continue
                times[candidate] = bench.measure(run)
        except Exception as error:  # too much shared memory, or registers
            print(f"  {candidate}: {type(error).__name__}", flush=True)
    if len(times) < 2 or candidates[0] not in times:
        return None
    best = min(times, key=lambda one: times[one])
    return best if times[best] < BETTER * times[candidates[0]] else None


def tune(modules: dict[str, ModuleType], bench: Any, path: Path, small: bool = False) -> str:
    """Measure, write ``path``, and say what changed."""
    architecture = architecture_of(bench.device) or "none"
    sizes = SMALL if small else FULL
    rows = dict(tuned.ROWS.get(architecture, {}))
    tiles = dict(tuned.TILES.get(architecture, {}))
    lines = []
    for found, table in ((tiled_launches, tiles), (row_launches, rows)):
        for key, before, after in found(modules, bench, sizes):
            table[key] = after
            lines.append(f"{key}: {before} -> {after}")
    every = {
        "ROWS": tuned.ROWS | {architecture: rows},
        "TILES": tuned.TILES | {architecture: tiles},
    }
    path.write_text(written(every), encoding="utf-8")
    return "\n".join(lines) or "nothing is faster than the launches that follow from counts"


def written(tables: dict[str, dict[str, dict[Any, Any]]]) -> str:
    """The text of ``tuned.py`` with these tables."""
    text = Path(tuned.__file__).read_text(encoding="utf-8")
    head = text[: text.index("ROWS: dict")]
    types = {name: text.split(f"{name}: ", 2)[-1].split(" = ")[0] for name in ("ROWS", "TILES")}
    for name, table in tables.items():
        kept = {architecture: entries for architecture, entries in table.items() if entries}
        if not kept:
            head += f"{name}: {types[name]} = {{}}\n"
            continue
        head += f"{name}: {types[name]} = {{\n"
        for architecture, entries in sorted(kept.items()):
            head += f'    "{architecture}": {{\n'
            for key, value in sorted(entries.items()):
                head += f"        {_said(key)}: {_said(value)},\n"
            head += "    },\n"
        head += "}\n"
    return head


def _said(values: Sequence[Any]) -> str:
    return "(" + ", ".join(f'"{v}"' if isinstance(v, str) else repr(v) for v in values) + ")"


# ---------------------------------------------------------------------------------- tiled kernels
def tiled_launches(
    modules: dict[str, ModuleType], bench: Any, sizes: Sizes
) -> Iterator[tuple[Any, Any, Any]]:
    half = bench.began + 0.6 * 60 * bench.options.minutes
    stock = tiled.launch_of
    for kind, name in TILES.items():
        variant = modules[name].LOSS.variants[0]
        run = partial(_linear, modules[name], kind, sizes, bench)
        for role in ("sweep", "gradient", *(["product"] if kind == "light" else [])):
            if bench.now() > half:
                return
            given = _key(variant, kind, bench.device)
            first = stock(role, *given)

            def trying(candidate: Launch, role: str = role) -> Any:
                def launch_of(asked: str, *rest: Any) -> Launch:
                    return candidate if asked == role else stock(asked, *rest)

                return replaced(tiled, "launch_of", launch_of)

            kernels = [variant.tiled.gradient, *(s[0] for s in variant.tiled.sweeps)]
            kernels.append(tiled.tiles.product_kernel)
            objective = run(backward=role != "sweep")
            best = fastest(around(first, role), trying, objective, kernels, bench)
            if best is not None:
                yield (role, given[0], kind), astuple(first), astuple(best)


def _key(variant: Any, kind: str, device: torch.device) -> tuple[int, int, int, int, str]:
    vectors = 1 + len(variant.streams)
    itemsize = 2 if device.type == "cuda" else 4
    return itemsize, vectors, 1 + (kind == "pair"), variant.tiled.work, architecture_of(device)


def _linear(
    module: ModuleType, kind: str, sizes: Sizes, bench: Any, backward: bool
) -> Callable[[], object]:
    device = bench.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    g = torch.Generator(device).manual_seed(0)
    shape = {"device": device, "generator": g}
    hidden = torch.randn(sizes.rows, sizes.features, **shape).to(dtype).requires_grad_()
    weight = torch.randn(sizes.classes, sizes.features, **shape).mul_(sizes.features**-0.5)
    weight = weight.to(dtype).requires_grad_()
    target = torch.randint(sizes.classes, (sizes.rows,), **shape)
    other = [(hidden.detach() + 0.1, weight.detach())] if kind == "pair" else []
    loss = getattr(module, f"linear_{module.LOSS.function}")
    how = {"schedule": "tiled", "backend": "triton", "filter": False}

    def run() -> object:
        with torch.set_grad_enabled(backward):
            total = loss(hidden, weight, target, *other, **how)
        return torch.autograd.grad(total, (hidden, weight)) if backward else total

    return run


# ---------------------------------------------------------------------------------- row kernels
def row_launches(
    modules: dict[str, ModuleType], bench: Any, sizes: Sizes
) -> Iterator[tuple[Any, Any, Any]]:
    stock = launch.config
    for name in ROWS:
        for classes in sizes.vocabularies:
            variant, runs = _rows(modules[name].LOSS, classes, sizes, bench)
            heavy, crowded = launch.is_heavy(variant), bool(variant.streams)
            for role, run in runs.items():
                if bench.late:
                    return
                first = launch.config_of(
                    role,
                    variant,
                    classes,
                    torch.version.hip is not None,
                    architecture_of(bench.device),
                )

                def trying(candidate: launch.Config, role: str = role) -> Any:
                    def config(asked: str, *rest: Any) -> launch.Config:
                        return candidate if asked == role else stock(asked, *rest)

                    return replaced(launch, "config", config)

                kernels = [getattr(variant, f"{role}_kernel")]
                best = fastest(around_row(first), trying, run, kernels, bench)
                if best is not None:
                    width = 1 << (classes - 1).bit_length()
                    key = role, width, heavy or crowded, heavy
                    yield key, (first.block, first.warps), (best.block, best.warps)


def _rows(
    loss: Any, classes: int, sizes: Sizes, bench: Any
) -> tuple[Any, dict[str, Callable[[], object]]]:
    """The kernels of a loss by role, on rows of logits."""
    device = bench.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    logits = torch.randn(sizes.rows, classes, device=device).to(dtype)
    streams = tuple(torch.randn_like(logits) for _ in loss.streams)
    target = torch.randint(classes, (sizes.rows,), device=device) if loss.has_target else None
    numbers = [p.default for p in loss.parameters]
    index, batch = loss.bind(logits, target, streams, numbers, [None] * len(loss.others), -100)
    variant = loss.variants[index]
    slopes = torch.ones(batch.n_out, sizes.rows, device=device)
    outs = [torch.empty_like(logits), *(None for _ in range(batch.n_gradients - 1))]
    wanted = [True, *(False for _ in outs[1:])]
    saved = launch.forward(variant, batch)[1]
    return variant, {
        "forward": partial(launch.forward, variant, batch),
        "backward": partial(launch.backward, variant, batch, saved, slopes, wanted),
        "fused": partial(launch.fused, variant, batch, slopes, outs),
    }
