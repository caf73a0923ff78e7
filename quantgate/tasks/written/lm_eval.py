"""Task files of lm-evaluation-harness, the plain kinds: options, one ending, or a free answer; no Python of anybody's.

What a file says is done as lm-eval 0.4.13 does it; every key that would change the scores and is not done here is
refused by name. Two things are ours: examples are the first rows of their split (lm-eval draws them unless ``sampler:
first_n``), which the protocol says; and a tie between options is nobody's choice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import yaml

from quantgate.core import reading
from quantgate.core.errors import UsageError, translated
from quantgate.core.naming import suggestion
from quantgate.core.reading import Unreadable
from quantgate.tasks.base import Task
from quantgate.tasks.written.answers import Filter, Scorer
from quantgate.tasks.written.form import Form
from quantgate.tasks.written.rows import Place
from quantgate.tasks.written.tasks import Origin, WrittenAnswer, WrittenChoice, WrittenEnding
from quantgate.tasks.written.templates import check_template, pattern_of

PREFIX: Final = "lm_"
_READ: Final = (
    "task", "dataset_path", "dataset_name", "test_split", "validation_split", "fewshot_split", "output_type",
    "doc_to_text", "doc_to_choice", "doc_to_target", "description", "target_delimiter", "fewshot_delimiter",
    "num_fewshot", "fewshot_config", "metric_list", "generation_kwargs", "filter_list", "repeats", "dataset_kwargs",
    "training_split", "include",
)  # fmt: skip
_WITHOUT_EFFECT: Final = (
    "tag", "group", "task_alias", "metadata", "should_decontaminate", "doc_to_decontamination_query",
)  # fmt: skip
_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "multiple_choice": ("acc", "acc_norm"),
    "loglikelihood": ("acc", "perplexity"),
    "generate_until": ("exact_match",),
}
_MATCH: Final = ("ignore_case", "ignore_punctuation", "ignore_numbers", "regexes_to_ignore")
_OF_METRIC: Final = ("metric", "aggregation", "higher_is_better", *_MATCH)
_STEPS: Final = ("regex", "remove_whitespace", "lowercase", "uppercase", "take_first")
_DEEP: Final = 5
_NEW_TOKENS: Final = 256


class _Python(str):
    """``!function module.name``: Python that a task file asks for, and that is not run."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Plain values only. Anchors are refused: a few lines of them spell out more than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not taken")
        return super().compose_node(parent, index)


_Loader.add_constructor("!function", lambda loader, node: _Python(loader.construct_scalar(node)))


class LmEval:
    """One YAML file with what it includes; ``tasks`` makes its rows, ``notes`` says which metrics are left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        texts: list[str] = []
        self.table = _with_includes(path, texts)
        self.digest = sha256("\0".join(texts).encode()).hexdigest()[:16]
        self._check_keys()
        self.kind = self.table.get("output_type", "generate_until")
        if self.kind not in _KINDS:
            hint = "a TOML task of kind 'perplexity' measures one" if self.kind == "loglikelihood_rolling" else ""
            raise self._error("output_type", repr(self.kind), " or ".join(_KINDS), hint)

    def tasks(self) -> list[Task]:
        """A task a metric, and for free answers a task a filter."""
        metrics = self._metrics()
        name = PREFIX + re.sub(r"[^a-z0-9_]", "_", self._text("task").lower())
        form, origin = self._form(), Origin(self.path.name, self.digest)
        shots = self._count("num_fewshot", 0)
        if self.kind == "multiple_choice":
            return [
                WrittenChoice(name + "_norm" * (metric == "acc_norm"), form, origin, shots,
                              norm="characters" if metric == "acc_norm" else "none")
                for metric in metrics
            ]  # fmt: skip
        if self.kind == "loglikelihood":
            return [
                WrittenEnding(name + "_perplexity" * (metric == "perplexity"), form, origin, shots,
                              measure="ppl" if metric == "perplexity" else "acc")
                for metric in metrics
            ]  # fmt: skip
        return self._answers(name, form, origin, metrics["exact_match"])

    def _answers(self, name: str, form: Form, origin: Origin, match: Mapping[str, Any]) -> list[Task]:
        stop, most = self._generation()
        found: list[Task] = []
        for at, (label, filters) in enumerate(self._pipelines()):
            scorer = Scorer(
                "filters", filters, bool(match.get("ignore_case")), bool(match.get("ignore_punctuation")),
                bool(match.get("ignore_numbers")), tuple(match.get("regexes_to_ignore") or ()), strip=False,
            )  # fmt: skip
            suffix = "" if at == 0 else "_" + re.sub(r"[^a-z0-9_]", "_", label.lower())
            shots = self._count("num_fewshot", 0)
            found.append(WrittenAnswer(name + suffix, form, origin, shots, "knowledge", scorer, most, stop))
        return found

    # --- keys -------------------------------------------------------------------------------------------------------

    def _check_keys(self) -> None:
        known = (*_READ, *_WITHOUT_EFFECT)
        for key, value in self.table.items():
            if isinstance(value, _Python):
                raise self._error(key, f"!function {value}", "no Python", "write a template, or a task of your own")
            if key not in known:
                if value is None or value is False:
                    continue  # lm-eval's way of saying that it is not used
                raise self._error(key, "a key that is not done here", "none that changes the scores",
                                  suggestion(str(key), known).partition(" known:")[0])  # fmt: skip

    def _metrics(self) -> dict[str, Mapping[str, Any]]:
        default = [{"metric": name} for name in _KINDS[self.kind]]
        listed = self.table.get("metric_list", default)
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise self._error("metric_list", repr(listed)[:80], "a list of metrics")
        found: dict[str, Mapping[str, Any]] = {}
        for each in listed:
            name = each.get("metric")
            if isinstance(name, _Python) or name not in _KINDS[self.kind]:
                self.notes.append(f"{self.path.name}: the metric {name} is left out; done here: {self._done}")
                continue
            if unknown := [key for key in each if key not in _OF_METRIC]:
                raise self._error(
                    f"metric_list.{name}.{unknown[0]}", "a key that is not done here", "/".join(_OF_METRIC)
                )
            for pattern in each.get("regexes_to_ignore") or ():
                self._check_pattern(f"metric_list.{name}.regexes_to_ignore", pattern)
            found[name] = each
        if not found:
            raise self._error("metric_list", ", ".join(str(each.get("metric")) for each in listed), self._done)
        return found

    @property
    def _done(self) -> str:
        return " or ".join(_KINDS[self.kind])

    def _form(self) -> Form:
        split = self.table.get("test_split") or self.table.get("validation_split")
        where = Place(None, self._text("dataset_path"), self.table.get("dataset_name") or "", str(split))
        if not split:
            raise self._error("test_split", "neither it nor validation_split", "the split that is asked")
        self._check_kwargs()
        options = self.table.get("doc_to_choice")
        if isinstance(options, dict):
            options = list(options.values())
        if isinstance(options, list):
            options = tuple(map(str, options))
        if self.kind == "multiple_choice" and options is None:
            raise self._error("doc_to_choice", "nothing", "the options")
        for key in ("doc_to_text", "doc_to_target"):
            if not isinstance(self.table.get(key), (str, int)) or self.table[key] == "":
                raise self._error(key, repr(self.table.get(key)), "a field's name or a template")
        for key in ("doc_to_text", "doc_to_target", "doc_to_choice", "description"):
            if isinstance(value := self.table.get(key), str):
                check_template(value, self._who(key))
        return Form(
            where, self.table["doc_to_text"], self.table["doc_to_target"], options,
            before=self.table.get("description") or "", between=self._text("target_delimiter", " "),
            behind=self._text("fewshot_delimiter", "\n\n"), examples=self._examples(where),
        )  # fmt: skip

    def _examples(self, where: Place) -> Place | None:
        config = self.table.get("fewshot_config") or {}
        for key, value in config.items() if isinstance(config, dict) else [("", config)]:
            if not (key == "split" or (key == "sampler" and value in ("first_n", "default"))):
                raise self._error(f"fewshot_config.{key}", repr(value), "sampler: first_n")
        split = config.get("split") or self.table.get("fewshot_split") or self.table.get("training_split")
        if not split or split == where.split:
            return None
        return Place(None, where.dataset, where.config, str(split))

    def _check_kwargs(self) -> None:
        for key in self.table.get("dataset_kwargs") or {}:
            if key != "trust_remote_code":  # rows are read, no code is
                raise self._error(f"dataset_kwargs.{key}", "a key that is not done here", "none")
        if self.table.get("repeats", 1) != 1:
            raise self._error("repeats", repr(self.table["repeats"]), "1: answers are greedy")

    def _generation(self) -> tuple[tuple[str, ...], int]:
        settings = self.table.get("generation_kwargs") or {}
        for key, value in settings.items():
            greedy = (key == "do_sample" and not value) or (key == "temperature" and float(value) == 0)
            if key not in ("until", "max_gen_toks") and not greedy:
                raise self._error(f"generation_kwargs.{key}", repr(value), "greedy answers: until and max_gen_toks")
        until = settings.get("until", [self._text("fewshot_delimiter", "\n\n")])
        stop = (until,) if isinstance(until, str) else tuple(until or ())
        most = settings.get("max_gen_toks", _NEW_TOKENS)
        if not all(isinstance(each, str) and each for each in stop) or type(most) is not int or most < 1:
            raise self._error("generation_kwargs", repr(settings)[:80], "until: texts, max_gen_toks: a number")
        return stop, most

    def _pipelines(self) -> list[tuple[str, tuple[Filter, ...]]]:
        listed = self.table.get("filter_list") or [{"name": "none", "filter": [{"function": "take_first"}]}]
        return [(str(each.get("name")), tuple(self._steps(each.get("filter") or []))) for each in listed]

    def _steps(self, steps: list[dict[str, Any]]) -> list[Filter]:
        found = []
        for step in steps:
            name = step.get("function")
            if name not in _STEPS:
                raise self._error("filter_list", f"the function {name!r}", " or ".join(_STEPS))
            if name == "take_first":
                continue  # one answer is asked for
            known = ("function", "regex_pattern", "group_select", "fallback") if name == "regex" else ("function",)
            if unknown := [key for key in step if key not in known]:
                raise self._error(f"filter_list.{name}.{unknown[0]}", "a key that is not done here", " or ".join(known))
            pattern = step.get("regex_pattern", r"#### (\-?[0-9\.\,]+)")
            self._check_pattern("filter_list.regex_pattern", pattern)
            found.append(Filter(name, pattern, int(step.get("group_select", 0)), step.get("fallback", "[invalid]")))
        return found

    def _check_pattern(self, key: str, pattern: Any) -> None:
        try:
            pattern_of(pattern)
        except (TypeError, ValueError) as error:
            raise self._error(key, str(error), "a regular expression") from error

    def _text(self, key: str, default: str | None = None) -> str:
        found = self.table.get(key, default)
        if not isinstance(found, str) or (not found and default is None):
            raise self._error(key, repr(found), "a text")
        return found

    def _count(self, key: str, default: int) -> int:
        found = self.table.get(key)
        if found is None:
            return default
        if type(found) is not int or found < 0:
            raise self._error(key, repr(found), "a whole number")
        return found

    def _who(self, key: str) -> str:
        return f"task file {self.path.name}, {key}"

    def _error(self, key: str, found: str, expected: str, hint: str = "") -> UsageError:
        return UsageError(self._who(str(key)), f"found {found}", expected=expected, hint=hint)


def _with_includes(path: Path, texts: list[str], depth: int = 0) -> dict[str, Any]:
    """The file's table over that of the file it includes, as lm-eval merges them."""
    who = f"task file {path.name}"
    if depth > _DEEP:
        raise UsageError(who, f"more than {_DEEP} files that include each other")
    try:
        text = reading.read_text(path, reading.MOST_TOML)
    except (OSError, Unreadable) as error:
        raise UsageError(who, f"cannot be read ({error})", expected="a task of lm-eval in YAML") from error
    texts.append(text)
    with translated(who, "is no YAML that is taken", kind=UsageError, also=(Exception,)):
        table = yaml.load(text, _Loader)
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise UsageError(who, f"a {type(table).__name__}", expected="keys and values")
    include = table.pop("include", None)
    if include is None:
        return table
    if not isinstance(include, str) or Path(include).is_absolute() or ".." in Path(include).parts:
        raise UsageError(f"{who}, include", repr(include), expected="the name of one file beside it")
    return {**_with_includes(path.parent / include, texts, depth + 1), **table}
