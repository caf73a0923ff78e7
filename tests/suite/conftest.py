"""Runs the suite itself, as a user would, on a tiny random model and a tiny data directory."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest

import tests.suite.imported  # noqa: F401
from quantgate.store import baselines
from tests.suite.warm import Warm

ROOT = Path(__file__).resolve().parents[2]
POLICY = """
schema = 1
[metrics.ppl]
margin = { relative = 0.05 }
min_items = 4
stake = 0.0  # eight segments are enough for these runs; what they could not show is tested elsewhere
[metrics.kld_mean]
margin = { absolute = 0.05 }
min_items = 4
stake = 0.0
[metrics.acc]
margin = { absolute = 0.1 }
min_items = 4
[metrics.exact_match]
margin = { absolute = 0.1 }
min_items = 4
"""


def sentences(seed, count):
    generator = random.Random(seed)
    words = (
        "the",
        "sea",
        "ship",
        "sails",
        "north",
        "wind",
        "calm",
        "stone",
        "river",
        "old",
        "light",
        "moves",
        "bridge",
    )
    return [" ".join(generator.choice(words) for _ in range(12)) for _ in range(count)]


@pytest.fixture
def data_dir(tmp_path, write_jsonl):
    """PTB text (about 8 segments of 512 bytes) and six TruthfulQA questions."""
    root = tmp_path / "data"
    rows = [{"sentence": text} for text in sentences(1, 70)]
    write_jsonl(root, "ptb-text-only/ptb_text_only", "penn_treebank", "test", rows)
    write_jsonl(
        root, "ptb-text-only/ptb_text_only", "penn_treebank", "train", [{"sentence": t} for t in sentences(2, 90)]
    )
    choices = ["Yes it is.", "No it is not."]
    targets = [{"choices": choices[:: 1 if n % 2 else -1], "labels": [1, 0]} for n in range(6)]  # guessing gets half
    questions = [
        {"question": f"Is {n} a number?", "mc1_targets": targets[n], "mc2_targets": targets[n]} for n in range(6)
    ]
    write_jsonl(root, "truthfulqa/truthful_qa", "multiple_choice", "validation", questions)
    return root


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def keep_the_reference(store):
    """Take out of ``store`` all that is not an answer of the reference, which alone is asked again for the noise."""
    keys = {
        path.parent: json.loads(json.loads(path.read_text())["key"]) for path in store.glob("responses/*/entry.json")
    }
    reference = {key["weights"] for key in keys.values() if "alone" in key["engine"]}
    assert len(reference) == 1
    for folder in [path for path, key in keys.items() if key["weights"] not in reference]:
        shutil.rmtree(folder)
    for folder in [path for path in store.iterdir() if path.name != "responses"]:
        shutil.rmtree(folder)


class Gate:
    """One command line of the suite; ``run`` adds arguments and returns pytester's result."""

    def __init__(self, pytester, base, request):
        self.pytester, self.base, self.request = pytester, base, request

    @property
    def warm(self):
        """Runs pytest in a process that may be killed, with what is slow to import imported already."""
        return self.request.getfixturevalue("warm")

    def arguments(self, *more):
        given = {argument for argument in more if str(argument).startswith("--")}
        pairs = [(name, value) for name, value in self.base.items() if name not in given]
        return [ROOT / "evals", "-p", "no:cacheprovider", *[part for pair in pairs for part in pair], *more]

    def run(self, *more):
        return self.pytester.runpytest_inprocess(*self.arguments(*more))

    def stock(self, seed):
        """Start from a copy of ``seed``, a store with the reference's answers to all that the data asks; filled first
        if it is not there. It saves every run the reference, and nothing of the subject.
        """
        if not seed.exists():
            part = seed.with_name("part")
            aside = ("--store", part / "store", "--baselines", part / "baselines", "--report-dir", part / "report")
            result = self.run("--tasks", "kld,perplexity,truthfulqa", "--update-baselines", *aside)
            assert len(list((part / "baselines").rglob("*.json"))) == 3, result.stdout.str()
            keep_the_reference(part / "store")
            (part / "store").rename(seed)
        shutil.copytree(seed, self.base["--store"])

    def subprocess(self, *more):
        return self.pytester.runpytest_subprocess(*self.arguments(*more))

    @property
    def report(self):
        return json.loads((Path(self.base["--report-dir"]) / "report.json").read_text())

    def verdicts(self):
        return {f"{each['method']}-{each['task']}": each["verdict"] for each in self.report["results"]}


@pytest.fixture
def edit_baseline(tmp_path):
    """Rewrites the stored baseline of a task as ``change`` says, with a good seal."""

    def edit(change, task="perplexity_ptb"):
        [path] = (tmp_path / "baselines").rglob(f"{task}.json")
        baselines.write(path, change(baselines.read(path)))

    return edit


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    found = Warm(tmp_path_factory.mktemp("warm"))
    yield found
    found.close()


@pytest.fixture
def gate(pytester, tmp_path, tiny_model, data_dir, policy, monkeypatch, request):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nobody pulls the plug here, and a disk takes its time
    monkeypatch.setenv("COLUMNS", "160")  # the tables are read with all columns, whatever terminal runs the tests
    base = {
        "--model": tiny_model,
        "--data": data_dir,
        "--policy": policy,
        "--store": tmp_path / "store",
        "--baselines": tmp_path / "baselines",
        "--report-dir": tmp_path / "report",
        "--calibration": "ptb",
        "--calibration-samples": "8",
        "--calibration-length": "64",
        "--tasks": "perplexity",
        "--methods": "rtn8",
    }
    return Gate(pytester, base, request)
