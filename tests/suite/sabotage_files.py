"""Ways to a false green with the files of a model: what is judged is not what is loaded, or not all of it."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.suite.sabotage_scene import FINITE, HONEST, NO_LIST, NOTHING, SENSIBLE, row

NORM = "model.layers.1.post_attention_layernorm.weight"
KEY = "model.layers.1.self_attn.k_proj"
COMPLETE = ("quantgate.subjects.candidates.check_complete", NOTHING)
COUNTED = (COMPLETE, ("quantgate.checkpoints.checkpoint.check_loaded", NOTHING), HONEST)
AUDITED = ("quantgate.subjects.candidates.audited", NO_LIST)
BLIND = ("quantgate.models.digest.digest_tensors", lambda original: lambda tensors: dict.fromkeys(tensors, ""))


def _edit(path, change, name="model.safetensors"):
    state = load_file(path / name)
    change(state)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path / name, metadata={"format": "pt"})


def _drop(path, start):
    _edit(path, lambda state: [state.pop(name) for name in list(state) if name.startswith(start)])


def _rounded(scene, bits):
    """The reference's tensors, its blocks' matrices rounded by row."""

    def rounded(name, weight):
        if ".layers." not in name or weight.ndim != 2:
            return weight.clone()
        step = weight.float().abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        return ((weight.float() / step).round() * step).to(weight.dtype)

    return {name: rounded(name, weight) for name, weight in load_file(scene.model / "model.safetensors").items()}


def _save(state, path):
    path.parent.mkdir(exist_ok=True)
    save_file(state, path, metadata={"format": "pt"})


def _index(path, names, shard):
    content = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
    (path / "model.safetensors.index.json").write_text(json.dumps(content))


def _two_sets(scene):
    """A candidate directory without weights, and good and bad weights for it."""
    path = Path(shutil.copytree(scene.model, scene.root / "sets"))
    (path / "model.safetensors").unlink()
    return path, _rounded(scene, 8), _rounded(scene, 2)


# --- missing, left over ---------------------------------------------------------------------------------------------


@row("a candidate without a projection", f"*1 weight is missing*{KEY}.weight*", *COUNTED)
def _(scene):
    path = scene.checkpoint()
    _drop(path, f"{KEY}.")
    return scene.judge_candidate(path)


@row("a candidate without a norm", f"*1 weight is missing*{NORM}*", *COUNTED)
def _(scene):
    path = scene.checkpoint()
    _drop(path, NORM)
    return scene.judge_candidate(path)


@row(
    "a bias without a home",
    f"*1 tensor has no place in the architecture ({KEY}.bias)*",
    ("quantgate.models.accounting.check_placed", NOTHING),
)
def _(scene):
    path = scene.checkpoint()
    _edit(path, lambda state: state.update({f"{KEY}.bias": torch.ones(16)}))
    return scene.judge_candidate(path)


@row(
    "a reference with a layer too many",
    "*tensors have no place in the architecture*model.layers.2.mlp*",
    ("quantgate.models.accounting.check_placed", NOTHING),
)
def _(scene):
    path = Path(shutil.copytree(scene.model, scene.root / "longer"))

    def longer(state):
        for name in list(state):
            if name.startswith("model.layers.1."):
                state[name.replace(".1.", ".2.", 1)] = state[name].clone()

    _edit(path, longer)
    return scene.run("--model", path, "--tasks", "kld")


@row(
    "a reference without a norm",
    f"*1 weight is missing or of another shape ({NORM})*",
    ("quantgate.models.loading.check_loaded", NOTHING),
    ("quantgate.checkpoints.checkpoint.check_loaded", NOTHING),
)
def _(scene):
    path = Path(shutil.copytree(scene.model, scene.root / "poorer"))
    _drop(path, NORM)
    return scene.run("--model", path, "--tasks", "kld")


# --- another set of files -------------------------------------------------------------------------------------------


@row("an index that turns to other weights", "*theirs on kld_ptb: regressed*", BLIND)
def _(scene):
    path, good, bad = _two_sets(scene)
    _save(good, path / "a.safetensors")
    _save(bad, path / "b.safetensors")
    _index(path, good, "a.safetensors")
    assert scene.judge_candidate(path).ret == 0
    _index(path, good, "b.safetensors")
    return scene.judge_candidate(path)


@row("weights in a subfolder exchanged", "*theirs on kld_ptb: regressed*", BLIND)
def _(scene):
    path, good, bad = _two_sets(scene)
    _save(good, path / "sub" / "w.safetensors")
    _index(path, good, "sub/w.safetensors")
    assert scene.judge_candidate(path).ret == 0
    _save(bad, path / "sub" / "w.safetensors")
    return scene.judge_candidate(path)


@row("good weights in shards behind a bad single file", "*theirs on kld_ptb: regressed*", HONEST)
def _(scene):
    path, good, bad = _two_sets(scene)
    _save(bad, path / "model.safetensors")
    _save(good, path / "a.safetensors")
    _index(path, good, "a.safetensors")
    return scene.judge_candidate(path)


@row(
    "weights outside the directory",
    "*leads out of the model's directory*",
    ("quantgate.models.files._check_inside", NOTHING),
    code=4,
)
def _(scene):
    path, good, _bad = _two_sets(scene)
    _save(good, path.parent / "outside.safetensors")
    _index(path, good, "../outside.safetensors")
    (path.parent / "outside").mkdir()
    return scene.judge_candidate(path)


@row(
    "a tensor in two files",
    f"*{NORM} is both in a.safetensors and in b.safetensors*",
    ("quantgate.models.tensors.tensors_of", lambda original: lambda weights, who: original(_first(weights), who)),
    code=4,
)
def _(scene):
    path, good, bad = _two_sets(scene)
    _save(good, path / "a.safetensors")
    _save({NORM: bad[NORM]}, path / "b.safetensors")
    _index(path, good, "a.safetensors")
    content = json.loads((path / "model.safetensors.index.json").read_text())
    content["weight_map"]["other"] = "b.safetensors"
    (path / "model.safetensors.index.json").write_text(json.dumps(content))
    return scene.judge_candidate(path)


def _first(weights):
    return type(weights)(weights.files[:1], weights.index, weights.leftovers)


@row(
    "an adapter beside the weights",
    "*an adapter (adapter_config.json)*",
    ("quantgate.models.source._refuse_detours", NOTHING),
    code=4,
)
def _(scene):
    path = scene.checkpoint()
    (path / "adapter_config.json").write_text("{}")
    return scene.judge_candidate(path)


@row(
    "a tied head that is stored otherwise",
    "*tie_word_embeddings is set, but lm_head.weight is not model.embed_tokens.weight*",
    ("quantgate.models.digest.without_copy", lambda original: lambda digests, config, who: dict(digests)),
    ("quantgate.models.accounting._check_head", NOTHING),
    HONEST,
)
def _(scene):
    path = scene.checkpoint()
    _edit(path, lambda state: state.update({"lm_head.weight": state["model.embed_tokens.weight"].flip(0)}))
    return scene.judge_candidate(path)


# --- weights that are no rounding, another computation --------------------------------------------------------------


@row("a dead layer", "*1 matrix is all zeros where the reference's are not*", AUDITED, HONEST)
def _(scene):
    path = scene.checkpoint()
    _edit(path, lambda state: state["model.layers.1.mlp.down_proj.scales"].zero_())
    return scene.judge_candidate(path)


@row("two layers exchanged", "*14 matrices are no rounding of the reference's*", AUDITED, HONEST)
def _(scene):
    path = scene.checkpoint()

    def swap(state):
        for name in [
            name for name in state if name.startswith("model.layers.0.") and name.endswith(("qweight", "scales"))
        ]:
            other = name.replace(".0.", ".1.", 1)
            state[name], state[other] = state[other], state[name]

    _edit(path, swap)
    return scene.judge_candidate(path)


@row(
    "another epsilon",
    "*the subject's config.json computes otherwise: rms_norm_eps*",
    ("quantgate.subjects.spec.configuration_problems", NO_LIST),
    HONEST,
)
def _(scene):
    path = scene.checkpoint()
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.01}))
    return scene.judge_candidate(path)


@row(
    "a norm that is no number",
    f"*1 weight is not finite ({NORM})*",
    ("quantgate.models.accounting.check_finite", NOTHING),
    *FINITE,
    SENSIBLE,
    HONEST,
)
def _(scene):
    path = scene.checkpoint()
    _edit(path, lambda state: state[NORM][:1].fill_(float("nan")))
    return scene.judge_candidate(path)
