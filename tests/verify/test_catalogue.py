"""Every loss of the catalogue has every property, on the Triton source, in C and in torch."""

from __future__ import annotations

import pytest

import lossgen
from lossgen import paths
from lossgen.passes.limits import check_limits
from lossgen.spec.load import load_spec
from lossgen.verify import interpreter
from lossgen.verify.properties import PROPERTIES, Property
from lossgen.verify.run import check_property
from lossgen.verify.runner import Runner

EXAMPLES = 2  # beside one fixed case per kind of row; `lossgen verify` draws more


@pytest.mark.parametrize("backend", ["torch", "c", "triton"])
@pytest.mark.parametrize("name", paths.spec_names())
def test_properties(name: str, backend: str) -> None:
    interpreter.install()
    spec = load_spec(paths.require_spec(name))
    run = Runner(lossgen.load(name), spec, backend)
    failures = []
    for entry in PROPERTIES:
        if entry.applies(spec, backend):
            result = check_property(entry, spec, run, EXAMPLES)
            if not result.passed:
                failures.append(f"{result.name}: {result.message} ({result.counterexample})")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("name", paths.spec_names())
def test_declared_limits(name: str) -> None:
    check_limits(load_spec(paths.require_spec(name)))


def test_every_property_is_documented_and_named_once() -> None:
    names = [entry.name for entry in PROPERTIES]
    assert len(set(names)) == len(names)
    assert all(isinstance(entry, Property) and entry.doc.endswith(".") for entry in PROPERTIES)
