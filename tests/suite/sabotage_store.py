"""Ways to a false green with the store and with files that change during the run: answers under another's name."""

import hashlib
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from quantgate.store import journal
from tests.suite.sabotage_files import _rounded, _save
from tests.suite.sabotage_scene import NOTHING, row

UNWATCHED = (
    ("quantgate.subjects.subject.check_unchanged", NOTHING),
    ("quantgate.models.source.check_unchanged", NOTHING),
)
ANYBODYS = ("quantgate.store.journal._checksum", lambda original: lambda body, key: original(body, ""))
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


@row(
    "better weights beside a worse method's record", "*holds a model of * bytes; expected *, as its record*", UNRECORDED
)
def _(scene):
    good, bad = _subject(scene, "rtn8"), _subject(scene, "rtn2")
    for name in ("model.safetensors", "config.json", "quantize_config.json"):
        shutil.copy(good / name, bad / name)
    _reseal(bad)
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
    _swapped_before(scene, "quantgate.runs.evaluation.load_reference", path, other)
    return scene.run("--model", path, "--tasks", "kld", *_unasked(scene))
