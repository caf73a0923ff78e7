"""Every task of the table over bundled items, its answers scripted: no item is lost, none is invented."""

import json
import math

import pytest

from quantgate.core.progress import Silent
from quantgate.core.requests import Generate, GenerateResponse, Likelihood, LikelihoodResponse, RollingResponse
from quantgate.engines.mock import MockRow
from quantgate.engines.protocol import Capabilities
from quantgate.quantize.calibration.sources import CalibrationChoice
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.runs.evaluation import Evaluation
from quantgate.runs.options import Options, Sources
from quantgate.store.store import Store
from quantgate.tasks.base import Placed, Selection
from quantgate.tasks.data import BUNDLED_DATA, DirectorySource
from quantgate.tasks.table import TASKS
from quantgate.verdict.policy_file import load_policy
from tests.conftest import make_model_dir

BUNDLED = DirectorySource(BUNDLED_DATA, "bundled")
LIMIT = 3


def bundled_tasks():
    def at_hand(task):
        return task.has_rows(BUNDLED) if isinstance(task, Placed) else BUNDLED.has(task.dataset or "none")

    return [name for name, task in TASKS.items() if at_hand(task)]


def answer(model, request):
    """Something of the right kind that depends on what is asked."""
    if isinstance(request, Likelihood):
        return LikelihoodResponse(-1.0 - sum(request.continuation) % 89, len(request.continuation), False)
    if isinstance(request, Generate):
        return GenerateResponse(f"The answer is {sum(request.prompt) % 7}. (B)", 8, "length")
    losses = tuple(1.0 + token % 5 for token in request.tokens[1:])
    if model == "reference":
        return RollingResponse(losses, (0.0,) * len(losses), (1,) * len(losses), (0.0,) * len(losses))
    return RollingResponse(losses, (0.1,) * len(losses), (1,) * len(losses), (0.05,) * len(losses))


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """All bundled benchmarks, of a byte-level model with room for five-shot prompts."""
    root = tmp_path_factory.mktemp("all")
    model = make_model_dir(root / "model", layers=1)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    (model / "generation_config.json").write_text(json.dumps({"do_sample": True, "top_p": 0.8}))
    return Evaluation(
        Options(model=str(model), selection=Selection(limit=LIMIT), calibration=CalibrationChoice()),
        [TASKS[name] for name in bundled_tasks()],
        Sources(BUNDLED, BUNDLED),
        Store(root / "store", Silent()),
        load_policy(None),
        root / "baselines",
        MockRow(answer, Capabilities(likelihood=True, losses=True, distributions=True, generate=True, sample=True)),
    )


def test_all_ten_benchmarks_are_bundled():
    datasets = {TASKS[name].dataset for name in bundled_tasks()}
    assert {name.split("/")[1] for name in datasets} >= {
        "mmlu", "ceval-exam", "cmmlu", "flores", "cnn_dailymail", "xsum", "gsm8k", "snli", "FollowBench",
        "truthful_qa", "bbq",
    }  # fmt: skip


@pytest.mark.parametrize("name", bundled_tasks())
def test_scored_and_unscored_make_up_the_selection(evaluation, name):
    result = evaluation.result(METHODS["rtn8"], TASKS[name])
    assert result.n_items + sum(result.unscored.values()) == LIMIT
    assert result.n_items == 0 or math.isfinite(result.value)
    if "followbench" in name:
        assert all("no judge" in reason for reason in result.unscored)
    else:
        assert result.unscored == {}


@pytest.mark.parametrize("name", bundled_tasks())
def test_shots_are_never_among_the_items(name, tokenizer):
    """The leak test: no few-shot example has the text of a row that is scored."""
    from quantgate.tasks.prompts import Prompts

    items = TASKS[name].items(BUNDLED, Selection(), Prompts(tokenizer, 8192, "tiny"))
    asked = {json.dumps(dict(item.row), sort_keys=True) for item in items}
    assert len({item.id for item in items}) == len(items)
    assert not asked & {json.dumps(dict(shot), sort_keys=True) for item in items for shot in item.shots}
