"""What benchmarks/results/ has recorded of a loss; nothing where it has not been timed."""

from __future__ import annotations

from collections.abc import Iterator

from tools.site.facts import results
from tools.site.markup import table

__all__ = ["speed_part"]

_RIVALS = {"eager": "eager composite", "compiled": "`torch.compile` of it", "floor": "floor"}


def speed_part(name: str) -> Iterator[str]:
    """The section, or nothing."""
    tables = [*_rows(name), *_small(name), *_linear(name), *_counted(name)]
    if tables:
        yield "## Speed\n"
        yield from tables
        yield "[What is measured, and what the floor is](../benchmarks.md).\n"


def _rows(name: str) -> Iterator[str]:
    found = results("cpu.json")
    row = next((r for r in found.get("speed", ()) if r["loss"] == name), None)
    if row is None:
        return
    cells = [("lossgen", f"{row['lossgen']['ms']:.0f} ms", "")]
    cells += [
        (title, f"{row[key]['ms']:.0f} ms", f"× {row[key]['times_lossgen']:.1f}")
        for key, title in _RIVALS.items()
    ]
    sizes = f"N = {found['rows']}, V = {found['classes']}"
    yield f"Forward and backward on a CPU, {sizes}, {found['dtype']}, {_machine(found)}:\n"
    yield table(["program", "median", "÷ lossgen"], cells, numbers=2)


def _small(name: str) -> Iterator[str]:
    found = results("small.json")
    rows = [
        (call["what"].partition(", ")[2].replace(" x ", " × "), *_microseconds(call["us"]))
        for call in found.get("calls", ())
        if call["what"].startswith(f"{name}, ") and "eager" in call["us"]
    ]
    if rows:
        yield f"Small calls, {_machine(found)}:\n"
        yield table(["rows × classes", "lossgen", "eager composite"], rows, numbers=2)


def _microseconds(us: dict[str, float]) -> tuple[str, str]:
    return f"{us['lossgen']:.0f} µs", f"{us['eager']:.0f} µs"


def _linear(name: str) -> Iterator[str]:
    found = results("cpu.json").get("linear", {})
    chosen = [c for c in found.get("candidates", ()) if c["name"] == f"linear_{name}"]
    if chosen:
        sizes = ", ".join(
            f"{letter} = {size}"
            for letter, size in zip("NDV", found["sizes"].values(), strict=True)
        )
        yield (
            f"The linear twin, {sizes}: {chosen[0]['ms']:.0f} ms, "
            f"{chosen[0]['times_floor']:.2f} times the three matrix products alone.\n"
        )


def _counted(name: str) -> Iterator[str]:
    found = results("counts_sm90.json")
    rows = [
        (
            k["kernel"],
            f"{k['classes']}",
            f"{k['per_logit']['instructions']:.1f}",
            f"{k['registers']}",
        )
        for k in found.get("kernels", ())
        if k["loss"] == name and not k["uses"]
    ]
    if rows:
        yield f"Row kernels compiled for {found['target']}; counted, not timed:\n"
        yield table(["kernel", "classes", "instructions per logit", "registers"], rows, numbers=3)


def _machine(found: dict[str, object]) -> str:
    threads = found["threads"]
    return f"{found['processor']}, {threads} thread{'s' if threads != 1 else ''}, {found['date']}"
