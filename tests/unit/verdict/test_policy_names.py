"""Names in a policy: slips are refused with the name that was meant, sections of other runs are noted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from quantgate.core.errors import PolicyError
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.tasks.efficiency import EFFICIENCY_TASKS
from quantgate.tasks.table import TASKS
from quantgate.verdict.policy_file import parse_policy
from quantgate.verdict.policy_names import Known, check_names, is_slip

EVERY = [*TASKS.values(), *EFFICIENCY_TASKS.values()]
KNOWN = Known(
    tasks=[task.id for task in EVERY],
    metrics=[task.metric.name for task in EVERY],
    methods=list(METHODS),
    given=["theirs"],
    models=["Qwen/Qwen2.5-7B-Instruct"],
)


def notes(text: str, model: str = KNOWN.models[0]) -> list[str]:
    return check_names(parse_policy(f"schema = 1\n{text}", "p.toml"), dataclasses.replace(KNOWN, models=[model]))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("tasks.mmul", r"p.toml, tasks.mmul: there is nothing called 'mmul' among the tasks; did you mean 'mmlu'\?"),
        ("tasks.MMLU", r"did you mean 'mmlu'\? known: "),
        ("tasks.'gsmk*'", "nothing called 'gsmk[*]' among the tasks"),
        ("metrics.kl_mean", r"nothing called 'kl_mean' among the metrics; did you mean 'kld_mean'\?"),
        ("metrics.accuracy", "nothing called 'accuracy' among the metrics; .*known: acc, acc_norm"),
        ("methods.gtpq4", r"nothing called 'gtpq4' among the methods.*did you mean 'gptq4'\?"),
        ("methods.'gtpq*'", r"did you mean 'gptq[*]'\?"),
        ("methods.their", r"did you mean 'theirs'\?"),
        ("methods.gptq4.metrics.ac", "methods.gptq4.metrics.ac: there is nothing called 'ac' among the metrics"),
        ("models.x.tasks.mmul", "models.x.tasks.mmul: there is nothing called 'mmul'"),
        ("models.'Qwen/Qwen2.5-7B-Instuct'", r"did you mean 'Qwen/Qwen2.5-7B-Instruct', as --model names it\?"),
        ("models.'qwen/qwen2.5-7b-instruct'", "no model of this run is called 'qwen/qwen2.5-7b-instruct'"),
        ("models.'Qwne/*'", "no model of this run is called 'Qwne/[*]'"),
    ],
)
def test_slips_are_refused(section: str, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        notes(f"[{section}]\nmin_items = 2\n")


@pytest.mark.parametrize(
    "section",
    ["tasks.'gsm*'", "metrics.'*bleu*'", "methods.theirs", "methods.'gptq*'", "models.'Qwen/*'", "models.bundled"],
)
def test_names_that_are_known_need_no_note(section: str) -> None:
    assert notes(f"[{section}]\nmin_items = 2\n") == []


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("methods.mine", "methods.mine is not used: no method, candidate or recipe of this run is called so"),
        ("methods.recipe-attention-more", "methods.recipe-attention-more is not used"),
        ("models.'org/other'", "models.org/other is not used: the model of this run is 'Qwen/Qwen2.5-7B-Instruct'"),
        ("models.'Qwen/Qwen2.5-14B-Instruct'", "is not used"),
        ("models.'Qwen/Qwen2.5-7B'", "is not used"),
    ],
)
def test_sections_of_other_runs_are_noted(section: str, words: str) -> None:
    [note] = notes(f"[{section}]\nmin_items = 2\n")
    assert words in note


def test_a_directory_spelled_otherwise_is_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "ref").mkdir()
    for other in (f"{tmp_path}/ref/", f"{tmp_path}/x/../ref", f"{tmp_path}/reff"):
        with pytest.raises(PolicyError, match="did you mean"):
            notes(f"[models.'{other}']\nmin_items = 2\n", str(tmp_path / "ref"))


def test_another_directory_that_exists_is_no_slip(tmp_path: Path) -> None:
    (tmp_path / "reff").mkdir()
    assert not is_slip(str(tmp_path / "reff"), str(tmp_path / "ref"))


@pytest.mark.parametrize("other", ["alpha", "zulu"])
def test_another_place_is_another_model(tmp_path: Path, other: str) -> None:
    (tmp_path / "ref").mkdir()
    [note] = notes(f"[models.'{tmp_path / other}']\nmin_items = 2\n", str(tmp_path / "ref"))
    assert "is not used" in note


def test_a_link_that_comes_back_to_itself_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "ref").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    [note] = notes(f"[models.'{tmp_path / 'loop'}']\nmin_items = 2\n", str(tmp_path / "ref"))
    assert "is not used" in note


def test_a_waiver_for_everything_is_noted() -> None:
    assert notes("[defaults]\nallow = ['regressed']\nbecause = 'known until ticket 12'") == [
        "p.toml, defaults.allow: regressed fails no case: known until ticket 12"
    ]
