"""Machine code as text → instructions, and the loops that they stand in.

    listing = parse(text)          # of nvdisasm -c, or the text that the AMD back end writes
    listing.loops[0].body          # positions of its instructions

A loop is a natural one: a branch back to a block that every way to the branch passes.  That a
branch goes backwards in the text is not enough: compilers put blocks that are rarely taken behind
the end of a kernel, from where they jump back.

Nothing is compiled or run here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

__all__ = ["Instruction", "Listing", "Loop", "parse"]


@dataclass(frozen=True)
class Instruction:
    """One instruction: ``goes_to`` is the label of a branch, ``falls`` says whether the next one
    may follow."""

    name: str
    operands: str = ""
    predicated: bool = False
    goes_to: str = ""
    falls: bool = True


@dataclass(frozen=True)
class Loop:
    """Positions of the instructions of a loop, inner loops included.

    ``always`` are those that every iteration passes, ``shortest`` those of the shortest way round
    (what is done for a few tiles stands behind a branch), ``inner`` says that no loop is inside.
    """

    body: tuple[int, ...]
    always: frozenset[int]
    shortest: tuple[int, ...]
    inner: bool


@dataclass(frozen=True)
class Listing:
    """The instructions of a kernel, the positions that can be reached, and its loops in the order
    of their first instructions."""

    instructions: tuple[Instruction, ...]
    reached: tuple[int, ...]
    loops: tuple[Loop, ...]


def parse(text: str) -> Listing:
    """The listing of the first kernel of a text, NVIDIA's or AMD's.

    Raises:
        ValueError: no instruction in it, or a branch to a place that it does not show.
    """
    read = _amd if ".amdgcn_target" in text else _nvidia
    instructions, labels = read(text.splitlines())
    if not instructions:
        raise ValueError("no instruction in the disassembly")
    for instruction in instructions:
        if instruction.goes_to and instruction.goes_to not in labels:
            raise ValueError(f"no label {instruction.goes_to!r} in the disassembly")
    graph = _Graph(instructions, labels)
    reached = [i for block in sorted(graph.reached) for i in graph.positions(block)]
    return Listing(tuple(instructions), tuple(reached), tuple(graph.loops()))


# ---------------------------------------------------------------------------------- texts
_LABEL = re.compile(r"^(\.L\w+):")
_NVIDIA = re.compile(
    r"^\s+/\*[0-9a-f]{4,}\*/\s+(?P<predicate>@!?U?P\w+\s+)?"
    r"(?P<name>[A-Z][A-Z0-9_.]*)\s*(?P<operands>.*?)\s*;"
)
_TO = re.compile(r"`\((\.L\w+)\)")
_CONDITION = re.compile(r"!?\bU?P\d\b")
_AMD = re.compile(r"^\t(?P<name>[a-z]\w+)\s*(?P<operands>[^;]*)")

Read = tuple[list[Instruction], dict[str, int]]


def _nvidia(lines: Iterable[str]) -> Read:
    """What ``nvdisasm -c`` prints, of any architecture."""
    found: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in lines:
        if label := _LABEL.match(line):
            labels[label[1]] = len(found)
        if match := _NVIDIA.match(line):
            name, operands = match["name"], match["operands"]
            predicated = match["predicate"] is not None
            kind, target = name.split(".")[0], _TO.search(operands)
            goes_to, falls = "", True
            # BRA.DIV is taken where the threads of a warp have parted, which ours do not.
            if kind == "BRA" and ".DIV" not in name and target is not None:
                goes_to = target[1]
                falls = predicated or bool(_CONDITION.search(operands[: target.start()]))
            elif kind in ("EXIT", "RET", "BRX", "JMX", "KILL"):
                falls = predicated
            found.append(Instruction(name, operands, predicated, goes_to, falls))
    return found, labels


def _amd(lines: Iterable[str]) -> Read:
    """The assembly that LLVM writes for AMD.  There is no predicate on an instruction there: a mask
    is put into the register ``exec`` before, within a loop, and taken out again behind; or it
    selects, by ``v_cndmask``, an offset outside the buffer."""
    found: list[Instruction] = []
    labels: dict[str, int] = {}
    masked = False
    selected: set[str] = set()  # registers that such an instruction wrote last
    for line in lines:
        if line.startswith(".Lfunc_end"):
            break
        if label := _LABEL.match(line):
            labels[label[1]] = len(found)
            masked &= "Loop Header" not in line
        if match := _AMD.match(line):
            name, operands = match["name"], match["operands"].strip()
            # execz is taken where a mask leaves no thread at all: not in a tile of a row.
            jumps = name.startswith(("s_branch", "s_cbranch")) and "execz" not in name
            goes_to = operands if jumps else ""
            falls = name not in ("s_branch", "s_endpgm", "s_setpc_b64")
            written, *others = re.split(r",\s*", operands)
            apart = name.startswith("buffer_") and not selected.isdisjoint(others[:1])
            found.append(Instruction(name, operands, masked or apart, goes_to, falls))
            selected.discard(written)
            if name.startswith("v_cndmask"):
                selected.add(written)
            if name.endswith("saveexec_b64") or operands.startswith("exec"):
                masked = name.endswith("saveexec_b64")
    return found, labels


# ---------------------------------------------------------------------------------- the graph
class _Graph:
    """Blocks of instructions that are passed together, which blocks follow, and which are passed
    on every way to a block (``over``, as bits)."""

    def __init__(self, instructions: Sequence[Instruction], labels: Mapping[str, int]) -> None:
        first = {0, *(labels[i.goes_to] for i in instructions if i.goes_to)}
        first |= {at + 1 for at, i in enumerate(instructions) if i.goes_to or not i.falls}
        self.starts = sorted(at for at in first if at < len(instructions))
        self.ends = [*self.starts[1:], len(instructions)]
        block_at = {start: block for block, start in enumerate(self.starts)}
        self.after: list[list[int]] = []
        for block, end in enumerate(self.ends):
            last = instructions[end - 1]
            following = [block + 1] if last.falls and end < len(instructions) else []
            jump = [block_at[labels[last.goes_to]]] if last.goes_to else []
            self.after.append([*following, *jump])
        self.reached = self._reach()
        self.before: dict[int, list[int]] = {block: [] for block in self.reached}
        for block in self.reached:
            for then in self.after[block]:
                self.before[then].append(block)
        self.over = self._dominators()

    def positions(self, block: int) -> range:
        return range(self.starts[block], self.ends[block])

    def _reach(self) -> set[int]:
        found, todo = {0}, [0]
        while todo:
            new = set(self.after[todo.pop()]) - found
            found |= new
            todo += new
        return found

    def _dominators(self) -> dict[int, int]:
        everything = (1 << len(self.starts)) - 1
        over = dict.fromkeys(self.reached, everything) | {0: 1}
        changed = True
        while changed:
            changed = False
            for block in sorted(self.reached - {0}):
                common = everything
                for then in self.before[block]:
                    common &= over[then]
                new = common | 1 << block
                changed |= new != over[block]
                over[block] = new
        return over

    def loops(self) -> list[Loop]:
        tails: dict[int, list[int]] = {}
        for block in sorted(self.reached):
            for head in self.after[block]:
                if self.over[block] >> head & 1:
                    tails.setdefault(head, []).append(block)
        bodies = {head: self._body(head, ends) for head, ends in tails.items()}
        found = []
        for head, body in sorted(bodies.items()):
            passed = [b for b in body if all(self.over[t] >> b & 1 for t in tails[head])]
            inner = not any(other in body for other in bodies if other != head)
            way = self._way_round(head, tails[head], body)
            flat, always, shortest = (
                [i for block in sorted(blocks) for i in self.positions(block)]
                for blocks in (body, passed, way)
            )
            found.append(Loop(tuple(flat), frozenset(always), tuple(shortest), inner))
        return found

    def _way_round(self, head: int, tails: Collection[int], body: Collection[int]) -> list[int]:
        """The blocks with the fewest instructions from the head to a tail."""
        todo = [(len(self.positions(head)), [head])]
        done: set[int] = set()
        while True:
            length, way = heappop(todo)
            if way[-1] in tails:
                return way
            if way[-1] not in done:
                done.add(way[-1])
                for then in set(self.after[way[-1]]) & set(body) - done:
                    heappush(todo, (length + len(self.positions(then)), [*way, then]))

    def _body(self, head: int, tails: Iterable[int]) -> set[int]:
        """The blocks from which a tail is reached without passing the head."""
        found = {head}
        todo = [*tails]
        while todo:
            block = todo.pop()
            if block not in found:
                found.add(block)
                todo += self.before[block]
        return found
