"""Ways to a false green with the rows of other packages: engines and benchmarks (what a row is: ``sabotage``)."""

from dataclasses import replace

from quantgate.core import registry
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import ACCURACY
from quantgate.core.requests import Likelihood, LikelihoodResponse, RollingResponse
from quantgate.engines.torch.row import TorchRow
from quantgate.tasks.table import TASKS
from tests.suite.sabotage_scene import NO_WORDS, NOTHING, row

ENGINE = ("--engine", "theirs", "--tasks", "kld,perplexity", "--methods", "rtn2")
BELIEVED = ("quantgate.runs.answers.flaw", NO_WORDS)
DEPENDING = ("quantgate.runs.scoring.check_depends", NOTHING)
ASKING = (
    "quantgate.runs.asked.requests_of",
    lambda original: lambda task, item, prompts: task.requests(item, prompts),
)


class Flattering(TorchRow):
    """Tells of a subject what ``better`` makes of its answers."""

    name = "theirs"

    def __init__(self, better):
        self.better = better

    def open(self, weights, tokenizer, setting):
        row, engine = self, super().open(weights, tokenizer, setting)

        class Opened:
            def run(self, requests, sink, job):
                def told(index, response):
                    flattered = weights.name != "reference" and isinstance(response, RollingResponse)
                    sink(index, row.better(response) if flattered else response)

                return engine.run(requests, told, job)

        return Opened()


def flattered(scene, better):
    engine = Flattering(better)
    scene.monkeypatch.setattr(
        registry, "installed", lambda group: [("theirs", engine)] if group == "quantgate.engines" else []
    )
    return scene.run(*ENGINE)


@row("an engine that tells distances below 0", "*has a mean kld below 0; expected a distance*", BELIEVED)
def _(scene):
    return flattered(scene, lambda each: replace(each, kld=tuple(-1 - value for value in each.kld)))


@row("an engine that tells losses below 0", "*has a loss below 0; expected a probability of 1 at most*", BELIEVED)
def _(scene):
    scene.policy.write_text(scene.policy.read_text().replace("absolute = 0.00002", "absolute = 5.0"))
    return flattered(scene, lambda each: replace(each, nll=tuple(-value for value in each.nll)))


@row("an engine that answers the first word of a text", "*has 1 values of nll; expected 511*", BELIEVED)
def _(scene):
    scene.policy.write_text(scene.policy.read_text().replace("absolute = 0.00002", "absolute = 5.0"))
    one = ("kld", "same_top", "kld_bound")

    def better(each):
        return replace(each, nll=(min(each.nll) - 1,), **{name: getattr(each, name)[:1] for name in one})

    return flattered(scene, better)


class Theirs:
    """A benchmark of two options, by which numbers above 7 are better known than others."""

    id, dimension, protocol, version, metric, chance = "theirs", "knowledge", "two options", 1, ACCURACY, 0.01

    def items(self, data, selection, prompts):
        return [Item(f"theirs/test/{n}", str(n), {"number": n}) for n in range(80)]

    def requests(self, item, prompts):
        context = prompts.encode(f"The number {item.row['number']} is")
        return [Likelihood(context, prompts.encode(word)) for word in (" even", " odd")]

    def score(self, item, responses):
        even, odd = (each.logprob for each in responses if isinstance(each, LikelihoodResponse))
        right = (odd > even) == bool(item.row["number"] % 2)
        return ItemOutcome(item.id, item.group, float(right), str(odd > even))


class Silent(Theirs):
    """Asks nothing and is content."""

    def requests(self, item, prompts):
        return []

    def score(self, item, responses):
        return ItemOutcome(item.id, item.group, 1.0, "yes")


class Content(Theirs):
    """Asks, and is content with any answer."""

    def score(self, item, responses):
        return ItemOutcome(item.id, item.group, 1.0, super().score(item, responses).answer)


def asked(scene, task):
    scene.monkeypatch.setitem(TASKS, "theirs", task)
    return scene.run("--tasks", "theirs", "--methods", "rtn2")


@row("a benchmark that asks nothing", "*task theirs: it asks nothing about item theirs/test/0*", ASKING)
def _(scene):
    return asked(scene, Silent())


@row("a benchmark that is content with any answer", "*its scores are the same whatever is answered*", DEPENDING)
def _(scene):
    return asked(scene, Content())


@row(
    "a benchmark that calls chance less than a guess",
    "*the reference itself is at chance*chance 50.0%*",
    ("quantgate.runs.questions.guessing", NOTHING),
)
def _(scene):
    return asked(scene, Theirs())
