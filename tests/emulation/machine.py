"""Lanes of a launch, all side by side: those that are furthest behind take the next step.

A lane that has gone ahead waits, so that lanes meet again behind a branch, and at a barrier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tests.emulation.memory import Fault, Memory, Place
from tests.emulation.ptx import Program

__all__ = ["Machine", "Step"]

Array = NDArray[Any]
WARP = 32
MOST_STEPS = 2_000_000
_UNSIGNED = {1: np.bool_, 16: np.uint16, 32: np.uint32, 64: np.uint64}


class Machine:
    """One launch of a program.

    Attributes:
        lanes: how many there are, of all programs of the grid.
        active: which of them take the present step, or None for all.
        special: registers that are only read.
        shared: one segment per program, at multiples of ``segment``.
    """

    def __init__(
        self,
        program: Program,
        steps: Sequence[Step],
        grid: tuple[int, int, int],
        arguments: Sequence[Any],
        shared: int,
    ) -> None:
        programs = grid[0] * grid[1] * grid[2]
        self.code, self.steps = program, steps
        self.lanes = programs * program.threads
        thread = np.tile(np.arange(program.threads), programs)
        self.program = np.repeat(np.arange(programs), program.threads)
        warps = -(-program.threads // WARP)
        self._warp = self.program * warps + thread // WARP
        self._epoch = np.zeros(self.lanes, np.int64)
        self.special = {
            "%tid.x": thread.astype(np.uint32),
            "%ctaid.x": (self.program % grid[0]).astype(np.uint32),
            "%ctaid.y": (self.program // grid[0] % grid[1]).astype(np.uint32),
        }
        self.segment = -(-max(shared, 1) // 16) * 16
        self.shared = Memory([(0, np.zeros(self.segment * programs, np.uint8))])
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        self.tensors = Memory.of(tensors)
        # Behind the arguments stand two pointers to scratch memory, of which there is none.
        given = [*arguments, *(0 for _ in program.parameters[len(arguments) :])]
        pairs = zip(program.parameters, given, strict=True)
        self.parameters = {name: _bits(kind, value) for (kind, name), value in pairs}
        self.registers: dict[str, Array] = {}
        self.active: Array | None = None
        self.next: Array | int = 0  # the statement of each lane, or of all

    def place(self, some: Array) -> Place:
        """Where ``some`` lanes stand."""
        return Place(self.program, self._warp, self._epoch)[some]

    def write(self, name: str, value: Array, mask: Array | None) -> None:
        """A register; only the lanes of ``mask`` where there is one."""
        if name == "_":  # half of a pair that nothing reads
            return
        width = self.code.widths[name.rstrip("0123456789")]
        held = np.ascontiguousarray(np.broadcast_to(value, self.lanes)).view(_UNSIGNED[width])
        if mask is not None:
            before = self.registers.get(name)
            held = np.where(mask, held, held.dtype.type(0) if before is None else before)
        self.registers[name] = held

    def barrier(self) -> None:
        """Of all threads of a program.

        Raises:
            Fault: some of them are elsewhere.
        """
        if self.active is None:
            self._epoch += 1
            return
        for program in np.unique(self.program[self.active]):
            own = self.program == program
            if not self.active[own].all():
                raise Fault("a barrier that not every thread of a program has come to")
            self._epoch[own] += 1

    def whole_warps(self) -> None:
        """Raises Fault where a part of a warp exchanges values."""
        if self.active is not None:
            warps = self.active.reshape(-1, WARP)
            if (warps.any(1) != warps.all(1)).any():
                raise Fault("an exchange of values in a warp that is not whole")

    def branch(self, to: int, mask: Array | None) -> None:
        """The lanes of ``mask`` go on at ``to``, the other active ones behind this statement."""
        if mask is None or mask.all():
            self.next = to - 1  # one is added to it, as after every statement
        elif mask.any():
            self.next = np.where(mask, to - 1, self.next)

    def run(self) -> None:
        """To the end of every lane."""
        end = len(self.steps)
        with np.errstate(all="ignore"):
            for _ in range(MOST_STEPS):
                at = self.next if isinstance(self.next, int) else int(self.next.min())
                if at >= end:
                    return
                self.active = None
                if not isinstance(self.next, int):
                    active = self.next == at
                    if active.all():
                        self.next = at
                    else:
                        self.active = active
                self._step(at)
        raise Fault("no end")

    def _step(self, at: int) -> None:
        statement, mask = self.code.statements[at], self.active
        try:
            if statement.guard:
                guard = self.registers[statement.guard]
                guard = ~guard if statement.negated else guard
                mask = guard if mask is None else mask & guard
            self.steps[at](self, mask)
        except Fault as fault:
            raise Fault(f"{fault}: {statement}") from None
        if self.active is None:
            self.next = self.next + 1
        else:
            self.next = self.next + self.active


Step = Callable[[Machine, "Array | None"], None]


def _bits(kind: str, value: Any) -> Array:
    """A parameter in a register."""
    if isinstance(value, Tensor):
        value = value.data_ptr()
    if kind[0] == "f":
        return np.array([value], {"f32": np.float32, "f64": np.float64}[kind])
    width = int(kind[1:])
    return np.array([int(value) & ((1 << width) - 1)], np.uint64).astype(_UNSIGNED[width])
