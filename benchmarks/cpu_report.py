"""What benchmarks/cpu.py measured, as tables for the terminal, JSON, Markdown and a plot."""

from __future__ import annotations

import json
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import linear
import torch
from rich.console import Console

from lossgen.bench.report import Timing, markdown, ratio, rich_table
from lossgen.runtime.c_build import find_compiler

#: how many times faster than the best alternative, how many floors, how far from the best V
FASTER, FLOORS, CLIFF = 2.0, 1.4, 1.6
LONG = 1000  # classes from which on the time per logit is constant
FASTER_THAN_TORCH = {"cross_entropy": 1.5}  # than F.cross_entropy, which is what people call
SPEED = (
    "forward + backward, ms",
    "lossgen",
    "eager",
    "compiled",
    "faster",
    "bar",
    "floor",
    "÷ floor",
)
#: Floors without a bar, and what is said of them.
OTHER_FLOORS = {
    "floors_of_one": "In floors of one row of logits and one gradient",
    "floors_of_huge_pages": "In floors whose gradients are in huge pages, as lossgen's are",
}
COLOURS = {"lossgen": "#1b6ca8", "compiled": "#e08e45", "eager": "#b0b0b0", "floor": "#2f2f2f"}


def bars(name: str, timings: dict[str, Timing]) -> dict[str, Any]:
    """The ratios that have a bar, and whether they clear it."""
    ours = timings["lossgen"]
    rivals = ("eager",) if name in FASTER_THAN_TORCH else ("eager", "compiled")
    faster = min(ratio(timings[key], ours) for key in rivals if key in timings)
    floors = ratio(ours, timings["floor"])
    needed = FASTER_THAN_TORCH.get(name, FASTER)
    found = {"faster": faster, "needed": needed, "floors": floors}
    found["met"] = faster >= needed and floors <= FLOORS
    for key in OTHER_FLOORS:
        timing = timings.get(key.replace("floors", "floor"))
        found |= {key: ratio(ours, timing)} if timing else {}
    return found


def about(threads: int, **sizes: int) -> dict[str, Any]:
    """Machine, versions, date, and the sizes of what is measured."""
    compiler = find_compiler()
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions["lossgen"] = metadata.version("lossgen")
    versions["compiler"] = compiler.version if compiler else "none"
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor(),
        "threads": threads,
        "versions": versions,
        "dtype": "float32",
        **sizes,
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} processors" if names else platform.machine()


# ---------------------------------------------------------------------------- tables
def speed_cells(results: dict[str, Any]) -> list[tuple[str, ...]]:
    found = []
    for row in results["speed"]:
        times = {
            key: f"{row[key]['ms']:.0f} (× {row[key]['times_lossgen']:.1f})" if key in row else ""
            for key in ("eager", "compiled")
        }
        mark = "" if row["met"] else " missed"
        found.append(
            (
                row["loss"],
                f"{row['lossgen']['ms']:.1f}",
                times["eager"],
                times["compiled"],
                f"{row['faster']:.2f}",
                f"≥ {row['needed']:.1f}{mark}",
                f"{row['floor']['ms']:.1f}",
                f"{row['floors']:.2f}",
            )
        )
    return found


def scaling_cells(results: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: one row per loss and number of threads."""
    points = results["scaling"]
    sizes = sorted({p["classes"] for p in points})
    rows = []
    for loss, threads in dict.fromkeys((p["loss"], p["threads"]) for p in points):
        line = [p for p in points if (p["loss"], p["threads"]) == (loss, threads)]
        worst = max((p["times_best"] for p in line if p["classes"] >= LONG), default=1.0)
        cells = [f"{p['ns']:.2f}" for p in sorted(line, key=lambda p: p["classes"])]
        rows.append([loss, str(threads), *cells, f"{worst:.2f}"])
    return ["ns per logit", "threads", *(f"V = {v}" for v in sizes), "worst ÷ best"], rows


def cliffs(results: dict[str, Any]) -> list[str]:
    """The points of generated losses from V = 1000 up that are further off than they may be."""
    return [
        f"{p['loss']} at V = {p['classes']}, {p['threads']} threads: {p['times_best']:.2f}"
        for p in results["scaling"]
        if p["classes"] >= LONG and p["times_best"] > CLIFF and not p["loss"].startswith("F.")
    ]


def rounds(results: dict[str, Any]) -> str:
    """Of all measurements: fewer where the machine was too busy for the time."""
    found = {entry["rounds"] for entry in (*results["speed"], *results["scaling"])}
    return str(max(found)) if len(found) == 1 else f"{min(found)} to {max(found)}"


def notes(results: dict[str, Any]) -> list[str]:
    versions, load = results["versions"], results["load_average"]
    found = [
        f"{results['date']}; {results['processor']}; {results['threads']} threads; "
        f"torch {versions['torch']}, {versions['compiler']}, Python {versions['python']}; "
        f"medians of {rounds(results)} interleaved rounds, each of {results['sample']} (the linear "
        "layer: of one call); load average "
        f"{load['before'][0]:.1f} before, {load['after'][0]:.1f} after; "
        f"{results['minutes']:.1f} minutes.",
        "× and faster: median of the ratios within a round; faster: than the best of eager and "
        "compiled, for cross_entropy than F.cross_entropy. floor: two exponentials per logit of "
        f"each stream, gradients in memory from torch; the bar is {FLOORS} floors.",
    ]
    for key, text in OTHER_FLOORS.items():
        times = [f"{r['loss']} {r[key]:.2f}" for r in results["speed"] if key in r]
        found += [f"{text}: {', '.join(times)}."] if times else []
    far = cliffs(results)
    found.append(
        f"Nanoseconds per logit at the same N·V; worst and best are of V ≥ {LONG}. "
        + (f"Beyond {CLIFF}: {'; '.join(far)}." if far else f"No generated loss is beyond {CLIFF}.")
    )
    return found


def tables(results: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Title, columns and rows of each."""
    sizes = f"N = {results['rows']}, V = {results['classes']}, float32"
    found: list[tuple[str, Any, Any]] = [(sizes, SPEED, speed_cells(results))]
    found.append(("Forward + backward at the same N·V", *scaling_cells(results)))
    if "linear" in results:
        linears = results["linear"]
        found.append((linear.title(linears), linear.COLUMNS, linear.cells(linears)))
    return found


def console_tables(results: dict[str, Any]) -> None:
    console = Console(width=130)
    for title, columns, rows in tables(results):
        console.print(rich_table(title, columns, rows))
    for note in notes(results):
        console.print(note)


def write(results: dict[str, Any], folder: Path) -> None:
    """cpu.json, cpu.md, and cpu.png where matplotlib is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / "cpu.json").write_text(text + "\n", encoding="utf-8")
    parts = ["# CPU", *notes(results)[:2]]
    for title, columns, rows in tables(results):
        parts += [f"## {title}", markdown(columns, rows).rstrip()]
    parts += notes(results)[2:]
    (folder / "cpu.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    try:
        plot(results, folder / "cpu.png")
    except ImportError:
        print("no cpu.png: matplotlib is not installed (pip install 'lossgen[examples]')")


# ---------------------------------------------------------------------------- plot
def plot(results: dict[str, Any], path: Path) -> None:
    """Left: milliseconds per loss; right: nanoseconds per logit against V."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5.2), width_ratios=(1.15, 1))
    rows = results["speed"][::-1]
    shown = [k for k in ("eager", "compiled", "lossgen") if all(k in r for r in rows)]
    height = 0.8 / len(shown)
    for k, key in enumerate(shown):
        at = [n + (k - (len(shown) - 1) / 2) * height for n in range(len(rows))]
        times = [row[key]["ms"] for row in rows]
        drawn = left.barh(at, times, height, color=COLOURS[key], label=key)
        left.bar_label(drawn, [f"{t:.0f}" for t in times], padding=3, fontsize=7)
    floors = [row["floor"]["ms"] for row in rows]
    size = 230 / len(rows)  # in points: as tall as a group of bars
    style = {"marker": "|", "linestyle": "", "color": COLOURS["floor"], "markeredgewidth": 1.5}
    left.plot(floors, range(len(rows)), markersize=size, **style)
    left.plot([], [], markersize=9, label="floor", **style)
    left.margins(x=0.12)
    left.set_yticks(range(len(rows)), [row["loss"] for row in rows])
    left.set_xscale("log")
    left.set_xlabel("ms, forward + backward (log scale)")
    left.set_title(f"N = {results['rows']}, V = {results['classes']}, {results['threads']} threads")
    handles, labels = left.get_legend_handles_labels()
    left.legend(handles[::-1], labels[::-1], fontsize=8, loc="upper right")

    points = results["scaling"]
    losses = list(dict.fromkeys(p["loss"] for p in points))
    for n, loss in enumerate(losses):
        for threads in sorted({p["threads"] for p in points}):
            line = [p for p in points if (p["loss"], p["threads"]) == (loss, threads)]
            style = "--" if threads == 1 else "-"
            right.plot(
                [p["classes"] for p in line],
                [p["ns"] for p in line],
                style,
                marker="o",
                markersize=3,
                color=f"C{n}",
                label=f"{loss}, {threads} thread{'s' if threads > 1 else ''}",
            )
    right.set_xscale("log")
    right.set_yscale("log")
    right.set_xlabel("classes V, at the same N·V")
    right.set_ylabel("ns per logit, forward + backward")
    right.set_title("Scaling with the length of a row")
    right.grid(alpha=0.3, which="both")
    right.legend(fontsize=8)
    date, torch_ = results["date"].split(" ")[0], results["versions"]["torch"]
    figure.suptitle(f"{results['processor']}, torch {torch_}, {date}", fontsize=9, y=0.99)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
