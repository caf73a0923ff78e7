"""Ways to a false green with the store and with files that change during the run: answers under another's name."""

import hashlib
import importlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from quantgate.store import journal
from tests.suite.sabotage_files import _edit, _rounded, _save
from tests.suite.sabotage_scene import ANYBODYS, HONEST, NOTHING, UNBOUND, row

UNWATCHED = (
    ("quantgate.subjects.subject.check_unchanged", NOTHING),
    ("quantgate.models.source.check_unchanged", NOTHING),
)
RTN2 = ("--tasks", "kld", "--methods", "rtn2")


def _unasked(scene):
    """A store without answers: what is kept already is neither loaded nor asked."""
    return ("--store", scene.root / "unasked")


def _reseal(entry):
    """A good seal for whatever lies in the entry: anybody can make one."""
    content = json.loads((entry / "entry.json").read_text())
    files = [file for file in entry.iterdir() if file.name != "entry.json"]
    content["files"] = {
        file.name: {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in files
    }
    (entry / "entry.json").write_text(json.dumps(content))


# --- answers of another model ---------------------------------------------------------------------------------------


@row("a better model's answers under a good seal", "*8 of 8 answers of rtn2 on kld_ptb cannot be read*", ANYBODYS)
def _(scene):
    shutil.rmtree(scene.root / "store")  # answers that were sealed with the guard in order would be damaged without it
    good, bad = scene.answers("rtn8"), scene.answers("rtn2")
    shutil.copy(good / "responses.jsonl", bad / "responses.jsonl")
    _reseal(bad)
    return scene.run(*RTN2)


@row("a better model's journal", "*8 damaged lines are asked again*rtn2 on kld_ptb: regressed*", ANYBODYS)
def _(scene):
    shutil.rmtree(scene.root / "store")  # answers that were sealed with the guard in order would be damaged without it
    good, bad = scene.answers("rtn8"), scene.answers("rtn2")
    shutil.copy(good / "responses.jsonl", scene.root / "store" / "journals" / f"{bad.name}.jsonl")
    shutil.rmtree(bad)
    return scene.run(*RTN2)


# --- a subject of another method ------------------------------------------------------------------------------------

UNRECORDED = ("quantgate.subjects.subject.check_record", NOTHING)


def _subject(scene, method):
    scene.run("--methods", method, "--tasks", "kld")
    for entry in (scene.root / "store" / "subjects").iterdir():
        if json.loads((entry / "quantgate.json").read_text())["method"]["method"] == method:
            return entry
    raise LookupError(method)


@row("a checkpoint of another method under a good seal", "*holds a checkpoint of 'rtn8'; expected 'rtn2'*", UNRECORDED)
def _(scene):
    good, bad = _subject(scene, "rtn8"), _subject(scene, "rtn2")
    for file in good.iterdir():
        if file.name != "entry.json":
            shutil.copy(file, bad / file.name)
    _reseal(bad)
    return scene.run(*RTN2)


@row("better weights beside a worse method's record", "*its record says bits_effective *; expected *", UNRECORDED)
def _(scene):
    good, bad = _subject(scene, "rtn8"), _subject(scene, "rtn2")
    for name in ("model.safetensors", "config.json", "quantize_config.json"):
        shutil.copy(good / name, bad / name)
    _reseal(bad)
    return scene.run(*RTN2)


def _edited_record(scene, **changes):
    entry = _subject(scene, "rtn8")
    record = json.loads((entry / "quantgate.json").read_text())
    (entry / "quantgate.json").write_text(json.dumps(record | changes))
    _reseal(entry)
    return scene.run("--methods", "rtn8", "--tasks", "kld")


@row("bits lowered in a subject's record", "*its record says bits_effective 1.5; expected *", UNRECORDED)
def _(scene):
    return _edited_record(scene, bits_effective=1.5)


@row("a record that names another calibration", "*its record says calibration *; expected null*", UNRECORDED)
def _(scene):
    return _edited_record(scene, calibration={"name": "dialogues", "n_tokens": 23608})


@row("a layer left out of the record", "*its record says nothing of model.layers.1*", UNRECORDED)
def _(scene):
    entry = _subject(scene, "rtn8")
    modules = json.loads((entry / "quantgate.json").read_text())["quantized_modules"]
    return _edited_record(scene, quantized_modules=[name for name in modules if ".layers.0." in name])


# --- what an audit found, and what is kept of the reference ---------------------------------------------------------

UNSUMMED = ("quantgate.engines.torch.kept._checksum", lambda original: lambda tensors, path, key, notes: "")


def _audit(scene, name, bad):
    """The store's entries with a file ``name`` that complains (``bad``) or does not."""
    found = scene.root.glob(f"store/audits/*/{name}")
    return [path for path in found if bool(_complaint(json.loads(path.read_text())["content"])) == bad]


def _complaint(content):
    return content.get("unchanged") or [each for each in content.get("findings", ()) if each["level"] == "error"]


@row("another subject's audit under a good seal", "*audit.json cannot be read (it was edited, or belongs to*", UNBOUND)
def _(scene):
    scene.run("--methods", "rtn4", "--tasks", "truthfulqa")
    checkpoint = importlib.import_module("quantgate.checkpoints.checkpoint")
    write = checkpoint.write

    def lazily(source, target, quantized, *others):
        return write(source, target, {name: each for name, each in quantized.items() if ".layers.0." in name}, *others)

    scene.monkeypatch.setattr(checkpoint, "write", lazily)
    assert scene.run("--methods", "rtn8", "--tasks", "truthfulqa").ret == 1
    [good], [bad] = (_audit(scene, "audit.json", each) for each in (False, True))
    shutil.copy(good, bad)
    _reseal(bad.parent)
    return scene.run("--methods", "rtn8", "--tasks", "truthfulqa")


@row(
    "another candidate's audit under a good seal",
    "*problems.json cannot be read (it was edited, or belongs to*",
    UNBOUND,
    HONEST,
)
def _(scene):
    path = scene.checkpoint()
    scene.judge_candidate(path)
    _edit(path, lambda state: state["model.layers.1.mlp.down_proj.scales"].zero_())
    scene.judge_candidate(path)
    [good], [bad] = (_audit(scene, "problems.json", each) for each in (False, True))
    shutil.copy(good, bad)
    _reseal(bad.parent)
    return scene.judge_candidate(path)


def _kept(scene):
    """The entries with what is kept of a reference's probabilities."""
    return {path.parent for path in scene.root.glob("store/responses/*/000000.safetensors")}


@row(
    "another reference's probabilities under a good seal",
    "*.safetensors: cannot be read (it was edited, or belongs to another request or entry)*",
    UNSUMMED,
)
def _(scene):
    shutil.rmtree(scene.root / "store")  # files that were tied with the guard in order would be foreign without it
    bad = scene.answers("rtn2")
    [mine] = _kept(scene)
    [subject] = [path for path in scene.root.glob("store/subjects/*") if path.is_dir()]
    checkpoint = importlib.import_module("quantgate.checkpoints.checkpoint")
    config = json.loads((subject / "config.json").read_text())["quantization_config"]
    plain, layers = checkpoint.read_layers(subject, config)
    coarse = {f"{name}.weight": layer.dequantize(torch.bfloat16) for name, layer in layers.items()}
    plain["model.norm.weight"][0] *= 1.01  # an exact copy of the subject would be found out by that
    other = Path(shutil.copytree(scene.model, scene.root / "coarse"))
    _save(plain | coarse, other / "model.safetensors")
    scene.run("--model", other, "--tasks", "kld", "--methods", "rtn8", "--baselines", scene.root / "none")
    [foreign] = _kept(scene) - {mine}
    for file in foreign.glob("*.safetensors"):
        shutil.copy(file, mine / file.name)
    _reseal(mine)
    shutil.rmtree(bad)
    return scene.run(*RTN2)


@row("a tokenizer exchanged during the run", "*its files changed during the run (tokenizer_config.json)*", *UNWATCHED)
def _(scene):
    path = Path(shutil.copytree(scene.model, scene.root / "swapped"))
    original = journal.Journal.add

    def add(self, index, response):
        with (path / "tokenizer_config.json").open("a") as file:
            file.write(" ")
        original(self, index, response)

    scene.monkeypatch.setattr(journal.Journal, "add", add)
    return scene.run("--model", path, "--tasks", "kld", *_unasked(scene))


# --- files that change between the digest and the load --------------------------------------------------------------


def _swapped_before(scene, name, path, state):
    """From now on the weights at ``path`` are replaced by ``state`` just before the function ``name`` loads them."""
    owner, _, attribute = name.rpartition(".")
    module = __import__(owner, fromlist=[attribute])
    original = getattr(module, attribute)

    def load(*args, **kwargs):
        save_file(state, path / "new.safetensors", metadata={"format": "pt"})
        (path / "new.safetensors").replace(path / "model.safetensors")
        return original(*args, **kwargs)

    scene.monkeypatch.setattr(name, load)


@row("weights exchanged between digest and load", "*its files changed during the run (model.safetensors)*", *UNWATCHED)
def _(scene):
    path = Path(shutil.copytree(scene.model, scene.root / "swapped"))
    _save(_rounded(scene, 2), path / "model.safetensors")
    _swapped_before(scene, "quantgate.subjects.candidates.load_candidate", path, _rounded(scene, 8))
    return scene.judge_candidate(path, *_unasked(scene))


@row("a reference exchanged before it is loaded", "*its files changed during the run (model.safetensors)*", *UNWATCHED)
def _(scene):
    path = Path(shutil.copytree(scene.model, scene.root / "swapped"))
    other = {name: tensor.roll(1, 0) for name, tensor in load_file(path / "model.safetensors").items()}
    _swapped_before(scene, "quantgate.models.source.load_reference", path, other)
    return scene.run("--model", path, "--tasks", "kld", *_unasked(scene))
