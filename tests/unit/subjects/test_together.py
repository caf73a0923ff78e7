"""A study of several sets costs one pass over the 16-bit model a set for all methods that share, one scoring a test."""

from collections import Counter

import pytest

from quantgate.core.progress import Silent
from quantgate.core.requests import Generate, GenerateResponse, LikelihoodResponse
from quantgate.engines.mock import MockRow
from quantgate.engines.protocol import Capabilities
from quantgate.quantize.calibration.sources import CalibrationChoice
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.quantize.sweep import driver
from quantgate.runs.evaluation import Evaluation
from quantgate.runs.options import Options, Planned, Sources
from quantgate.store.store import Store
from quantgate.subjects import make
from quantgate.subjects.spec import SubjectSpec
from quantgate.subjects.subject import Workshop, make_subject
from quantgate.subjects.together import shares
from quantgate.tasks.base import Selection
from quantgate.tasks.data import BUNDLED_DATA, DirectorySource
from quantgate.tasks.table import TASKS
from quantgate.verdict.policy_file import load_policy
from tests.conftest import make_model_dir

BUNDLED = DirectorySource(BUNDLED_DATA, "bundled")
TESTS = ("truthfulqa", "truthfulqa_mc1", "mmlu_cloze", "snli")
METHOD_IDS = ("awq4", "smoothquant8", "gptq-float-w4")


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A study of 4 sets, 4 tests and 3 methods; counts calibration passes, loads and what the reference is asked."""
    seen = Counter()

    def answer(model, request):
        seen[model if model == "reference" else "subject"] += 1
        if isinstance(request, Generate):
            return GenerateResponse(f"yes {sum(request.prompt) % 7}", 2, "stop")
        return LikelihoodResponse(-1.0 - sum(request.continuation) % 89, len(request.continuation), False)

    def counting(module, name):
        original = getattr(module, name)

        def call(*args, **kwargs):
            seen[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    counting(driver, "batches_of")
    counting(make, "load_for_quantizing")
    sets = [CalibrationChoice("random", 2, 16, seed) for seed in (1, 2, 3, 4)]
    specs = tuple(SubjectSpec(METHODS[name], choice) for name in METHOD_IDS for choice in sets)
    tasks = tuple(TASKS[name] for name in TESTS)

    def evaluation():
        return Evaluation(
            Options(model=str(model), selection=Selection(3)),
            Planned(tasks, specs),
            Sources(BUNDLED, BUNDLED),
            Store(tmp_path / "store", Silent()),
            load_policy(None),
            tmp_path / "baselines",
            MockRow(answer, Capabilities(likelihood=True, generate=True)),
        )

    model = make_model_dir(tmp_path / "model", layers=1)
    return evaluation, specs, tasks, seen


def test_the_cost_of_a_study_is_one_pass_a_set_and_one_reference_scoring_a_test(counted):
    make_evaluation, specs, tasks, seen = counted
    study = make_evaluation()
    results = [study.result(spec, task) for spec in specs for task in tasks]
    assert len({result.key for result in results}) == 48
    assert seen["batches_of"] == 4
    assert seen["load_for_quantizing"] == 4
    # requests that the reference answers: every test once, and once more for the noise of two runs
    asked = sum(len(study.asked(task).requests) for task in tasks)
    assert seen["reference"] == 2 * asked
    before = Counter(seen)
    again = make_evaluation()
    assert [again.result(spec, task).value for spec in specs for task in tasks] == [each.value for each in results]
    assert seen == before  # a study that is resumed computes nothing twice


def test_made_together_or_alone_it_is_the_same_model(counted, tmp_path):
    make_evaluation, specs, _, _ = counted
    together = {spec.id: make_evaluation().subject(spec).weights for spec in specs[::4]}
    store = Store(tmp_path / "other", Silent())
    study = make_evaluation()
    for spec in specs[::4]:
        alone = make_subject(study.model, spec.method, study.questions.calibration(spec.calibration), Workshop(store))
        assert alone.weights == together[spec.id]


def test_only_methods_that_read_the_16_bit_models_inputs_share():
    assert [name for name in (*METHOD_IDS, "gptq4", "spqr4", "rtn4") if shares(METHODS[name])] == list(METHOD_IDS)
