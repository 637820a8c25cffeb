"""The proof that the properties can fail: they are put before deliberately wrong kernels.

A mutant is imported like any other generated module; where its row kernels are wrong it has a
copy of those of its own.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from lossgen.errors import VerificationError
from lossgen.spec.model import LossSpec
from lossgen.verify.mutations import Mutation
from lossgen.verify.properties import PROPERTIES
from lossgen.verify.run import PropertyResult, check_property
from lossgen.verify.runner import Runner

__all__ = ["load_mutant", "noticed"]

_KERNELS = "lossgen.runtime.kernels"
_FILES = ("loads", "sweeps", "stores", "rows", "factors", "tiled")  # in the order of imports
_USED = re.compile(r"^from lossgen\.runtime\.deferred import .*\brows\b.*$", re.MULTILINE)


def load_mutant(mutation: Mutation, original: Path, folder: Path) -> ModuleType:
    """Write and import the mutant of a generated module (Triton reads its source file)."""
    text = original.read_text(encoding="utf-8")
    if mutation.kernels:
        prefix = _mutated_kernels(mutation, folder)
        wrong = f"import {prefix}rows as rows\nimport {prefix}tiled as tiled"
        text, count = _USED.subn(rf"\g<0>\n{wrong}", text)
        if not count:  # the kernels would be the right ones
            raise VerificationError(f"{original.name} imports no kernels: mutation {mutation.name}")
    else:
        text = mutation.apply(text)
    path = folder / f"{original.stem}_{mutation.name}.py"
    # The operators of a loss are registered under its key, once per process.
    text = re.sub(r'\bkey="(\w+)"', rf'key="\1_{mutation.name}"', text)
    path.write_text(text, encoding="utf-8")
    return _import_file(f"lossgen_mutant_{path.stem}", path)


def _mutated_kernels(mutation: Mutation, folder: Path) -> str:
    """Write and import a copy of the kernels, one file wrong; what its modules begin with."""
    prefix = f"lossgen_mutant_{mutation.name}_"
    for stem in _FILES:
        text = Path(str(import_module(f"{_KERNELS}.{stem}").__file__)).read_text(encoding="utf-8")
        if stem == mutation.kernels:
            text = mutation.apply(text)
        path = folder / f"{prefix}{stem}.py"
        path.write_text(text.replace(f"{_KERNELS}.", prefix), encoding="utf-8")
        _import_file(path.stem, path)
    return prefix


def _import_file(name: str, path: Path) -> ModuleType:
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def noticed(mutation: Mutation, module: ModuleType, spec: LossSpec) -> PropertyResult:
    """What the property that the mutation names says about the mutant (``passed`` is bad)."""
    (entry,) = (p for p in PROPERTIES if p.name == mutation.by)
    return check_property(entry, spec, Runner(module, spec, mutation.backend), examples=2)
