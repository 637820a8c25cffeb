"""A slice of ``make sanitize``: once its driver no longer fitted the calls of C, unnoticed."""

import pytest

from tests.runtime import sanitize

pytestmark = pytest.mark.skipif(
    sanitize.c_build.find_compiler() is None, reason="needs a C compiler"
)


@pytest.mark.parametrize("name", ["gce", "sigmoid_focal"])
def test_a_program_is_clean_of_addresses_and_undefined_behaviour(name: str) -> None:
    cases = [case for case in sanitize.cases([name]) if case[2] == sanitize.SANITIZERS[0]]
    assert [sanitize.report(case) for case in cases[:1]] == [""]
