"""Ways to a false green with data that cannot tell, and with answers that do not count (a row: ``sabotage``)."""

import json
from dataclasses import replace

from quantgate.runs.scoring import Scoring
from tests.suite.sabotage_scene import NO_WORDS, NOTHING, SENSIBLE, USABLE, row

CHANCE = ("quantgate.verdict.judge._hopeless", NO_WORDS)
UNIQUE = ("quantgate.runs.asked.check_unique", NOTHING)
LEFT_OUT = ("quantgate.verdict.paired.at_worst", lambda original: lambda before, after, metric: after)
FEW_MISSING = "[metrics.acc]\nmax_unscored = 0.5"


def _rewrite(scene, change):
    """The questions as ``change`` makes them of (number, row)."""
    path = scene.data / "truthfulqa__truthful_qa" / "multiple_choice" / "validation.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(number, each)) + "\n" for number, each in enumerate(rows)))
    return scene.run("--tasks", "truthfulqa")


def _with_choices(each, choices, right=0):
    targets = {"choices": list(choices), "labels": [int(place == right) for place in range(len(choices))]}
    return each | {"mc1_targets": targets, "mc2_targets": targets}


def _dressed(number, each):
    question, of = f"Is {number % 8} a number?", number % 8
    dress = (str.upper, str.title, lambda text: text.replace(" ", "  "), lambda text: f"\u201c{text}\u201d !")
    dressed = dress[number // 8 % 4](question) + " " * (number // 32)
    return _with_choices(each | {"question": dressed}, [f"Yes, {of}.", f"No, {of}."])


@row("items copied in another dress", "*72 of 80 items ask the same as another*", UNIQUE)
def _(scene):
    return _rewrite(scene, _dressed)


@row("gold that is always the same", "*the reference itself is at chance*", CHANCE, SENSIBLE)
def _(scene):
    return _rewrite(scene, lambda number, each: _with_choices(each, ["It is so.", f"It is {number}."]))


@row("gold that is mostly the same", "*the reference itself is at chance*", CHANCE, SENSIBLE)
def _(scene):
    """A reference that always says "It is so." is right in six of ten."""

    def change(number, each):
        choices = ["It is so.", f"It is not {number} of them at all, however one counts."]
        return _with_choices(each, choices, int(number % 5 > 2))

    return _rewrite(scene, change)


def _answers_missing(scene, task, which):
    """The subject alone has no score where ``which`` says so."""
    score = Scoring.score

    def broken(self, ask):
        found = score(self, ask)
        if ask.weights.name == "reference":
            return found
        outcomes = [
            replace(each, score=None, unscored="nothing came back", companions={}) if which(each, place) else each
            for place, each in enumerate(found.outcomes)
        ]
        return replace(found, outcomes=outcomes)

    scene.monkeypatch.setattr(Scoring, "score", broken)
    scene.policy.write_text(scene.policy.read_text().replace("[metrics.acc]", FEW_MISSING))
    return scene.run("--tasks", task)


@row("answers missing where the subject is wrong", "*counted as lost:*", LEFT_OUT, USABLE)
def _(scene):
    return _answers_missing(scene, "truthfulqa", lambda each, place: each.score == 1 and place % 2)


@row("a segment that only the subject cannot read", "*have a score of the reference alone*", USABLE)
def _(scene):
    text = scene.policy.read_text().replace("[metrics.ppl]", "[metrics.ppl]\nmax_unscored = 0.5")
    scene.policy.write_text(text)
    return _answers_missing(scene, "perplexity", lambda each, place: place == 0)


@row("a subject of equal probabilities", "*regressed*", ("quantgate.tasks.choices._TIE", lambda original: -1.0))
def _(scene):
    """Every option is as likely as every other, and the right one stands first."""
    from quantgate.checkpoints import checkpoint

    load = checkpoint.load_quantized

    def flat(*args, **kwargs):
        model = load(*args, **kwargs)
        model.model.norm.weight.data.zero_()
        return model

    scene.monkeypatch.setattr(checkpoint, "load_quantized", flat)
    return scene.run("--tasks", "truthfulqa")


@row(
    "calibration on what is tested with words changed",
    "*it has text in common with * tested items*",
    ("quantgate.runs.questions.check_disjoint", NOTHING),
)
def _(scene):
    folder = scene.data / "ptb-text-only__ptb_text_only" / "penn_treebank"
    lines = (folder / "test.jsonl").read_text().splitlines()
    words = " ".join(json.loads(line)["sentence"] for line in lines).split(" ")
    words[30::30] = ["other"] * len(words[30::30])
    scene.write_jsonl(
        scene.data, "ptb-text-only/ptb_text_only", "penn_treebank", "train", [{"sentence": " ".join(words)}]
    )
    return scene.run("--methods", "gptq8", "--tasks", "perplexity", "--calibration-length", "256")
