import itertools

import pytest

from quantgate.core.errors import UsageError
from quantgate.quantize.base import Method
from quantgate.quantize.catalogue.methods import (
    ALGORITHMS,
    METHODS,
    NO_WEIGHTS,
    algorithm_of,
    get_methods,
    standard_methods,
)
from quantgate.quantize.settings import GptqSettings


def test_the_table():
    assert set(METHODS) >= {
        *(f"{family}{bits}" for family in ("rtn", "gptq", "spqr", "awq") for bits in (8, 4, 3, 2)),
        *("int8", "nf4", "fp4"),
        *("spqr-dense-w2", "spqr-g128-w2"),
    }


def test_no_id_is_part_of_another():
    for one, other in itertools.permutations(METHODS, 2):
        assert one not in other, f"-k {one} would select {other} too"


def test_ids_are_the_keys_and_rows_are_complete():
    for name, method in METHODS.items():
        assert method.id == name
        assert method.summary
        assert method.source
        if method.algorithm != NO_WEIGHTS:
            assert method.algorithm in ALGORITHMS
            assert algorithm_of(method).settings is method.settings


def test_gptq_rows_are_paper_a():
    assert METHODS["gptq3"].settings == GptqSettings(
        bits=3,
        group_size=128,
        sym=True,
        desc_act=True,
        static_groups=False,
        damp_percent=0.01,
        true_sequential=True,
    )
    assert METHODS["gptq3"].needs_calibration


def test_record_recreates_the_method():
    record = METHODS["gptq4"].as_record()
    assert record["method"] == "gptq4"
    assert GptqSettings(**record["settings"]) == METHODS["gptq4"].settings


def test_selection_keeps_the_order_and_drops_repeats():
    assert [method.id for method in get_methods(["rtn4", "int8", "rtn4"])] == ["rtn4", "int8"]


def test_all_and_the_standard_ones():
    assert get_methods(["all"]) == list(METHODS.values())
    standard = [method.id for method in standard_methods()]
    assert {"gptq4", "awq4", "smoothquant8", "int8"} <= set(standard)
    assert "smoothquant-a4-w4" not in standard
    assert [m.id for m in standard_methods("mmlu and smoothquant-a4-w4")] == [
        name for name in METHODS if name in standard or name == "smoothquant-a4-w4"
    ]


@pytest.mark.parametrize(("wrong", "close"), [("gtpq4", "did you mean 'gptq4'.* known: "), ("zzz", "known: ")])
def test_unknown_id(wrong, close):
    with pytest.raises(UsageError, match=f"--methods: unknown method '{wrong}'; {close}rtn8, .*fp4"):
        get_methods(["rtn4", wrong])


def test_ids_in_any_case():
    assert get_methods(["GPTQ4", "Rtn8"]) == get_methods(["gptq4", "rtn8"])
    assert get_methods(["ALL"]) == list(METHODS.values())


@pytest.mark.parametrize("name", ["a/b", "a[b", "a b", "", "4bit"])
def test_ids_that_would_break_selection(name):
    with pytest.raises(ValueError, match="method id"):
        Method(name, "rtn", GptqSettings(4), 4, False, "packed", 1, "", "")


@pytest.mark.parametrize("name", ["spqr4", "spqr-dense-w2", "easyquant4", "nvfloat4"])
def test_rows_whose_weights_changed_say_so(name):
    """Weights stored by their first version (other zero points, searches and scales) must not be taken for theirs."""
    assert METHODS[name].as_record()["code_version"] == 2
