"""The guards that benchmarks/mutation_check.py breaks are still there."""

import pytest

from benchmarks.mutants import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_another_program(mutant):
    assert compile(mutant.text(), mutant.file, "exec") != compile((ROOT / mutant.file).read_text(), mutant.file, "exec")
    assert all((ROOT / test).is_file() for test in mutant.tests)
