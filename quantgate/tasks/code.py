"""HumanEval and MBPP: the model writes a function, and the benchmark's own tests say whether it works (pass@1, greedy).

Prompts and stop strings are lm-evaluation-harness's. What the model wrote is run in a `Sandbox`, and only for whoever
asked for it: without ``--confirm-run-unsafe-code`` these tasks are an error when named, and no part of any other run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from quantgate.core.errors import DataError, UsageError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import PASS_AT_1, Metric
from quantgate.core.requests import Generate, GenerateResponse, Request, Response
from quantgate.tasks.base import Selection, Task, only
from quantgate.tasks.data import DataSource, Fields, Row
from quantgate.tasks.items import items_of_split, k_shot
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.sandbox import Sandbox, check_confined

FLAG: Final = "--confirm-run-unsafe-code"
_HUMANEVAL: Final[Fields] = {"task_id": str, "prompt": str, "entry_point": str, "test": str}
_MBPP: Final[Fields] = {"task_id": int, "text": str, "code": str, "test_list": list}
_MBPP_SHOTS: Final = (2, 3, 4)  # task_id of the split "prompt" that lm-eval shows
_MBPP_ASK: Final = (
    "You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:\n\n"
    "{tests}\n[BEGIN]\n"
)


@runtime_checkable
class RunsCode(Protocol):
    """A task that runs what the model wrote, if it was given a sandbox."""

    sandbox: Sandbox | None


def confirmed(task: Task, *, allowed: bool) -> Task:
    """The task, with a sandbox where it runs code and may.

    Raises:
        UsageError: it runs code and nobody allowed it, or this machine cannot confine it.
    """
    if not isinstance(task, RunsCode):
        return task
    if not allowed:
        raise UsageError(
            f"--tasks {task.id}",
            "it runs code that the model writes",
            expected=f"{FLAG}, or other tasks",
            hint="it is run without network, files to write and other processes; see docs/tasks.md",
        )
    check_confined()
    return replace(task, sandbox=Sandbox())  # type: ignore[type-var]  # every task is a frozen dataclass


@dataclass(frozen=True)
class _Written:
    """What both share: one program an item, run once."""

    id: str
    dataset: str
    max_new_tokens: int
    sandbox: Sandbox | None = field(default=None, repr=False, compare=False)
    dimension: ClassVar[str] = "knowledge"
    version: ClassVar[int] = 1
    metric: ClassVar[Metric] = PASS_AT_1

    def program(self, item: Item, text: str) -> str:
        """The model's ``text`` as a program that fails where a test does."""
        raise NotImplementedError

    def score(self, item: Item, responses: Sequence[Response]) -> ItemOutcome:
        """1 when all tests of the item pass; the answer, for flips, is how it ended."""
        response = only(responses, GenerateResponse)
        if self.sandbox is None:
            raise UsageError(f"--tasks {self.id}", "it runs code that the model writes", expected=FLAG)
        fate = self.sandbox.run(self.program(item, response.text))
        facts = {"capped": float(response.finish == "length"), "out_of_time": float(fate == "time")}
        return ItemOutcome(item.id, item.group, float(fate == "passed"), fate, facts)


@dataclass(frozen=True)
class HumanEval(_Written):
    """The task ``humaneval``: 164 functions to complete from signature and docstring; every one is its own group."""

    id: str = "humaneval"
    dataset: str = "openai/openai_humaneval"
    max_new_tokens: int = 512

    @property
    def protocol(self) -> str:
        """How it is asked and scored."""
        return f"zero-shot text, greedy, at most {self.max_new_tokens} new tokens, pass@1 of the item's tests"

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Test rows."""
        return items_of_split(data, self.dataset, "openai_humaneval", "test", _HUMANEVAL, selection)

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """The beginning of the program, to be continued up to whatever is no part of the function."""
        stop = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
        return [Generate(prompts.encode(item.row["prompt"]), self.max_new_tokens, stop)]

    def program(self, item: Item, text: str) -> str:
        """Prompt, continuation, tests."""
        return f"{item.row['prompt']}{text}\n{item.row['test']}\ncheck({item.row['entry_point']})\n"


@dataclass(frozen=True)
class Mbpp(_Written):
    """The task ``mbpp``: 500 short tasks behind three examples; every one is its own group."""

    id: str = "mbpp"
    dataset: str = "google-research-datasets/mbpp"
    max_new_tokens: int = 512

    @property
    def protocol(self) -> str:
        """How it is asked and scored."""
        form = k_shot(len(_MBPP_SHOTS))
        return f"{form} text, greedy, at most {self.max_new_tokens} new tokens, pass@1 of the item's tests"

    def items(self, data: DataSource, selection: Selection, prompts: Prompts) -> list[Item]:
        """Test rows, behind the examples of the split ``prompt``."""
        rows = {row["task_id"]: row for row in data.rows(self.dataset, "full", "prompt", _MBPP)}
        if lacking := [str(each) for each in _MBPP_SHOTS if each not in rows]:
            where = f"{self.dataset}/full/prompt in {data.name}"
            raise DataError(where, f"no task_id {', '.join(lacking)}", expected="the examples 2, 3 and 4")
        shots = tuple(rows[each] for each in _MBPP_SHOTS)
        items = items_of_split(data, self.dataset, "full", "test", _MBPP, selection, _check_tests)
        return [replace(item, shots=shots) for item in items]

    def requests(self, item: Item, prompts: Prompts) -> list[Request]:
        """Examples and task as plain text; the answer ends at its mark."""
        solved = "".join(f"{_ask(shot)}{_lines(shot['code'])}\n[DONE]\n\n" for shot in item.shots)
        return [Generate(prompts.encode(solved + _ask(item.row)), self.max_new_tokens, ("[DONE]",))]

    def program(self, item: Item, text: str) -> str:
        """The answer, what the item builds with it (task 367 a tree of the answer's own class), its tests."""
        tests = "\n".join(map(_lines, item.row["test_list"]))
        return f"{text}\n{_lines(item.row.get('test_setup_code') or '')}\n{tests}\n"


def _ask(row: Mapping[str, Any]) -> str:
    return _MBPP_ASK.format(text=row["text"], tests="\n".join(map(_lines, row["test_list"][:3])))


def _lines(code: str) -> str:
    return code.replace("\r\n", "\n")


def _check_tests(row: Row, where: str) -> None:
    if not row["test_list"] or not all(isinstance(each, str) for each in row["test_list"]):
        raise DataError(where, "field 'test_list' holds no tests", expected="one assertion at least")
