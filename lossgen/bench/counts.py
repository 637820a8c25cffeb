"""What a kernel costs per logit, counted in its machine code.  No timing.

A *tile loop* is an innermost loop that loads at least one tile of one class input.  Which of them
a long row spends its time in:

1. A kernel's tile loops are sweeps (they store nothing per class) or gradients (they do), and each
   of the two kinds is looked at by itself.
2. A loop is *masked* if some of its loads of classes are not made in every iteration: predicated,
   or behind a branch.  Where a kind has a loop that is not masked, its masked loops are *edges*:
   they run for a row's first or last tile, or for the target's.
3. Of the rest, those with the widest loads are *main* loops, and narrower ones are edges too.

A row passes each main loop once, so its cost per logit is the sum over the main loops, of a loop
that is not masked by its shortest way round: what stands behind a branch there is done for a tile
or two, and counted as ``branched``.  A loop that stores tiles and loads none is a *fill*; any
other loop is *other*.  A kernel without a tile loop (a row or a tile that a program holds at once)
is counted whole.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lossgen.bench.assembly import Instruction, Listing, Loop
from lossgen.bench.classes import CLASSES, access_of, class_of, is_exp2

__all__ = ["Launch", "LoopCounts", "MACHINES", "Machine", "counts_of", "pressure"]


@dataclass(frozen=True)
class Machine:
    """A device as the model sees it: what it issues while it moves two bytes per lane."""

    processors: int
    clock: float  # Hz
    bandwidth: float  # bytes per second that a good kernel reaches
    issue: int = 128  # lanes per clock and processor
    special: int = 16  # lanes per clock and processor of the unit of approximate functions

    def per_two_bytes(self, lanes: int) -> float:
        """Lane-instructions per two bytes moved, at ``lanes`` per clock and processor."""
        return self.processors * lanes * self.clock / (self.bandwidth / 2)


#: H100 SXM and B200; 1.8 GHz and nine tenths of the memory's rate are what such kernels see.
MACHINES = {
    "sm_90": Machine(132, 1.8e9, 4.3e12),
    "sm_100": Machine(148, 1.8e9, 7.2e12),
}


@dataclass(frozen=True)
class Launch:
    """What of a launch the figures depend on."""

    classes: int  # of a row
    block: int  # classes of a tile
    threads: int
    itemsize: int  # of the logits
    streams: int  # class inputs that may be read, the logits among them
    gradients: int  # that may be written
    vectors: int = 0  # over the classes, float32, read beside the class inputs

    @property
    def elements(self) -> float:
        """Per thread and tile."""
        return self.block / self.threads

    @property
    def tile_bytes(self) -> float:
        """Of one class input, per thread."""
        return self.elements * self.itemsize


@dataclass(frozen=True)
class LoopCounts:
    """One loop, per thread and iteration; ``tiles`` is how many an iteration does (unrolled)."""

    role: str  # main, edge, fill or other
    kind: str  # sweep or gradient; "" of others
    tiles: int
    instructions: int
    masked: bool
    branched: int = 0  # instructions that are not among these
    classes: dict[str, int] = field(default_factory=dict)
    ex2: int = 0
    loads: dict[str, int] = field(default_factory=dict)  # bits → how many
    stores: dict[str, int] = field(default_factory=dict)


def counts_of(listing: Listing, launch: Launch) -> dict[str, Any]:
    """The record of a kernel: its loops, and what it does per logit."""
    loops = _roles([_loop(listing, loop, launch) for loop in listing.loops if loop.inner])
    main = [loop for loop in loops if loop.role == "main"]
    if main:
        shares = [(loop, 1 / (loop.tiles * launch.elements)) for loop in main]
    else:
        whole = [listing.instructions[i] for i in listing.reached]
        programs = math.ceil(launch.classes / launch.block)
        shares = [(_counted(whole, ""), launch.threads * programs / launch.classes)]
    total: Counter[str] = Counter()
    read = written = 0
    for loop, share in shares:
        for name, count in {**loop.classes, "instructions": loop.instructions}.items():
            total[name] += count * share  # type: ignore[assignment]
        total["ex2"] += loop.ex2 * share  # type: ignore[assignment]
        tiles = loop.tiles * launch.tile_bytes
        read += min(launch.streams, int(_bytes(loop.loads) / tiles))
        written += min(launch.gradients, int(_bytes(loop.stores) / tiles))
    barriers = sum(loop.classes.get("barrier", 0) / loop.tiles for loop, _ in shares)
    names = ("instructions", "ex2", *CLASSES)
    return {
        "elements": _short(launch.elements),
        "whole": len(listing.reached),
        "per_logit": {name: _short(total[name]) for name in names if total[name]},
        "barriers_per_tile": _short(barriers),
        "bytes_read": read * launch.itemsize,
        "bytes_written": written * launch.itemsize,
        "widths": {
            what: _width(sum((Counter(getattr(loop, what)) for loop, _ in shares), Counter()))
            for what in ("loads", "stores")
        },
        "loops": [asdict(loop) for loop in loops],
    }


def pressure(record: dict[str, Any], machine: Machine) -> dict[str, float]:
    """Time to issue the instructions, and the special ones, each ÷ the time of the bytes.

    Above 1 the loop cannot keep up with the memory, whatever its latencies."""
    pairs = (record["bytes_read"] + record["bytes_written"]) / 2
    if not pairs:
        return {}
    counts = record["per_logit"]
    issue = counts["instructions"] / (machine.per_two_bytes(machine.issue) * pairs)
    special = counts.get("special", 0) / (machine.per_two_bytes(machine.special) * pairs)
    return {"issue": _short(issue), "special": _short(special)}


def _short(value: float) -> float:
    """Three decimals, so that a record does not change by the last bit."""
    return round(float(value), 3)


# ---------------------------------------------------------------------------------- one loop
def _loop(listing: Listing, loop: Loop, launch: Launch) -> LoopCounts:
    body = [listing.instructions[i] for i in loop.body]
    counted = _counted(body, "other")
    loaded, stored = _bytes(counted.loads), _bytes(counted.stores)
    sweeps, stores = loaded >= launch.tile_bytes, stored >= launch.tile_bytes
    if not sweeps and not stores:
        return counted
    if not sweeps:
        return replace(counted, role="fill", tiles=_unrolled(body, stored, launch))
    always = [listing.instructions[i] for i in sorted(loop.always)]
    made = _counted([i for i in always if not i.predicated], "").loads
    # What is read beside the tiles (a flag, a pointer) is less than a tile.
    masked = loaded - _bytes(made) >= launch.tile_bytes
    if not masked:
        body = [listing.instructions[i] for i in loop.shortest]
        loaded = _bytes(made)
    return replace(
        _counted(body, "main"),
        kind="gradient" if stores else "sweep",
        tiles=_unrolled(body, loaded, launch),
        masked=masked,
        branched=len(loop.body) - len(body),
    )


def _counted(body: Sequence[Instruction], role: str) -> LoopCounts:
    found = Counter(class_of(i.name) for i in body)
    widths: dict[str, Counter[str]] = {"load": Counter(), "store": Counter()}
    for instruction in body:
        what, size = access_of(instruction.name)
        if what:
            widths[what][str(8 * size)] += 1
    return LoopCounts(
        role,
        kind="",
        tiles=1,
        instructions=len(body),
        masked=False,
        classes={name: found[name] for name in CLASSES if found[name]},
        ex2=sum(is_exp2(i.name) for i in body),
        loads=dict(widths["load"]),
        stores=dict(widths["store"]),
    )


def _bytes(accesses: dict[str, int]) -> int:
    return sum(int(bits) * count for bits, count in accesses.items()) // 8


_NUMBER = re.compile(r"(?<![\w.])(0x[0-9a-f]+|[1-9]\d*)(?![\w.])")


def _unrolled(body: Iterable[Instruction], moved: int, launch: Launch) -> int:
    """Tiles of an iteration: how far its counter of classes goes, which is the shortest of the
    steps that are whole tiles (pointers go further); no more than are moved."""
    steps = []
    for instruction in body:
        if re.match(r"U?IADD|VIADD|[sv]_add", instruction.name):
            first, *others = re.split(r"[,\s]+", instruction.operands.replace(".reuse", ""))
            numbers = [int(n, 0) for n in _NUMBER.findall(instruction.operands)]
            # AMD's s_addk has one register, its source and destination.
            if len(numbers) == 1 and (first in others or instruction.name.startswith("s_addk")):
                steps += numbers
    tiles = [step // launch.block for step in steps if step % launch.block == 0]
    most = int(moved / launch.tile_bytes)
    if tiles:
        return max(1, min([*tiles, most]))
    # A loop that counts tiles says nothing of classes: what a tile of everything takes.
    whole = launch.streams * launch.tile_bytes + 4 * launch.vectors * launch.elements
    return max(1, int(moved / whole))


def _roles(loops: Sequence[LoopCounts]) -> list[LoopCounts]:
    """Rules 1 to 3 of the module's docstring: which of the tile loops are edges."""
    found = list(loops)
    for kind in ("sweep", "gradient"):
        of_kind = [loop for loop in loops if loop.kind == kind]
        left = [loop for loop in of_kind if not loop.masked] or of_kind
        widest = max((_width(loop.loads) for loop in left), default=0)
        main = [loop for loop in left if _width(loop.loads) == widest]
        for at, loop in enumerate(found):
            if loop.kind == kind and not any(loop is kept for kept in main):
                found[at] = replace(loop, role="edge")
    return found


def _width(accesses: Mapping[str, int]) -> int:
    """Bits of the accesses that move most; the others are of numbers of the row."""
    moved = {int(bits): int(bits) * count for bits, count in accesses.items()}
    return max(moved, key=lambda bits: (moved[bits], -bits), default=0)
