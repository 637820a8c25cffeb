"""What the tiled kernels take of a GPU, without one: machine code, and how the work is cut.

    python benchmarks/tiled.py [gce nfl ...] [--target sm_90] [--jobs 2]

1. Every tiled kernel in bfloat16 and float32: its tile, the shape of its matrix instructions,
   registers, bytes that it spills, shared memory.
2. How busy the sweep and the three kernels of the backward keep the processors, of two language
   models and 2048 to 16384 rows: programs that there are over rounds of them.

Written to benchmarks/results/tiled_<target>.json and .md.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lossgen.aot import compile_jobs, list_jobs
from lossgen.bench.report import markdown
from lossgen.runtime.tile_shapes import launch_of
from lossgen.runtime.waves import Work, gradient_shares, n_splits, panel_of, sweep_share

RESULTS = Path(__file__).resolve().parent / "results"
#: Light, with options, heavy, two logits, two sweeps, several results: as `make aot` compiles.
LOSSES = ("gce", "cross_entropy", "nfl", "trades", "jsd_beta", "token_stats")
ROWS = (2048, 4096, 8192, 16384)
HEADS = {"Llama-3-8B": (4096, 128256), "Gemma-2-2B": (2304, 256000)}
PROCESSORS = {"sm_80": 108, "sm_90": 132, "sm_100": 148, "gfx942": 304}
#: Of ``launch_of``: vectors, products, operations of a loss of each kind.
KINDS = {"light": (1, 1, 7), "heavy": (1, 1, 40), "pair": (2, 2, 40)}
_MATRIX = re.compile(r"\b(HGMMA|HMMA|UTC\w*MMA)\.([0-9x]+)|\b(v_mfma_\w+)")


def kernels(
    losses: Sequence[str], target: str, jobs: int, dtypes: Sequence[str]
) -> list[dict[str, Any]]:
    """What was compiled, kernel by kernel; each product once."""
    wanted: list[dict[str, Any]] = []
    for job in list_jobs(losses, [target], full=True, tiled=True):
        shared = job["role"].startswith("to_") and any(w["role"] == job["role"] for w in wanted)
        if (
            job["aligned"]
            and job["dtype"] in dtypes
            and job not in wanted
            and not (shared and job["path"] != wanted[0]["path"])
        ):
            wanted.append(job)
    answers = compile_jobs([job | {"assembly": True} for job in wanted], jobs)
    return [_entry(job, answer) for job, answer in zip(wanted, answers, strict=True)]


def _entry(job: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    constants = job["constants"]
    found = Counter(" ".join(filter(None, m)) for m in _MATRIX.findall(answer.pop("assembly", "")))
    multiplies = job["role"].startswith(("sweep", "gradient", "to_"))
    sizes = ("BM", "BV", "BK") if multiplies else ("BM",)  # else by row
    tile = "×".join(str(constants[n]) for n in sizes)
    if multiplies and constants.get("PART", constants["BV"]) < constants["BV"]:
        tile += f", {constants['PART']} at once"
    return {
        "loss": Path(job["path"]).stem if not job["role"].startswith("to_") else "every loss",
        "uses": job["uses"],
        "kernel": job["role"],
        "dtype": job["dtype"],
        "made": bin(constants.get("MADE", 0)).count("1"),
        "tile": tile,
        "warps": job["warps"],
        "instruction": found.most_common(1)[0][0] if found else "",
        **answer,
    }


def waves(target: str) -> list[dict[str, Any]]:
    """How busy the processors are, of each kind of loss."""
    processors, found = PROCESSORS[target], []
    for head, (features, classes) in HEADS.items():
        for kind, given in KINDS.items():
            sweep, gradient, product = (
                launch_of(role, 2, *given, target) for role in ("sweep", "gradient", "product")
            )
            for rows in ROWS:
                work = Work(rows, classes, features, 2, gradient, product, products=given[1])
                panel = panel_of(work, None, processors)
                tiles = rows // sweep.rows, -(-classes // sweep.classes)
                found.append(
                    {
                        **{"head": head, "kind": kind, "rows": rows},
                        "splits": n_splits(*tiles, processors),
                        "sweep": sweep_share(rows, classes, sweep, processors),
                        **{"panel": panel.tiles * gradient.classes, "sums": panel.sums},
                        "megabytes": (
                            panel.tiles * gradient.classes * rows * 2
                            + panel.sums * rows * features * 4
                        )
                        / 2**20,
                        **gradient_shares(work, panel, processors),
                    }
                )
    return found


def tables(found: Sequence[dict[str, Any]], shares: Sequence[dict[str, Any]]) -> Iterator[str]:
    columns = ("loss", "kernel", "dtype", "products", "tile", "warps", "instruction")
    columns += ("registers", "spilled", "shared")
    yield markdown(
        columns,
        [
            (
                f"{k['loss']} {'all options' if k['uses'] else ''}".rstrip(),
                *(str(k[n]) for n in ("kernel", "dtype", "made", "tile", "warps", "instruction")),
                *([k["error"][:60], "", ""] if "error" in k else _used(k)),
            )
            for k in found
        ],
    )
    columns = ("head, kind of loss", "rows", "splits", "sweep", "panel", "MiB")
    columns += ("gradient", "to hidden", "to weight")
    yield markdown(
        columns,
        [
            (
                f"{s['head']}, {s['kind']}",
                *(str(s["rows"]), str(s["splits"]), f"{s['sweep']:.3f}", str(s["panel"])),
                f"{s['megabytes']:.0f}",
                *(f"{s[n]:.3f}" for n in ("gradient", "hidden", "weight")),
            )
            for s in shares
        ],
    )


def _used(kernel: dict[str, Any]) -> list[str]:
    return [
        str(kernel["registers"]),
        str(kernel["spill_stores"] + kernel["spill_loads"]),
        str(kernel["shared"]),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("losses", nargs="*", default=LOSSES)
    parser.add_argument("--target", default="sm_90", choices=PROCESSORS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--dtypes", default="bf16,fp32")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    dtypes = options.dtypes.split(",")
    found = kernels(options.losses, options.target, options.jobs, dtypes)
    shares = waves(options.target)
    bad = [k for k in found if "error" in k or k["spill_stores"] or k["shared"] > k["limit"]]
    first, second = tables(found, shares)
    text = (
        f"# Tiled kernels, {options.target}\n\nCompiled, not run: `python benchmarks/tiled.py`. "
        f"{len(found)} kernels, {len(bad)} that spill or do not fit.\n\n{first}\n"
        f"Of the time of {PROCESSORS[options.target]} processors, how much is spent on rows and "
        f"classes that there are; MiB: a panel and the sums for hidden.\n\n{second}"
    )
    stem = options.out / f"tiled_{options.target}"
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    entries = {"kernels": found, "waves": shares}
    stem.with_suffix(".json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    print(text)
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main())
