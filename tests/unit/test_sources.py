"""docs/sources.md says what the code does: its numbers are compared with the method and task tables."""

from pathlib import Path

from quantgate.core.requests import Generate
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.tasks.table import GROUPS, TASKS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")


def row(start):
    [line] = [line for line in PAGE.splitlines() if line.startswith(f"| {start} |")]
    return line


def test_every_source_has_a_section():
    sections = [line.removeprefix("## ") for line in PAGE.splitlines() if line.startswith("## ")]
    for source in ("Paper A", "Paper B", "GPTQ", "SpQR", "EasyQuant", "SliM-LLM", "QuIP", "LLM-Viewer"):
        assert any(section.startswith(source) for section in sections), source


def test_quips_ranges():
    ranges = {METHODS[f"quip{bits}"].settings.half_range for bits in (4, 3, 2)}
    assert ranges == {2.4, 2.1, 1.8}
    assert "2.4 at 4 bits, 2.1 at 3, 1.8 at 2" in row("range of the grid")


def test_easyquants_and_spqrs_settings():
    assert METHODS["easyquant4"].settings.sigmas == 3
    assert "n = 3 standard deviations" in row("outliers")
    settings = METHODS["spqr4"].settings
    assert (settings.damp_percent, settings.group_size, settings.relative_threshold) == (0.01, 16, 0.2)
    assert "damping 0.01 (the authors' example: 1.0), groups of 16, threshold 0.2" in PAGE


def test_every_free_answer_of_the_papers_group_is_greedy_and_capped():
    free = [name for name in GROUPS["paper"] if "new tokens" in TASKS[name].protocol]
    assert len(free) >= 9
    assert all("greedy" in TASKS[name].protocol for name in free)
    assert {TASKS[name].max_new_tokens for name in free} == {64, 256, 512}
    assert "256 new tokens (64 SNLI, 512 FollowBench)" in row("length of an answer")
    assert Generate((1,), 1).sampling is None


def test_the_papers_perplexities_are_the_raw_ones():
    assert {name for name in GROUPS["paper"] if name.startswith("perplexity")} == {
        "perplexity_wikitext2_raw",
        "perplexity_ptb_raw",
        "perplexity_c4_raw",
    }
    assert "`perplexity_*_raw`" in row("perplexity")
