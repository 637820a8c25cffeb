"""Compiled loss → source text of its module: header, Jinja template, one pass of the formatter.

The text depends on the spec, the templates and the compiler only: not on the hash seed, the date,
the machine, or the installed torch and Triton.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import textwrap
from dataclasses import fields, replace
from typing import Any

from lossgen.compiler import Compiled, compile_loss, dearest
from lossgen.emit.allowed import check_module
from lossgen.emit.batch_formula import arguments as arguments_of_formula
from lossgen.emit.batch_formula import formula
from lossgen.emit.environment import environment
from lossgen.emit.fill import filled
from lossgen.emit.module_names import ModuleNames
from lossgen.emit.normalizer import literal, normalizer
from lossgen.emit.signature import batch_functions, functions
from lossgen.emit.text import python_comment, python_docstring, python_string
from lossgen.emit.variant import Variant, variants
from lossgen.errors import CompilerBug
from lossgen.passes.certify_torch import load_torch, measured
from lossgen.passes.inaccurate import Inaccurate
from lossgen.passes.worst import BOUND, ENOUGH
from lossgen.paths import FORMULA, specs_dir
from lossgen.runtime import arguments
from lossgen.spec.model import Input, LossSpec, Parameter

__all__ = ["render_module", "rendered"]

_TEMPLATE = "row.py.jinja"


def render_module(compiled: Compiled, standalone: bool = False) -> str:
    """The formatted source of ``generated/<name>.py``.

    ``standalone`` imports the runtime as ``lossgen_runtime``, vendored beside the module.
    """
    loss = _loss(compiled)
    try:
        found = _measured(compiled, loss["variants"])
    except Inaccurate as error:  # of the torch program, which is arranged differently
        if compiled.arithmetic == "float64":
            raise
        spec = compiled.spec
        if not spec.accuracy and compiled.bound < ENOUGH and error.scaled <= ENOUGH:
            return render_module(compile_loss(spec, bound=ENOUGH), standalone)
        wide = compile_loss(spec, arithmetic="float64")
        return render_module(wide.after(error.scaled), standalone)
    text = _rendered(found, loss, standalone)
    text = _format(text, compiled.spec.name)
    check_module(text)
    return text


def rendered(compiled: Compiled) -> str:
    """The same before the torch programs are measured and the text is formatted and checked."""
    return _rendered(compiled, _loss(compiled), False)


def _rendered(compiled: Compiled, loss: dict[str, Any], standalone: bool) -> str:
    names = ModuleNames(
        [n for f in loss["every"] for n in (f.name, f.class_name)] + [loss["class_name"]],
        [a.name for f in loss["every"] for a in (*f.arguments, *f.options)],
    )
    return (
        environment()
        .get_template(_TEMPLATE)
        .render(
            loss=loss,
            header=_header(compiled),
            standalone=standalone,
            own=names.own,
            called=names.called,
            beside=names.beside,
            bound=names.bound,
            apart=names.apart,
        )
    )


def _measured(compiled: Compiled, views: list[Variant]) -> Compiled:
    """With certificates that cover the rendered torch programs too."""
    template = environment().get_template("row_torch.jinja")
    functions = load_torch("\n\n".join(template.render(v=view) for view in views))
    try:
        plans = [
            measured(plan, functions[f"_torch_rows{view.suffix}"], view.torch_arguments)
            for plan, view in zip(compiled.variants, views, strict=True)
        ]
    except Inaccurate as error:
        raise error.at(dearest(compiled.spec), "", float(error.fields["scaled"])) from None
    return replace(compiled, variants=tuple(plans))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _format(text: str, name: str) -> str:
    from ruff.__main__ import find_ruff_bin

    command = [
        find_ruff_bin(),
        "format",
        "--isolated",
        "--line-length",
        "100",
        "--target-version",
        "py310",
        "--config",
        "format.skip-magic-trailing-comma=true",
        "--stdin-filename",
        f"{name}.py",
        "-",
    ]
    done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise CompilerBug(f"the rendered module of {name} does not parse:\n{done.stderr}")
    return filled(done.stdout)


def _header(compiled: Compiled) -> str:
    base, spec = compiled.variants[0], compiled.spec
    lets = "; ".join(f"{name} = {text}" for name, text in spec.let_sources.items())
    optional = sorted({n for v in compiled.variants for n in v.stable.uses})
    facts = [
        ("formula", spec.batch.source if spec.batch else base.formula),
        *([("parts", base.formula)] if spec.batch else []),
        *([("with", lets)] if lets else []),
        *([("of the call without", ", ".join(optional))] if optional else []),
        ("statistics", str(base.statistics)),
        ("sweeps", str(base.sweeps)),
        ("saved", ", ".join(base.saved) or "nothing"),
        *([("arithmetic", rung)] if (rung := base.stable.precision) != "float32" else []),
        ("certificate", "none, it is a DRAFT" if compiled.draft else str(base.certificate)),
    ]
    if spec.accuracy:
        key = "absolute" if spec.accuracy.scale else f"bound {spec.accuracy.ulp:g}"
        facts.append((key, spec.accuracy.reason))
    elsewhere = spec.path is not None and spec.path.parent.name != "specs"
    path = f"{'' if elsewhere else 'specs/'}{spec.name}.yaml"
    lines = [
        "@generated by lossgen - do not edit",
        f"spec: {path} sha256 {_digest(spec.source)}",
        f"rebuild: lossgen build {path}",
        *(["DRAFT: its accuracy and its limits were not checked"] * compiled.draft),
        "",
        *(f"{key}: {value}" for key, value in facts),
    ]
    text = python_docstring(f"{spec.title}.\n\n{textwrap.fill(spec.reference, 95)}\n")
    return f"{python_comment(lines)}\n{text}\n"


# ---------------------------------------------------------------------------- the loss
def _loss(compiled: Compiled) -> dict[str, Any]:
    spec = compiled.spec
    offered = functions(spec)
    kinds = {name: entry.kind == "class" for name, entry in spec.inputs.items()}
    of_batches = batch_functions(spec)
    roots = any(plan.roots for plan in compiled.variants)
    classes = [f.class_name for f in of_batches]
    classes += [spec.class_name] if spec.outputs else [f.class_name for f in offered]
    return {
        "name": spec.name,
        "class_name": spec.class_name,
        "key": f"{spec.name}_{_digest(spec.source)[:8]}{'_draft' if compiled.draft else ''}",
        "draft": compiled.draft,
        "spec": _text_of(spec),
        "device": "device64" if compiled.arithmetic == "float64" else "device",
        "tiled": compiled.arithmetic == "float32" and spec.batch is None and not roots,
        "bound": None if compiled.bound == BOUND else compiled.bound,
        "parameters": list(spec.parameters),
        "declared": [
            _declared(arguments.Parameter, *entry) + ", inline=True" * (spec.file == FORMULA)
            for entry in spec.parameters.items()
        ],
        "inputs": [_declared(arguments.Input, *entry) for entry in spec.inputs.items()],
        "streams": [name for name, along in kinds.items() if along],
        "keyword_inputs": [name for name, along in kinds.items() if not along],
        "outputs": [o.name for o in spec.outputs],
        "has_target": spec.has_target,
        "min_classes": spec.min_classes,
        "functions": offered,
        "every": [*offered, *of_batches],
        "of_batches": of_batches,
        "batch": _batch(spec),
        "exports": sorted([*classes, *(f.name for f in offered), *(f.name for f in of_batches)]),
        "normalizer": normalizer(spec),
        "shared": spec.shared,
        "counted": _counted(spec),
        "normalizer_doc": python_docstring(
            f"{spec.normalizer_source} per row [N]: what the mean divides by the sum of."
        ),
        "variants": variants(compiled),
    }


def _batch(spec: LossSpec) -> dict[str, Any] | None:
    """Of a loss of the whole batch: its formula, and what it declares."""
    if spec.batch is None:
        return None
    batch = spec.batch
    return {
        "arguments": arguments_of_formula(spec),
        "formula": formula(spec),
        "doc": python_docstring(f"{batch.source}, of sums over n rows each."),
        "parts": batch.parts,
        "own": batch.rows is not None,
        "rows": batch.rows,
        "parameters": list(batch.parameters),
        "streams": [n for n, i in batch.inputs.items() if i.kind == "class"],
        "others": [n for n, i in batch.inputs.items() if i.kind != "class"],
        "declared": [_declared(arguments.Parameter, *e) for e in batch.parameters.items()],
        "inputs": [_declared(arguments.Input, *e) for e in batch.inputs.items()],
    }


def _text_of(spec: LossSpec) -> list[str]:
    """The lines of a spec whose derivatives calls may ask for, as literals; none where the
    catalogue has it."""
    known = specs_dir() / f"{spec.name}.yaml"
    if spec.by or (known.is_file() and known.read_text("utf-8") == spec.source):
        return []
    return [python_string(line) for line in spec.source.splitlines(keepends=True)]


def _counted(spec: LossSpec) -> tuple[str, ...]:
    """The parameters at whose neutral value 0 no counted term is there; none: one always is."""
    weights = [term.weight for term in spec.terms if term.counted]
    silent = [w for w in weights if w is not None and spec.parameters[w].off == 0]
    return tuple(silent) if len(silent) == len(weights) else ()


def _declared(kind: type[Any], name: str, entry: Parameter | Input) -> str:
    """The arguments of the runtime's ``kind`` of declaration, but for what it assumes itself."""
    facts = [f'"{name}"']
    for field in fields(kind)[1:]:
        owner = entry if hasattr(entry, field.name) else entry.domain
        value: Any = getattr(owner, field.name, field.default)
        if value != field.default:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            text = literal(value) if number else json.dumps(value) if value == str(value) else value
            facts.append(f"{field.name}={text}")
    return ", ".join(facts)
