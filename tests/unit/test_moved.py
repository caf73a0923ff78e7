"""Modules under their old names: the same module, and a warning that names the new one."""

import importlib
import sys

import pytest

from quantgate.moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_leads_to_the_new_module(old):
    new = importlib.import_module(MOVED[old])
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {MOVED[old]}"):
        found = importlib.import_module(old)
    assert found is new
    assert (found.__name__, found.__spec__.name) == (MOVED[old], MOVED[old])


def test_other_names_stay_unknown():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("quantgate.quantize.nothing")
