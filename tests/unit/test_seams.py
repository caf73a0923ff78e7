"""What other people's libraries raise about their input becomes one sentence; our own mistakes keep their traceback."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantgate.checkpoints.audit import check_complete
from quantgate.checkpoints.checkpoint import load_quantized, read_layers
from quantgate.core.errors import DataError, MethodError, ModelError, QuantgateError, UsageError, is_foreign, translated
from quantgate.models.bundled import convert
from quantgate.models.loading import empty_model, load_reference, load_tokenizer, read_config
from quantgate.models.source import resolve_model
from quantgate.models.tensors import StoredTensor, read_tensor
from quantgate.quantize.catalogue.plugins import installed_plugins
from quantgate.store.store import Store
from quantgate.tasks import flores, ifeval, summaries
from quantgate.tasks.data import HubSource
from quantgate.tasks.prompts import Prompts


@pytest.fixture
def model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def said(error, *words):
    """The one sentence of ``error``, which holds all ``words`` and gives its cause."""
    text = str(error.value)
    assert "\n" not in text
    assert error.value.__cause__ is not None
    for word in words:
        assert word in text, text
    return text


def change(path, **fields):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | fields))


# --- models ---------------------------------------------------------------------------------------------------------

TOKENIZERS = {
    "no JSON": ("tokenizer.json", "{"),
    "no tokenizer": ("tokenizer.json", '{"version": "1.0", "model": {"type": "None"}}'),
    "a list of settings": ("tokenizer_config.json", "[]"),
    "a number of no token": ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "a"}}}'),
    "tokens that are none": ("tokenizer_config.json", '{"added_tokens_decoder": {"1": 3}}'),
    "a class that is none": ("tokenizer_config.json", '{"tokenizer_class": 7}'),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer(name, model):
    file, content = TOKENIZERS[name]
    (model / file).write_text(content)
    with pytest.raises(ModelError) as error:
        load_tokenizer(model, "mine")
    said(error, "model 'mine': the tokenizer cannot be read (", "save the tokenizer again")


CONFIGS = {
    "no heads": {"num_attention_heads": 0},
    "a function that is none": {"hidden_act": "gelu_of_mine"},
    "layers as text": {"num_hidden_layers": "2"},
    "sizes below zero": {"vocab_size": -5},
    "rope as text": {"rope_parameters": "linear"},
    "rope of no kind": {"rope_parameters": {"rope_type": "mine", "rope_theta": 1e4}},
    "a type that is none": {"model_type": 7},
    "no width": {"hidden_size": None},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration(name, model):
    change(model / "config.json", **CONFIGS[name])
    with pytest.raises(ModelError) as error:
        empty_model(read_config(model, "mine"), "mine")
    said(error, "mine: ", "configuration")


@pytest.mark.parametrize("name", ["no heads", "layers as text"])
def test_a_configuration_when_it_is_loaded(name, model):
    change(model / "config.json", **CONFIGS[name])
    with pytest.raises(ModelError):
        load_reference(model, "mine", "float32", "cpu")
    with pytest.raises(ModelError):
        check_complete(model, model, "mine")


def test_a_package_that_a_candidate_needs(model):
    change(model / "config.json", quantization_config={"quant_method": "quark"})
    with pytest.raises(ModelError) as error:
        load_reference(model, "mine", "float32", "cpu")
    said(error, "model 'mine': cannot be loaded (a package is missing or broken: ", "install what is named there")


def test_a_device_that_torch_was_not_built_for(model):
    with pytest.raises(ModelError) as error:
        load_reference(model, "mine", "float32", "hpu")
    said(error, "model 'mine': cannot be put on the device 'hpu'", "choose another --device")


def test_a_file_that_changes_while_it_is_read(model):
    tensor = StoredTensor("no.such", "F32", (1,), model / "model.safetensors", 0, 4)
    with pytest.raises(ModelError) as error:
        read_tensor(tensor)
    said(error, "its tensors cannot be read (SafetensorError: ", "finish the download")


def test_a_settings_file_for_generation(tmp_path, tiny_model):
    from quantgate import quantize

    path = quantize(tiny_model, "rtn8", store=tmp_path / "store", offline=True).path
    (path / "generation_config.json").write_text("[]")
    with pytest.raises(ModelError) as error:
        load_quantized(path, torch.float32)
    said(error, "generation_config.json cannot be read", "check the file, or remove it")


@pytest.fixture(scope="module")
def packed(tiny_model, tmp_path_factory):
    from quantgate import quantize

    return quantize(tiny_model, "rtn4", store=tmp_path_factory.mktemp("store"), offline=True).path


SETTINGS = {
    "no bits": {"bits": None},
    "bits as a word": {"bits": "four"},
    "a group that is a list": {"group_size": [128]},
    "rules that are none": {"dynamic": ["-:lm_head"]},
    "a rule that is no pattern": {"dynamic": {"-:(": {}}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_a_packed_layer(name, packed):
    config = json.loads((packed / "config.json").read_text())["quantization_config"] | SETTINGS[name]
    with pytest.raises(ModelError) as error:
        dict(read_layers(packed, config)[1])
    said(error, "model.layers.0.", "incomplete layer or wrong settings (", "compare quantization_config")


def test_packed_weights_of_another_shape(tmp_path, packed):
    path = shutil.copytree(packed, tmp_path / "packed")
    state = load_file(path / "model.safetensors")
    name = next(each for each in state if each.endswith("qzeros"))
    state[name] = state[name][:, :1].contiguous()
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError):
        load_quantized(path, torch.float32)


def test_a_file_of_the_bundled_model_that_is_cut_short(tmp_path):
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(8) + b"\x05" + bytes(7))
    with pytest.raises(ModelError) as error:
        convert(tmp_path / "cut.gguf", tmp_path / "out")
    said(error, "model 'bundled': ", "cut.gguf cannot be converted", "force-reinstall")


# --- prompts --------------------------------------------------------------------------------------------------------

TEMPLATES = {
    "divides by zero": "{{ 1 // 0 }}",
    "asks a text for a field": "{{ messages[0].content.text.more }}",
    "adds words and numbers": "{{ messages[0].content + 1 }}",
    "is cut short": "{% for m in messages %}",
    "counts too far": "{{ '%d' % messages }}",
    "calls a filter that is none": "{{ messages | shout }}",
    "refuses": "{{ raise_exception('no') }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template(name, model):
    tokenizer = load_tokenizer(model, "mine")
    tokenizer.chat_template = TEMPLATES[name]
    with pytest.raises(ModelError) as error:
        Prompts(tokenizer, 512, "mine").chat([{"role": "user", "content": "a"}])
    said(error, "model 'mine': its chat template cannot render a dialogue of user (", "mend chat_template.jinja")


def test_a_tokenizer_that_fails_on_a_text():
    def tokenizer(text, **settings):
        raise OverflowError("cannot fit")

    with pytest.raises(ModelError) as error:
        Prompts(tokenizer, 512, "mine").encode("a")
    said(error, "model 'mine': its tokenizer cannot read a text (OverflowError: cannot fit)")


# --- packages and networks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "call", "words"),
    [
        ("rouge_score.rouge_scorer", summaries._scorer.__wrapped__, "pip install rouge_score"),
        ("sacrebleu.metrics", lambda: flores._bleu.__wrapped__("zh"), "pip install sacrebleu"),
        ("langdetect", ifeval._checker.__wrapped__, "pip install langdetect"),
    ],
)
def test_a_package_of_a_task(package, call, words, monkeypatch):
    monkeypatch.delitem(sys.modules, package, raising=False)
    # what Python does for a package that must not be imported
    monkeypatch.setitem(sys.modules, package.partition(".")[0], None)
    with pytest.raises(UsageError) as error:
        call()
    said(error, words)


def test_the_package_of_a_method(monkeypatch, tmp_path, tiny_model):
    from quantgate import quantize

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.delitem(sys.modules, "bitsandbytes.functional", raising=False)
    with pytest.raises(MethodError) as error:
        quantize(tiny_model, "nf4", store=tmp_path / "store", offline=True)
    said(
        error, "nf4 of ", "cannot be quantized (the package bitsandbytes is not installed)", "pip install bitsandbytes"
    )


def test_memory_that_does_not_suffice(monkeypatch, tmp_path, tiny_model):
    from quantgate import quantize

    def full(*given, **settings):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("quantgate.subjects.make.run_jobs", full)
    with pytest.raises(MethodError) as error:
        quantize(tiny_model, "rtn4", store=tmp_path / "store", offline=True)
    said(error, "there is not enough memory", "take a machine with more, or a smaller model")


@pytest.mark.parametrize("wrong", [SyntaxError("invalid syntax"), ZeroDivisionError("division"), OSError(2, "gone")])
def test_a_plugin(wrong, monkeypatch):
    def load():
        raise wrong

    entry = type("Entry", (), {"name": "mine", "value": "mine:PLUGIN", "load": staticmethod(load)})
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **asked: [entry])
    with pytest.raises(UsageError) as error:
        installed_plugins()
    said(error, "plugin 'mine' (mine:PLUGIN): cannot be imported (", "repair or remove the package")


@pytest.mark.parametrize("wrong", [KeyError("builder_name"), httpx.ReadTimeout("timed out"), TypeError("no len()")])
def test_a_data_set_of_the_hub(wrong, monkeypatch):
    import datasets

    def fail(*given, **settings):
        raise wrong

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError) as error:
        HubSource().rows("org/set", "default", "test", {})
    said(error, "hub dataset org/set: cannot be read (", "use --data bundled or --data DIR")


def test_a_hub_that_takes_too_long(monkeypatch, tmp_path):
    from quantgate.core.progress import Silent

    def fail(*given, **settings):
        raise httpx.ReadTimeout("timed out")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(ModelError) as error:
        resolve_model("org/model", None, Store(tmp_path, Silent()), offline=False)
    said(error, "model 'org/model': not found in", "ReadTimeout")


# --- our own mistakes -----------------------------------------------------------------------------------------------


def raised(code, file):
    """What ``code`` raises when it stands in ``file``."""
    space = {"other": others_fault}
    try:
        exec(compile(code, str(file), "exec"), space)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return error
    raise AssertionError("nothing was raised")


def others_fault():
    raise TypeError("raised in this file, which is none of quantgate's")


OURS = Path(sys.modules["quantgate"].__file__).parent / "evaluation.py"


@pytest.mark.parametrize(
    "code",
    ["None.field", "{}['bits']", "1 + 'a'", "assert False", "[][0]", "import json; json.loads('{')", "open()"],
)
def test_a_mistake_of_ours_keeps_its_traceback(code):
    error = raised(code, OURS)
    assert not is_foreign(error)
    with pytest.raises(type(error)), translated("who", "found"):
        raise error


@pytest.mark.parametrize("code", ["import torch; torch.zeros(2) @ torch.zeros(3)", "other()", "open('/no/such/file')"])
def test_what_a_library_or_the_machine_finds_wrong_is_theirs(code):
    error = raised(code, OURS)
    assert is_foreign(error)
    with pytest.raises(QuantgateError), translated("who", "found"):
        raise error


def test_a_mistake_of_ours_below_a_library_is_ours():
    code = compile("def ours(x):\n    return None.field", str(OURS), "exec")
    space = {}
    exec(code, space)
    hooked = torch.nn.Linear(1, 1)
    hooked.register_forward_pre_hook(lambda module, given: space["ours"](given))
    with pytest.raises(AttributeError), translated("who", "found"):
        hooked(torch.zeros(1))


def test_errors_of_ours_pass_unchanged():
    with pytest.raises(DataError, match="as it was"), translated("who", "found"):
        raise DataError("as it was", "found")


AUTHORS = """
import sys
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import ACCURACY
from quantgate.core.requests import Likelihood
from quantgate.checkpoints.layouts.parts import PartsLayout
from quantgate.checkpoints.fields import Declared, account
from quantgate.engines.protocol import Engine
from quantgate.engines.torch.row import TorchRow
from quantgate.quantize.algorithms.rtn import Rtn
from quantgate.quantize.base import Method
from quantgate.quantize.calibration.protocol import Desk
from quantgate.quantize.calibration.texts import running
from quantgate.quantize.catalogue.plugins import MethodPlugin
from quantgate.quantize.settings import RtnSettings
from quantgate.reports.payload import Payload
from quantgate.reports.reporters import Reporter
from quantgate.fixtures.case import Case
from quantgate.fixtures.executors.protocol import Work
from quantgate.studies.protocol import Part, Study
from quantgate.verdict.comparators.means import Mean
from quantgate.tasks.base import Selection, Task
from quantgate.tasks.data import DataSource
from quantgate.tasks.prompts import Prompts
tables = ("tasks", "quantize.calibration", "quantize.catalogue.methods", "engines", "studies", "verdict.comparators")
names = {f"quantgate.{each}" for each in tables} | {f"quantgate.{each}.table" for each in tables}
names |= {"quantgate.checkpoints.layouts.table", "quantgate.fixtures.executors.table"}
print(*{each for each in names & set(sys.modules) if each.endswith(("table", "methods"))})
"""


def test_what_authors_of_rows_import_is_no_table():
    """A package with rows of several kinds is imported while tables are made: a table among its imports is a circle."""
    shown = subprocess.run([sys.executable, "-c", AUTHORS], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == []
