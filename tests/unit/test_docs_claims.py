"""What README and docs claim and a machine can check: names, defaults, numbers, commands, files."""

import re
import shlex

import pytest

from quantgate import cli
from quantgate.core.places import CLONE as ROOT
from quantgate.core.records import VERDICTS
from quantgate.core.requests import Generate, Likelihood, Rolling
from quantgate.fixtures.options import add_options
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.runs import answers
from quantgate.tasks.efficiency import EFFICIENCY_TASKS
from quantgate.tasks.table import GROUPS, TASKS
from tests.unit.core.test_arguments import Recorder

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
EVERYTHING = {*METHODS, *TASKS, *GROUPS, *EFFICIENCY_TASKS}


def commands():
    """(page, words) of every command line of the suite and of ``quantgate`` in a code block."""
    for name, text in TEXTS.items():
        for block in re.findall(r"```(?:sh|bash|console|)\n(.*?)```", text, re.S):
            for line in block.split("\n"):
                if re.match(r"(?:\.venv/bin/)?(?:pytest (?:evals|--pyargs)|quantgate \w+|make evals)", line):
                    yield name, shlex.split(line.partition("  #")[0].replace("...", ""))


def test_there_are_commands_to_check():
    assert len(list(commands())) >= 15


@pytest.mark.parametrize(("page", "words"), list(commands()), ids=lambda each: str(each)[:60])
def test_commands_parse_and_name_what_exists(page, words, capsys):
    program = words[0].rpartition("/")[2]
    if program == "quantgate" and words[1] != "run":
        cli.build_parser().parse_args(words[1:])
        return
    given = words[2:]
    if program == "make":
        [arguments] = [word.removeprefix("ARGS=") for word in given if word.startswith("ARGS=")] or [""]
        given = shlex.split(arguments)
    recorder = Recorder()
    add_options(recorder)
    for flags, kind in (
        (("-k", "-m", "-n", "--junitxml", "--report-dir"), None),
        (("--strict", "--collect-only", "--pyargs", "-q"), ""),
    ):
        for flag in flags:
            extra = {"action": "store_true"} if kind == "" else {}
            recorder.parser.add_argument(flag, **extra)
    options = recorder.parser.parse_args(given)
    assert {*(options.methods or [])} - {"all"} <= set(METHODS), page
    assert {*(options.tasks or [])} <= {*TASKS, *GROUPS, *EFFICIENCY_TASKS}, page
    for word in re.findall(r"\w+", options.k or ""):
        assert word in ("and", "or", "not") or any(word in name for name in EVERYTHING), (page, word)


def first_cells(name, heading):
    """Names in backticks of the first column of the table whose header begins with ``heading``."""
    [table] = re.findall(rf"(?m)^\| {heading} \|.*\n\|[-|: ]+\n((?:\|.*\n)+)", TEXTS[name])
    for line in table.rstrip("\n").split("\n"):
        yield from (each for group in re.findall(r"`([^`]+)`", line.split("|")[1]) for each in group.split())


def test_readme_lists_methods_and_tasks_that_exist():
    methods = list(first_cells("README.md", "methods"))
    assert len(methods) > 15
    assert set(methods) <= set(METHODS)
    assert {name for name, method in METHODS.items() if method.standard} == set(methods)
    known = {*TASKS, *EFFICIENCY_TASKS}
    for pattern in first_cells("README.md", "tasks"):
        name = re.compile(pattern.replace("*", r"\w+"))
        suffix = pattern.startswith("_")
        assert any(each.endswith(pattern) if suffix else name.fullmatch(each) for each in known), pattern


def test_readme_lists_every_group():
    [sentence] = re.findall(r"((?:`\w+`(?:, | and ))+`\w+`) are groups\s+of\s+tasks", TEXTS["README.md"])
    assert set(re.findall(r"`(\w+)`", sentence)) == set(GROUPS)


def test_readme_lists_every_verdict():
    assert tuple(first_cells("README.md", "verdict")) == VERDICTS


def test_policy_lists_the_dimensions_that_have_tasks():
    [listed] = re.findall(r"`\[dimensions\.NAME\]`: (.*)", TEXTS["policy.md"])
    dimensions = {task.dimension for task in (*TASKS.values(), *EFFICIENCY_TASKS.values())}
    assert set(re.findall(r"`(\w+)`", listed)) == dimensions


def test_store_says_how_many_requests_a_chunk_has():
    [counts] = re.findall(
        r"chunk of requests \((\d+) likelihoods, (\d+) segments or (\d+)\s+generations\)", TEXTS["store.md"]
    )
    assert tuple(map(int, counts)) == tuple(answers._CHUNK_REQUESTS[kind] for kind in (Likelihood, Rolling, Generate))


FILES = re.compile(r"`((?:benchmarks|evals|docs|tests|fixtures|reports|quantgate|baselines)/[\w./-]+\.\w+)`")


@pytest.mark.parametrize("name", TEXTS)
def test_files_and_links_lead_somewhere(name):
    text = TEXTS[name]
    folder = ROOT if (ROOT / name).is_file() else ROOT / "docs"
    made = {"reports/out/report.json", "reports/out/report.md"}  # by a run
    for path in set(FILES.findall(text)) - made:
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (folder / link).exists(), link
    scripts = set(re.findall(r"`(?:benchmarks/)?(\w+\.py)`", text))
    known = {
        path.name
        for room in ("benchmarks", "quantgate", "evals", "tests", "examples")
        for path in (ROOT / room).rglob("*.py")
    }
    assert scripts <= known


def test_defaults_in_the_pages_are_those_of_the_options():
    recorder = Recorder()
    add_options(recorder)
    defaults = {
        action.option_strings[0]: action.default for action in recorder.parser._actions if action.option_strings
    }
    for name, text in TEXTS.items():
        for option, value in re.findall(r"`(--[a-z-]+)` \(default:? `?([\w.-]+)`?\)", text):
            assert str(defaults[option]) == value, (name, option)


FIGURES = re.compile(r"simulated runs|Percent of [\d,]+ runs|% of runs|\bSimulated\b|\bMeasured (?:in|on)\b")
MAKERS = re.compile(r"\w+\.py\b|`quantgate\.[\w.]+`|make evals")


@pytest.mark.parametrize("name", TEXTS)
def test_a_section_with_measured_figures_names_what_makes_them(name):
    for section in re.split(r"(?m)^(?=##? )", TEXTS[name]):
        assert not FIGURES.search(section) or MAKERS.search(section), section[:60]


def test_the_scripts_that_make_tables_have_the_tables_that_pages_name():
    for script, tables in re.findall(r"benchmarks/(\w+\.py) --only ([\w,]+)", "".join(TEXTS.values())):
        text = (ROOT / "benchmarks" / script).read_text(encoding="utf-8")
        assert all(f'"{table}": [' in text for table in tables.split(",")), (script, tables)


def test_figures_name_script_and_processor():
    text = TEXTS["README.md"]
    for script in ("scoring_vs_lm_eval.py", "generation_vs_lm_eval.py", "quantize_vs_peers.py"):
        assert script in text
    for claim in ("instruction set", "Figures differ between processors"):
        assert claim in text
    assert "benchmarks/method_table.py" in TEXTS["measured.md"]
    assert "differ between processors" in TEXTS["measured.md"]
