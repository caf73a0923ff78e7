"""Ways to a false green, each with the sentence that must stop it and the guard that says it.

A row sabotages the gate and runs it. Its lure is real: with the guard out of order the same run is green, which
``QUANTGATE_BREAK_GUARDS=1`` shows.
"""

import contextlib
import importlib
import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.suite.sabotage_scene import (
    HONEST,
    KLD,
    LURE,
    NO_LIST,
    NO_WORDS,
    NOTHING,
    PROVENANCE,
    ROWS,
    UNCHECKED,
    Equal,
    Scene,
    row,
)

__all__ = ["ROWS", "Scene"]

# --- baselines ------------------------------------------------------------------------------------------------------


def _foreign(name):
    def run(scene):
        scene.run("--update-baselines", *KLD)

        def lure(baseline):
            outcomes = tuple(replace(each, score=LURE) for each in baseline.outcomes)
            return replace(baseline, provenance=dict(baseline.provenance) | {name: "another"}, outcomes=outcomes)

        scene.edit_baseline(lure, "kld_ptb")
        return scene.run(*KLD)

    return run


for _name in PROVENANCE:
    row(f"baseline of another {_name}", f"*differs in {_name}:*", ("quantgate.store.baselines.differences", NO_LIST))(
        _foreign(_name)
    )


@row(
    "baseline scores lowered by hand",
    "*seal is broken*",
    ("quantgate.store.baselines.Baseline.seal", lambda original: Equal()),
)
def _(scene):
    scene.run("--update-baselines", *KLD)
    [path] = (scene.root / "baselines").rglob("kld_ptb.json")
    path.write_text(path.read_text().replace('"score": 0.0', f'"score": {LURE}'))
    return scene.run(*KLD)


@row("margin below the noise", "*lies below the noise*", ("quantgate.verdict.judge._bad_margin", NO_WORDS))
def _(scene):
    scene.run("--update-baselines", "--tasks", "perplexity")
    scene.edit_baseline(lambda baseline: replace(baseline, noise=1e6))
    return scene.run("--tasks", "perplexity")


@row("a run that writes baselines", "*baseline of kld_ptb written*")
def _(scene):
    return scene.run("--update-baselines", "--methods", "rtn8", "--tasks", "kld")


@row("baselines updated in CI", "*refused when CI is set*", code=4)
def _(scene):
    scene.monkeypatch.setenv("CI", "1")
    return scene.run("--update-baselines")


# --- subjects -------------------------------------------------------------------------------------------------------


def _on_the_grid(scene, which):
    """A reference whose chosen layers lie exactly on the 8-bit grid: quantizing them changes nothing."""
    from quantgate.quantize import methods
    from quantgate.quantize.rtn import RtnSettings

    path = Path(shutil.copytree(scene.model, scene.root / "grid"))
    state = load_file(path / "model.safetensors")
    for name, weight in state.items():
        if which(name) and weight.ndim == 2:
            codes = torch.arange(weight.numel()).reshape(weight.shape).remainder(256) - 128
            codes[:, 0], codes[:, 1] = -128, 127
            state[name] = (codes * 2.0**-11).to(torch.bfloat16)
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    asymmetric = replace(methods.METHODS["rtn8"], settings=RtnSettings(8, sym=False))
    scene.monkeypatch.setitem(methods.METHODS, "rtn8", asymmetric)
    return scene.run("--model", path, "--methods", "rtn8", "--tasks", "truthfulqa")


@row(
    "a subject that was never quantized",
    "*the subject's weights equal the reference's: nothing was quantized*",
    ("quantgate.verdict.judge._foreign", NO_WORDS),
)
def _(scene):
    return _on_the_grid(scene, lambda name: ".layers." in name)


@row(
    "half of the layers untouched",
    "*7 of 14 modules still hold 16-bit weights*",
    ("quantgate.subjects.Subject.problems", NO_LIST),
)
def _(scene):
    return _on_the_grid(scene, lambda name: ".layers.1." in name)


def _patched_loading(scene, change):
    # by name: pytester forgets modules that a run imported, and the package would hand out the forgotten one
    checkpoint = importlib.import_module("quantgate.quantize.checkpoint")
    load = checkpoint.load_quantized
    scene.monkeypatch.setattr(checkpoint, "load_quantized", lambda *args, **kwargs: change(load(*args, **kwargs)))


@row(
    "a loader that quietly serves the reference",
    "*answers equal the reference's to the last bit*",
    ("quantgate.verdict.evidence._same_answers", NO_LIST),
)
def _(scene):
    from quantgate.models.loading import load_reference

    _patched_loading(scene, lambda model: load_reference(scene.model, "tiny", "bfloat16", "cpu"))
    return scene.run("--tasks", "truthfulqa")


def _head(change):
    def poison(model):
        model.lm_head.weight = torch.nn.Parameter(change(model.lm_head.weight.detach().clone()), requires_grad=False)
        return model

    return poison


@row("logits that are not numbers", "*invalid*not finite*", HONEST)
def _(scene):
    _patched_loading(scene, _head(lambda weight: weight * float("nan")))
    return scene.run("--tasks", "perplexity")


@row("constant outputs", "*theirs*kld_ptb*", HONEST)
def _(scene):
    path = scene.checkpoint()
    state = load_file(path / "model.safetensors")
    state["lm_head.weight"] = torch.zeros_like(state["lm_head.weight"])
    state["model.embed_tokens.weight"] = torch.zeros_like(state["model.embed_tokens.weight"])
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    return scene.judge_candidate(path)


# --- candidates -----------------------------------------------------------------------------------------------------


def _edit_tensors(path, ending, change):
    state = load_file(path / "model.safetensors")
    state |= {name: change(tensor).contiguous() for name, tensor in state.items() if name.endswith(ending)}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})


def _edit_config(path, **changes):
    for name in ("config.json", "quantize_config.json"):
        content = json.loads((path / name).read_text())
        inner = content.get("quantization_config", content)
        inner |= changes
        (path / name).write_text(json.dumps(content))


@row(
    "the original itself as a candidate",
    "*nothing was quantized*",
    ("quantgate.verdict.judge._foreign", NO_WORDS),
)
def _(scene):
    path = Path(shutil.copytree(scene.model, scene.root / "original"))
    return scene.run("--candidate", f"theirs={path}", "-k", "theirs", "--tasks", "truthfulqa")


@row(
    "another tokenizer",
    "*splits text otherwise than the reference's*",
    ("quantgate.candidates._tokenizer_problems", NO_LIST),
)
def _(scene):
    path = scene.checkpoint()
    content = json.loads((path / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Lowercase"}
    (path / "tokenizer.json").write_text(json.dumps(content))
    return scene.judge_candidate(path)


@row(
    "another chat template",
    "*chat template is not the reference's*",
    ("quantgate.candidates._tokenizer_problems", NO_LIST),
)
def _(scene):
    path = scene.checkpoint()
    (path / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    return scene.judge_candidate(path)


@row(
    "a wrong group size in the config",
    "*groups of 16, as group_size says*",
    ("quantgate.quantize.uniform._check_groups", NOTHING),
)
def _(scene):
    path = scene.checkpoint()
    _edit_config(path, group_size=16)
    return scene.judge_candidate(path)


@row(
    "groups that do not exist",
    "*group 7 in g_idx*",
    ("quantgate.quantize.uniform._check_groups", NOTHING),
    ("quantgate.quantize.uniform.dequantize", lambda original: lambda codes, scales, zeros: codes.float() * 0),
    (
        "quantgate.quantize.uniform.UniformWeight.dequantize",
        lambda original: lambda self, dtype: self.codes.t().to(dtype),
    ),
    HONEST,
)
def _(scene):
    path = scene.checkpoint()
    _edit_tensors(path, "g_idx", lambda g_idx: g_idx + 7)
    return scene.judge_candidate(path)


@row(
    "infinite scales",
    "*scales that are not finite*",
    ("quantgate.quantize.uniform._check_groups", NOTHING),
    HONEST,
)
def _(scene):
    path = scene.checkpoint()
    _edit_tensors(path, "scales", lambda scales: scales * float("inf"))
    return scene.judge_candidate(path)


@row("zero points of version 1 labelled as version 2", "*theirs on kld_ptb: regressed*", HONEST)
def _(scene):
    path = scene.checkpoint("rtn2")
    config = json.loads((path / "quantize_config.json").read_text())
    _edit_config(path, checkpoint_format="gptq" if config["checkpoint_format"] == "gptq_v2" else "gptq_v2")
    return scene.judge_candidate(path)


@row("zero points wrapped around", "*theirs on kld_ptb: regressed*", HONEST)
def _(scene):
    path = scene.checkpoint()
    _edit_tensors(path, "qzeros", lambda zeros: torch.full_like(zeros, -1))
    return scene.judge_candidate(path)


@row("codes in the wrong order", "*theirs on kld_ptb: regressed*", HONEST)
def _(scene):
    path = scene.checkpoint()
    _edit_tensors(path, "qweight", lambda codes: codes.flip(0))
    return scene.judge_candidate(path)


# --- the store ------------------------------------------------------------------------------------------------------


@row("answers of another model", "*belongs to another key*", UNCHECKED)
def _(scene):
    good = scene.answers("rtn8")
    bad = scene.answers("rtn2")
    shutil.rmtree(bad)
    shutil.copytree(good, bad)
    return scene.run(*KLD)


@row("answers edited in the store", "*the digest of responses.jsonl does not match*", UNCHECKED)
def _(scene):
    good, bad = scene.answers("rtn8"), scene.answers("rtn2")
    shutil.copyfile(good / "responses.jsonl", bad / "responses.jsonl")
    return scene.run(*KLD)


@row("a subject exchanged in the store", "*the digest of model.safetensors does not match*", UNCHECKED)
def _(scene):
    good = scene.checkpoint("rtn8")
    scene.checkpoint("rtn2")
    for entry in (scene.root / "store" / "subjects").iterdir():
        if json.loads((entry / "quantgate.json").read_text())["method"]["method"] == "rtn2":
            shutil.copyfile(good / "model.safetensors", entry / "model.safetensors")
    shutil.rmtree(scene.root / "store" / "responses")
    return scene.run(*KLD)


@row("a full disk while quantizing", "*No space left on device*", code=3)
def _(scene):
    import errno

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    scene.monkeypatch.setattr("quantgate.store.store.os.fsync", full)
    return scene.run()


# --- data -----------------------------------------------------------------------------------------------------------


def _questions(scene):
    return scene.data / "truthfulqa__truthful_qa" / "multiple_choice" / "validation.jsonl"


def _lenient(original):
    def rows(self, dataset, config, split, fields):
        path = self._folder(dataset) / config / f"{split}.jsonl"
        found = []
        for line in path.read_text(errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    return rows


ROWS_READ = ("quantgate.tasks.data.DirectorySource.rows", _lenient)


@row("an emptied benchmark", "*the file is empty*", ROWS_READ, HONEST)
def _(scene):
    _questions(scene).write_text("")
    return scene.run("--tasks", "truthfulqa")


@row("a truncated data file", "*line 80*", ROWS_READ)
def _(scene):
    path = _questions(scene)
    path.write_text(path.read_text()[:-40])
    return scene.run("--tasks", "truthfulqa")


@row("items copied", "*items ask literally the same*", ("quantgate.evaluation.check_unique", NOTHING))
def _(scene):
    path = _questions(scene)
    lines = path.read_text().splitlines()[:8]
    path.write_text("\n".join(lines * 10) + "\n")
    return scene.run("--tasks", "truthfulqa")


@row("no item with a score", "*no item was scored*", HONEST)
def _(scene):
    return _unscored(scene, lambda number: True)


@row("every tenth item without a score", "*items have no score*", ("quantgate.verdict.judge._unusable", NO_WORDS))
def _(scene):
    return _unscored(scene, lambda number: number % 10 == 0)


def _unscored(scene, which):
    from quantgate.tasks.base import ItemOutcome
    from quantgate.tasks.table import TASKS

    task = type(TASKS["truthfulqa"])
    score = task.score

    def half(self, item, responses):
        if which(int(item.id.rpartition("/")[2])):
            return ItemOutcome(item.id, item.group, None, unscored="nothing came back")
        return score(self, item, responses)

    scene.monkeypatch.setattr(task, "score", half)
    return scene.run("--tasks", "truthfulqa")


@row("calibration on what is tested", "*shares 13 words in a row*", ("quantgate.evaluation.check_disjoint", NOTHING))
def _(scene):
    folder = scene.data / "ptb-text-only__ptb_text_only" / "penn_treebank"
    shutil.copyfile(folder / "test.jsonl", folder / "train.jsonl")
    return scene.run("--methods", "gptq8", "--tasks", "perplexity", "--calibration-length", "256")


# --- the policy -----------------------------------------------------------------------------------------------------


def _policy(scene, old, new):
    text = scene.policy.read_text()
    assert old in text
    scene.policy.write_text(text.replace(old, new))


@row("a reference at chance", "*at chance*", ("quantgate.verdict.judge._hopeless", NO_WORDS))
def _(scene):
    _policy(scene, "[metrics.acc]", "[metrics.acc]\nfloor = { chance = 0.5 }")
    return scene.run("--tasks", "truthfulqa")


@row(
    "a margin that is no number",
    "*found nan*",
    (
        "quantgate.verdict.policy_file._Reader._number",
        lambda original: lambda self, path, value, **bounds: float(value),
    ),
    ("quantgate.verdict.judge._bad_margin", NO_WORDS),
    code=4,
)
def _(scene):
    _policy(scene, "relative = 0.05", "relative = nan")
    return scene.run("--tasks", "perplexity")


@row(
    "a margin that allows everything",
    "*even a score of 0 would pass*",
    ("quantgate.verdict.policy.Policy._can_fail", NOTHING),
)
def _(scene):
    _policy(scene, "[metrics.acc]\nmargin = { absolute = 0.1 }", "[metrics.acc]\nmargin = { absolute = 1.0 }")
    return scene.run("--tasks", "truthfulqa")


@row(
    "invalid cases waved through",
    "*an invalid case is never allowed*",
    ("quantgate.verdict.policy_file._Reader._allow", lambda original: lambda self, path, value: tuple(value)),
    code=4,
)
def _(scene):
    waiver = 'floor = { chance = 0.5 }\nallow = ["invalid"]\nbecause = "it is red otherwise"'
    _policy(scene, "[metrics.acc]", f"[metrics.acc]\n{waiver}")
    return scene.run("--tasks", "truthfulqa")


def _rounding(decide):
    def rounded(comparison, rule, margin):
        return replace(decide(comparison, rule, margin), verdict="pass")

    return rounded


@row("a bound that would round to the margin", "*inconclusive*", ("quantgate.verdict.judge._decide", _rounding))
def _(scene):
    scene.run("--tasks", "kld", "--methods", "rtn2")
    high = scene.gate.report["results"][0]["ci_high"]
    _policy(scene, "absolute = 0.00002", f"absolute = {high * (1 - 1e-9)!r}")
    return scene.run(*KLD, "--strict")


@row("too few items", "*only 2 items were scored*", ("quantgate.verdict.judge._decide", _rounding))
def _(scene):
    return scene.run("--limit", "2", "--strict", "--tasks", "perplexity")


# --- the run --------------------------------------------------------------------------------------------------------


@row("nothing selected", "*deselected*", code=5)
def _(scene):
    return scene.run("-k", "no_such_method")


@row(
    "verdicts lost on the way to the report",
    "*selected, but no verdict arrived*",
    ("reports.plugin._account_for_all", NOTHING),
)
def _(scene):
    from reports.plugin import Collector

    receive = Collector.pytest_runtest_logreport

    def half(self, report):
        if "rtn4" not in report.nodeid:
            receive(self, report)

    scene.monkeypatch.setattr(Collector, "pytest_runtest_logreport", half)
    return scene.run("--methods", "rtn8,rtn4", "--tasks", "kld")


@row("a full disk while reporting", "*the report could not be written*", code=3)
def _(scene):
    from quantgate.errors import StoreError

    def full(path, text):
        raise StoreError(str(path), "cannot be written (No space left on device)")

    scene.monkeypatch.setattr("reports.plugin.write_atomically", full)
    return scene.run("--tasks", "kld")


@dataclass
class Printed:
    """A command's exit code and words in the shape of a pytester result."""

    ret: int
    text: str


def _verified(scene, name, change):
    from quantgate import cli

    scene.run("--tasks", "kld", "--methods", "rtn2")
    path = scene.root / "report" / name
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before
    words = io.StringIO()
    with contextlib.redirect_stdout(words):
        return Printed(cli.main(["verify", str(path.parent)]), words.getvalue())


@row(
    "a verdict edited in the report",
    "*verdict is recorded as pass and comes out as regressed*",
    ("quantgate.verdict.verify._differing", NO_LIST),
)
def _(scene):
    return _verified(scene, "report.json", lambda text: text.replace('"verdict": "regressed"', '"verdict": "pass"'))


@row("outcomes edited after the run", "*were changed after they were written*")
def _(scene):
    return _verified(scene, "evidence.jsonl", lambda text: text.replace(",0.0,", ",99.0,", 1))
