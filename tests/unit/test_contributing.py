"""The worked examples of CONTRIBUTING.md and of the recipes are code that works, and its tables name what is there."""

import argparse
import re

import pytest

from quantgate.core.places import CLONE
from quantgate.core.registry import check_row
from quantgate.core.requests import GenerateResponse
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.catalogue.plugins import MethodPlugin, table_of
from quantgate.quantize.catalogue.recipe import load_recipe
from quantgate.reports.reporters import Reporter
from quantgate.tasks.base import Selection, Task
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.prompts import Prompts

TEXT = (CLONE / "CONTRIBUTING.md").read_text(encoding="utf-8")
HOWTO = (CLONE / "docs" / "howto.md").read_text(encoding="utf-8")
INDEX = (CLONE / "docs" / "index.md").read_text(encoding="utf-8")


def example(heading):
    """What the code block below ``heading`` defines."""
    [code] = re.findall(rf"(?ms)^### {heading}$.*?```python\n(.*?)```", TEXT)
    names = {"__name__": "example"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    return names


def test_a_method():
    method = example("A method")["METHOD"]
    assert table_of([*METHODS.values(), method])[method.id] is method


def test_an_algorithm():
    found = example("An algorithm")
    check_row("example", found["PLUGIN"], MethodPlugin)
    [row] = found["PLUGIN"].rows
    table_of([*METHODS.values(), row])
    algorithm = found["PLUGIN"].algorithms[row.algorithm](row.settings)
    assert algorithm.checkpoint_config()["group_size"] == -1


def test_a_benchmark(tmp_path, write_jsonl, tokenizer):
    task = example("A benchmark")["Parity"]()
    check_row("example", task, Task)
    write_jsonl(tmp_path, "ours/parity", "default", "test", [{"number": 7}, {"number": 8}])
    prompts = Prompts(tokenizer, 512, "tiny")
    items = task.items(DirectorySource(tmp_path), Selection(), prompts)
    assert [len(task.requests(item, prompts)) for item in items] == [1, 1]
    answer = GenerateResponse("Odd number.", 3, "stop")
    assert [task.score(item, [answer]).score for item in items] == [1.0, 0.0]


def test_a_file_beside_the_report():
    reporter = example("A file beside the report")["VERDICTS"]
    check_row("example", reporter, Reporter)
    case = {"method": "gptq4", "task": "mmlu", "verdict": "pass"}
    assert reporter.render({"results": [case]}) == "gptq4 mmlu pass\n"


def test_a_command(capsys):
    command = example("A command")["COMMAND"]
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(["reader"]), None) == 0
    assert capsys.readouterr().out == "hello reader\n"


def test_a_recipe(tmp_path):
    found = []
    for content in re.findall(r"(?s)```toml\n(.*?)```", HOWTO):
        (tmp_path / "recipe.toml").write_text(content)
        found.append(load_recipe(tmp_path / "recipe.toml").id)
    assert found == ["recipe-attention-more", "recipe-w4a8"]


def test_every_page_is_in_the_index_once():
    pages = sorted(path.name for path in (CLONE / "docs").glob("*.md") if path.name != "index.md")
    assert sorted(re.findall(r"\]\(([\w-]+\.md)\)", INDEX)) == pages


@pytest.mark.parametrize("room", sorted(path.name for path in (CLONE / "quantgate").iterdir() if path.is_dir()))
def test_every_room_is_on_the_map(room):
    if not room.startswith("__"):
        assert re.search(rf"`(?:quantgate/)?{room}/?`", TEXT), room
