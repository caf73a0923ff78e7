"""Ways to a false green with baselines, subjects and candidates (the others: ``sabotage_run``).

A row sabotages the gate and runs it, and names the sentence that must stop it and the guard that says it. Its lure is
real: with the guard out of order the same run is green, which benchmarks/mutation_check.py shows row by row.
"""

import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.suite.sabotage_scene import (
    FINITE,
    HONEST,
    KLD,
    LURE,
    NO_LIST,
    NO_WORDS,
    NOTHING,
    PROVENANCE,
    SENSIBLE,
    Equal,
    row,
)

# --- baselines ------------------------------------------------------------------------------------------------------


ANY_BASELINE = ("quantgate.store.baselines.differences", NO_LIST)
ANY_DISTANCE = ("quantgate.store.baselines.check_own", NOTHING)


def _lured(scene, *command, **provenance):
    """Baselines made by ``command`` whose reference is so bad that every subject looks better."""
    scene.run("--update-baselines", *KLD, *command)

    def lure(baseline):
        outcomes = tuple(replace(each, score=LURE) for each in baseline.outcomes)
        return replace(baseline, provenance=dict(baseline.provenance) | provenance, outcomes=outcomes)

    scene.edit_baseline(lure, "kld_ptb")


def _foreign(name):
    def run(scene):
        _lured(scene, **{name: "another"})
        return scene.run(*KLD)

    return run


for _name in PROVENANCE:
    row(f"baseline of another {_name}", f"*differs in {_name}:*", ANY_BASELINE, ANY_DISTANCE)(_foreign(_name))


@row("a reference that is far from itself", "*distance of the reference from itself*expected 0*", ANY_DISTANCE)
def _(scene):
    _lured(scene)
    return scene.run(*KLD)


@row(
    "baseline of another limit",
    "*differs in data, requests:*",
    ANY_BASELINE,
    ANY_DISTANCE,
    ("quantgate.verdict.paired._same_items", NOTHING),
)
def _(scene):
    _lured(scene, "--limit", "4")
    return scene.run(*KLD)


@row("baseline of the items in another order", "*differs in data, requests:*", ANY_BASELINE, ANY_DISTANCE)
def _(scene):
    _lured(scene)
    path = scene.data / "ptb-text-only__ptb_text_only" / "penn_treebank" / "test.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    return scene.run(*KLD)


@row("a missing baseline", "*no baseline of perplexity_ptb*the reference is scored now*", HONEST)
def _(scene):
    scene.policy.write_text(scene.policy.read_text().replace("relative = 0.05", "relative = 0.00001"))
    return scene.run("--tasks", "perplexity", "--methods", "rtn2", "--strict")


@row(
    "baseline scores lowered by hand",
    "*seal is broken*",
    ("quantgate.store.baselines.Baseline.seal", lambda original: Equal()),
    ANY_DISTANCE,
)
def _(scene):
    scene.run("--update-baselines", *KLD)
    [path] = (scene.root / "baselines").rglob("kld_ptb.json")
    path.write_text(path.read_text().replace('"score": 0.0', f'"score": {LURE}'))
    return scene.run(*KLD)


@row("margin below the noise", "*lies below the noise*", SENSIBLE)
def _(scene):
    scene.run("--update-baselines", "--tasks", "perplexity")
    scene.edit_baseline(lambda baseline: replace(baseline, noise=1e6))
    return scene.run("--tasks", "perplexity")


A_WRITING_RUN_IS_RED = ("quantgate.fixtures.plugin.pytest_sessionfinish", NOTHING)


@row("a run that writes baselines", "*baseline of kld_ptb written*", A_WRITING_RUN_IS_RED)
def _(scene):
    return scene.run("--update-baselines", "--methods", "rtn8", "--tasks", "kld")


@row(
    "baselines updated in CI",
    "*refused when CI is set*",
    ("quantgate.fixtures.plugin._refuse_in_ci", NOTHING),
    A_WRITING_RUN_IS_RED,
    code=4,
)
def _(scene):
    scene.monkeypatch.setenv("CI", "1")
    return scene.run("--update-baselines")


# --- subjects -------------------------------------------------------------------------------------------------------


def _on_the_grid(scene):
    """A reference whose layers lie exactly on the 8-bit grid: quantizing them changes nothing."""
    from quantgate.quantize.catalogue import methods
    from quantgate.quantize.settings import RtnSettings

    path = Path(shutil.copytree(scene.model, scene.root / "grid"))
    state = load_file(path / "model.safetensors")
    for name, weight in state.items():
        if ".layers." in name and weight.ndim == 2:
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
    return _on_the_grid(scene)


@row(
    "half of the layers untouched",
    "*7 of 14 modules still hold 16-bit weights*",
    ("quantgate.subjects.subject.Subject.problems", NO_LIST),
)
def _(scene):
    # by name: pytester forgets modules that a run imported, and the package would hand out the forgotten one
    checkpoint = importlib.import_module("quantgate.checkpoints.checkpoint")
    write = checkpoint.write

    def lazily(source, target, quantized, *others):
        return write(source, target, {name: each for name, each in quantized.items() if ".layers.0." in name}, *others)

    scene.monkeypatch.setattr(checkpoint, "write", lazily)
    return scene.run("--methods", "rtn8", "--tasks", "truthfulqa")


def _patched_loading(scene, change):
    # by name: pytester forgets modules that a run imported, and the package would hand out the forgotten one
    checkpoint = importlib.import_module("quantgate.checkpoints.checkpoint")
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


@row("logits that are not numbers", "*invalid*not finite*", *FINITE, SENSIBLE)
def _(scene):
    _patched_loading(scene, _head(lambda weight: weight * float("nan")))
    return scene.run("--tasks", "perplexity")


@row("constant outputs", "*theirs*kld_ptb*", HONEST)
def _(scene):
    path = scene.checkpoint()
    state = load_file(path / "model.safetensors")
    state["model.embed_tokens.weight"] = torch.zeros_like(state["model.embed_tokens.weight"])
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    return scene.judge_candidate(path)


UNROUNDED = (("quantgate.subjects.candidates.audited", NO_LIST), HONEST)

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
    ("quantgate.subjects.candidates._tokenizer_problems", NO_LIST),
)
def _(scene):
    path = scene.checkpoint()
    content = json.loads((path / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Lowercase"}
    (path / "tokenizer.json").write_text(json.dumps(content))
    return scene.judge_candidate(path)


@row(
    "a tokenizer with two rare tokens swapped",
    "*numbers tokens otherwise than the reference's*",
    ("quantgate.subjects.candidates._tokenizer_problems", NO_LIST),
)
def _(scene):
    path = scene.checkpoint()
    content = json.loads((path / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["Q"], vocabulary["J"] = vocabulary["J"], vocabulary["Q"]
    (path / "tokenizer.json").write_text(json.dumps(content))
    return scene.judge_candidate(path)


@row(
    "another chat template",
    "*chat template is not the reference's*",
    ("quantgate.subjects.candidates._tokenizer_problems", NO_LIST),
)
def _(scene):
    path = scene.checkpoint()
    (path / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    return scene.judge_candidate(path)


@row(
    "a wrong group size in the config",
    "*groups of 16, as group_size says*",
    ("quantgate.quantize.numerics.uniform._check_groups", NOTHING),
)
def _(scene):
    path = scene.checkpoint()
    _edit_config(path, group_size=16)
    return scene.judge_candidate(path)


@row(
    "groups that do not exist",
    "*group 7 in g_idx*",
    ("quantgate.quantize.numerics.uniform._check_groups", NOTHING),
    ("quantgate.quantize.numerics.uniform.dequantize", lambda original: lambda codes, scales, zeros: codes.float() * 0),
    (
        "quantgate.quantize.numerics.uniform.UniformWeight.dequantize",
        lambda original: lambda self, dtype: self.codes.t().to(dtype).contiguous(),
    ),
    *UNROUNDED,
)
def _(scene):
    path = scene.checkpoint()
    _edit_tensors(path, "g_idx", lambda g_idx: g_idx + 7)
    return scene.judge_candidate(path)


@row(
    "infinite scales",
    "*scales that are not finite*",
    ("quantgate.quantize.numerics.uniform._check_groups", NOTHING),
    ("quantgate.models.accounting.check_finite", NOTHING),
    *FINITE,
    SENSIBLE,
    *UNROUNDED,
)
def _(scene):
    path = scene.checkpoint()
    _edit_tensors(path, "scales", lambda scales: scales * float("inf"))
    return scene.judge_candidate(path)


@row("zero points of version 1 labelled as version 2", "*zero points of 14 of 14 modules*", *UNROUNDED)
def _(scene):
    path = scene.checkpoint("rtn2")
    config = json.loads((path / "quantize_config.json").read_text())
    _edit_config(path, checkpoint_format="gptq" if config["checkpoint_format"] == "gptq_v2" else "gptq_v2")
    return scene.judge_candidate(path)


@row("zero points wrapped around", "*matrices are no rounding of the reference's*", *UNROUNDED)
def _(scene):
    path = scene.checkpoint()
    _edit_tensors(path, "qzeros", lambda zeros: torch.full_like(zeros, -1))
    return scene.judge_candidate(path)


@row("codes in the wrong order", "*matrices are no rounding of the reference's*", *UNROUNDED)
def _(scene):
    path = scene.checkpoint()
    _edit_tensors(path, "qweight", lambda codes: codes.flip(0))
    return scene.judge_candidate(path)
