import pytest

from tests import processors

AVX2 = {"avx2", "fma", "sse4_2"}
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512vl"}
AMX = AVX512 | {"avx512_bf16", "amx_bf16", "amx_tile"}


def names(modes):
    return [mode.name for mode in modes]


@pytest.mark.parametrize(
    ("flags", "runnable", "other"),
    [
        (set(), ["default"], "default"),
        (AVX2, ["default", "avx2"], "default"),
        (AVX512, ["default", "avx2", "avx512"], "avx2"),
        (AMX, ["default", "avx2", "avx512", "bf16", "amx"], "bf16"),
    ],
)
def test_what_a_processor_can_act_as(flags, runnable, other, capsys):
    assert names(processors.choose("all", flags)) == runnable
    assert names(processors.choose("other", flags)) == [other]
    said = capsys.readouterr().out
    for mode in processors.MODES:
        assert (f"{mode.name}: left out, this processor has no" in said) == (mode.name not in runnable)


def test_an_unknown_mode_is_refused():
    with pytest.raises(SystemExit, match=r"no mode avx3: all, other, default, avx2"):
        processors.choose("avx3,avx2", AVX2)
