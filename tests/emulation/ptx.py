"""The text of a kernel, as statements."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Program", "Statement", "parse"]

_DIRECTIVE = re.compile(r"\.(?:loc|file|pragma)\b")
_LABEL = re.compile(r"(\$[\w$]+):\s*")
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+%(\w+)<\d+>")
_PARAMETER = re.compile(r"\.param\s+\.(\w+)\s[^,()]*?(\w+)\s*(?=[,)])")
_STATEMENT = re.compile(r"(?:@(!?)%(\w+)\s+)?([\w.]+)(?:\s+(.*))?$", re.DOTALL)
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s{\[][^,]*")
_BITS = {"pred": 1, "b16": 16, "b32": 32, "f32": 32, "b64": 64, "f64": 64}


@dataclass(frozen=True)
class Statement:
    """``@guard op operands``; ``negated``: where the guard is false."""

    op: str
    operands: tuple[str, ...]
    guard: str = ""
    negated: bool = False

    def __str__(self) -> str:
        guard = f"@{'!' if self.negated else ''}%{self.guard} " if self.guard else ""
        return f"{guard}{self.op} {', '.join(self.operands)};"


@dataclass(frozen=True)
class Program:
    """One kernel. ``widths``: bits of a register by the letters of its name; ``labels``: numbers of
    the statements that they stand before."""

    parameters: tuple[tuple[str, str], ...]  # type and name
    threads: int
    widths: dict[str, int]
    statements: tuple[Statement, ...]
    labels: dict[str, int]


def parse(text: str) -> Program:
    """The kernel of a module that has one."""
    entry = re.sub(r"//.*", "", text[text.index(".entry") :])
    head, body = entry.split("{", 1)
    body = body[: body.index("\n}")]
    threads = re.search(r"\.reqntid\s+(\d+)", head)
    if threads is None:
        raise ValueError("no number of threads")
    statements: list[Statement] = []
    labels: dict[str, int] = {}
    for line in body.split("\n"):
        rest = line.strip()
        while found := _LABEL.match(rest):
            labels[found[1]] = len(statements)
            rest = rest[found.end() :]
        if _DIRECTIVE.match(rest):
            continue
        for part in rest.split(";"):
            if part.strip() and not _REGISTERS.match(part.strip()):
                statements.append(_statement(part.strip()))
    return Program(
        tuple(_PARAMETER.findall(head)),
        int(threads[1]),
        {name: _BITS[kind] for kind, name in _REGISTERS.findall(body)},
        tuple(statements),
        labels,
    )


def _statement(text: str) -> Statement:
    found = _STATEMENT.match(text)
    if found is None:
        raise ValueError(f"cannot read {text!r}")
    negated, guard, op, operands = found.groups()
    parts = (part.strip() for part in _OPERAND.findall(operands or ""))
    return Statement(op, tuple(filter(None, parts)), guard or "", bool(negated))
