"""Checkpoints that were made to break their reader: one clear error each, within seconds and a bounded memory."""

import gzip
import json
import math
import os
import shutil
import struct
import time
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from quantgate.checkpoints.audit import whole_audit
from quantgate.checkpoints.fields import check_pattern
from quantgate.checkpoints.findings import ERROR
from quantgate.checkpoints.layouts.gguf_header import read_header
from quantgate.core.errors import ModelError, QuantgateError
from quantgate.models.files import tokenizer_files
from tests.unit.checkpoints.test_inspection import DATA, REFERENCE

HUGE = 1 << 62
PATIENCE = 60.0  # seconds; each takes a fraction of one, and without its bound hours or the machine's memory
LOOPS = "(a|a)*b"


@pytest.fixture
def copy(tmp_path):
    def make(name="ct_w8a8"):
        path = shutil.copytree(DATA / name, tmp_path / name)
        for file in [*tokenizer_files(REFERENCE), REFERENCE / "generation_config.json"]:
            shutil.copyfile(file, path / file.name)
        return path

    return make


def refused(path):
    """The one sentence with which the audit refuses ``path``, or its errors."""
    start = time.monotonic()
    try:
        found = whole_audit(path, REFERENCE, "theirs").findings
        sentences = [each.sentence for each in found if each.level == ERROR or each.code == "not_scored"]
    except QuantgateError as error:
        sentences = [str(error)]
    assert time.monotonic() - start < PATIENCE
    assert sentences
    assert all(len(each) < 5000 for each in sentences)
    return "; ".join(sentences)


# --- safetensors ---


def header(path, change):
    """Change the header of a safetensors file and leave its data as they are."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    found = json.loads(content[8 : 8 + length])
    text = json.dumps(change(found) or found).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def entry(**fields):
    def change(found):
        found["model.norm.weight"] |= fields

    return change


@pytest.mark.parametrize(
    "change",
    [
        entry(shape=[HUGE, HUGE]),
        entry(shape=[-8, -8]),
        entry(shape=[64.0]),
        entry(shape=["64"]),
        entry(shape=[float("inf")]),
        entry(shape=64),
        entry(data_offsets=[0, HUGE]),
        entry(data_offsets=[-128, 0]),
        entry(data_offsets=[0, 128]),  # over another tensor
        entry(data_offsets=[128, 0]),
        entry(data_offsets=[]),
        entry(dtype="F128"),
        entry(dtype=None),
        lambda found: found | {"model.norm.weight": 1},
        lambda found: [found],
    ],
)
def test_a_header_that_does_not_fit_its_file(change, copy):
    path = copy()
    header(path / "model.safetensors", change)
    assert "no whole safetensors file" in refused(path)


@pytest.mark.parametrize("length", [HUGE, 2**63 + 8, 0])
def test_a_header_of_absurd_length(length, copy):
    path = copy()
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", length) + content[8:])
    assert "no whole safetensors file" in refused(path)


def test_names_that_lead_elsewhere_are_only_names(copy, tmp_path):
    path = copy()
    state = load_file(path / "model.safetensors")
    state["../../outside"] = state.pop("model.norm.weight")
    save_file(state, path / "model.safetensors")
    before = sorted(each.name for each in tmp_path.iterdir())
    assert "model.norm.weight" in refused(path)
    assert sorted(each.name for each in tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "additional"])
def test_a_link_that_leads_out_of_the_directory(name, copy, tmp_path):
    path = copy()
    target = tmp_path / "outside"
    if (path / name).exists():
        (path / name).rename(target)
    else:
        target.write_text("secret")
    (path / name).symlink_to(target)
    assert f"names '{name}', which leads out of the model's directory" in refused(path)


@pytest.mark.parametrize("named", ["../outside.safetensors", "/etc/passwd.safetensors", "a/../../b.safetensors"])
def test_an_index_that_names_files_elsewhere(named, copy):
    path = copy()
    state = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(state, named)}))
    assert "leads out of the model's directory" in refused(path)


# --- JSON ---

CONTENTS = {
    "nested": '{"a":' * 100_000,
    "an endless number": '{"rms_norm_eps": ' + "7" * 5000 + "}",
    "no object": "[1, 2]",
    "nothing": "",
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_json_that_is_none(name, content, copy):
    path = copy()
    (path / name).write_text(CONTENTS[content])
    refused(path)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "generation_config.json"])
def test_a_file_of_a_terabyte(name, copy):
    path = copy()
    os.truncate(path / name, 1 << 40)  # nothing in it: reading it would end the machine
    assert "bytes" in refused(path)


def declared(path, **fields):
    content = json.loads((path / "config.json").read_text())
    content["quantization_config"] |= fields
    (path / "config.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("gptq_v1", {"bits": 10**30}),
        ("gptq_v1", {"bits": -4}),
        ("gptq_v1", {"bits": "4"}),
        ("gptq_v1", {"group_size": 0}),
        ("gptq_v1", {"group_size": 10**30}),
        ("gptq_v1", {"group_size": [32]}),
        ("gptq_v1", {"dynamic": {LOOPS: {"bits": 8}}}),
        ("gptq_v1", {"dynamic": ["-:.*"]}),
        ("ct_w8a8", {"config_groups": {"group_0": None}}),
        ("ct_w8a8", {"config_groups": {"group_0": {"targets": [f"re:{LOOPS}"], "weights": {"num_bits": 8}}}}),
        ("ct_w8a8", {"config_groups": 7}),
        ("ar_auto_round", {"extra_config": {LOOPS: {"bits": 8}}}),
        ("ar_auto_round", {"extra_config": [1]}),
        ("bnb_nf4", {"load_in_4bit": "yes"}),
        ("ao_int8", {"quant_type": {"default": None}}),
    ],
)
def test_declarations_that_make_no_sense(name, fields, copy):
    refused(declared(copy(name), **fields))


@pytest.mark.parametrize("pattern", [LOOPS, "(a+)+$", "((a)+)+", "(?:a|b)*c", "(a{1,9}){2,}", ".*" * 9, "a" * 5000])
def test_patterns_that_may_take_without_end_are_refused(pattern):
    with pytest.raises(ModelError, match="may take without end"):
        check_pattern(pattern, "theirs")


@pytest.mark.parametrize(
    "pattern",
    [r".*\.0\..*mlp.*", r"model\.layers\.(?:1[0-9]|2[0-5])\..*_proj$", r".*(?:gate|router)(?!_).*", r"[a+*]+"],
)
def test_patterns_that_tools_write_are_taken(pattern):
    assert check_pattern(pattern, "theirs") is None  # nothing is raised


# --- adapters ---


@pytest.mark.parametrize("fields", [
    {"lora_alpha": "8"}, {"lora_alpha": 1e999}, {"lora_alpha": True}, {"alpha_pattern": {LOOPS: 8}},
    {"alpha_pattern": [1]}, {"r": "four"}, {"r": 64}, {"r": 0}, {"rank_pattern": {"q_proj|down_proj": 8}},
    {"rank_pattern": {LOOPS: 4}},
    {"use_rslora": "no"}, {"init_lora_weights": "pissa_niter_4"}, {"target_modules": ["q_proj"]},
    {"target_modules": LOOPS}, {"exclude_modules": ["q_proj"]}, {"layers_to_transform": [0]},
])  # fmt: skip
def test_an_adapter_whose_settings_make_no_sense(fields, tmp_path):
    path = shutil.copytree(DATA / "lora", tmp_path / "lora")
    content = json.loads((path / "adapter_config.json").read_text()) | fields
    (path / "adapter_config.json").write_text(json.dumps(content))
    refused(path)


def only(name, tensors, change):
    """``tensors`` with one of them changed."""
    return tensors | {name: change(tensors[name]).contiguous()}


LAST = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
ADAPTERS = {
    "a part of one dimension": lambda tensors: only(LAST, tensors, lambda each: each.flatten()),
    "a part of three": lambda tensors: only(LAST, tensors, lambda each: each[None]),
    "parts of two ranks": lambda tensors: only(LAST, tensors, lambda each: each[:2]),
    "parts of no rank": lambda tensors: {
        name: each[:0] if "_A" in name else each[:, :0] for name, each in tensors.items()
    },
    "codes": lambda tensors: only(LAST, tensors, lambda each: each.char()),
    "a part under two names": lambda tensors: tensors | {LAST.replace("A.", "A.default."): tensors[LAST] * 3},
    "no parts": lambda tensors: {},
    "no numbers": lambda tensors: only(LAST, tensors, lambda each: each * float("nan")),
}


@pytest.mark.parametrize("change", ADAPTERS.values(), ids=list(ADAPTERS))
def test_an_adapter_whose_tensors_are_none(change, tmp_path):
    path = shutil.copytree(DATA / "lora", tmp_path / "lora")
    file = path / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    assert refused(path)


def test_an_adapters_own_files_and_what_its_patterns_say_are_not_refused(tmp_path):
    path = shutil.copytree(DATA / "lora", tmp_path / "lora")
    more = {
        "r": 64, "rank_pattern": {"k_proj|q_proj": 4, "mlp.down_proj": 4}, "target_modules": r".*\.(q_proj|down_proj)",
        "layers_to_transform": None, "some_new_thing": {"x": 1},
    }  # fmt: skip
    content = json.loads((path / "adapter_config.json").read_text()) | more
    (path / "adapter_config.json").write_text(json.dumps(content))
    found = whole_audit(path, REFERENCE, "theirs")
    assert found.of_level(ERROR) == []
    assert [each.numbers for each in found.findings if each.code == "adapter_fields"] == [{}]


# --- GGUF ---


def text(value):
    return struct.pack("<Q", len(value)) + value


def field(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def tensor(name=b"token_embd.weight", dimensions=(32, 2), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)


def gguf(*parts, tensors=0, fields=0, version=3, data=4096):
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, fields)
    return head + b"".join(parts) + bytes(data)


ARCHITECTURE = field(b"general.architecture", 8, text(b"llama"))
HOSTILE = {
    "tensors without end": gguf(tensors=HUGE),
    "fields without end": gguf(fields=HUGE),
    "an old version": gguf(version=1),
    "a key of absurd length": gguf(struct.pack("<Q", HUGE), fields=1),
    "a string of absurd length": gguf(text(b"a") + struct.pack("<IQ", 8, HUGE), fields=1),
    "an array without end": gguf(text(b"a") + struct.pack("<IIQ", 9, 0, HUGE), fields=1),
    "many strings": gguf(text(b"a") + struct.pack("<IIQ", 9, 8, 10**9), fields=1),
    "arrays in arrays": gguf(text(b"a") + struct.pack("<IIQ", 9, 9, 1) * 9, fields=1),
    "a value of no type": gguf(field(b"a", 99, b""), fields=1),
    "an alignment of three": gguf(field(b"general.alignment", 4, struct.pack("<I", 3)), fields=1),
    "a shape that overflows": gguf(ARCHITECTURE, tensor(dimensions=(HUGE, HUGE, 4)), fields=1, tensors=1),
    "many dimensions": gguf(ARCHITECTURE, tensor(dimensions=(2,) * 99), fields=1, tensors=1),
    "no dimension": gguf(ARCHITECTURE, tensor(dimensions=()), fields=1, tensors=1),
    "a type that is none": gguf(ARCHITECTURE, tensor(kind=999), fields=1, tensors=1),
    "an offset behind the end": gguf(ARCHITECTURE, tensor(offset=HUGE), fields=1, tensors=1),
    "tensors over each other": gguf(
        ARCHITECTURE, tensor(), tensor(b"output.weight", offset=32), fields=1, tensors=2
    ),
    "the same tensor twice": gguf(ARCHITECTURE, tensor(), tensor(offset=256), fields=1, tensors=2),
    "blocks without end": gguf(
        ARCHITECTURE, field(b"llama.block_count", 10, struct.pack("<Q", HUGE)), tensor(), fields=2, tensors=1
    ),
    "heads of none": gguf(
        ARCHITECTURE, field(b"llama.attention.head_count", 8, text(b"many")), tensor(), fields=2, tensors=1
    ),
    "no architecture": gguf(tensor(), tensors=1),
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE)
def test_a_gguf_file_that_counts_what_it_does_not_hold(content, tmp_path):
    path = tmp_path / "theirs.gguf"
    path.write_bytes(HOSTILE[content])
    refused(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("tensors over each other", "'output.weight' lies over another tensor"),
        ("an offset behind the end", "ends at byte"),
        ("many strings", "an array of 1000000000 values"),
    ],
)
def test_a_gguf_file_is_refused_for_what_it_counts(content, words, tmp_path):
    """Before anything that it counts is looked for, let alone made."""
    path = tmp_path / "theirs.gguf"
    path.write_bytes(HOSTILE[content])
    with pytest.raises(ModelError, match=words):
        read_header(path, "theirs")


# --- files with holes, archives, bombs ---


def widened(path, name, shape, dtype):
    """Make a tensor as large as its header says, of a hole in the file: it takes no room on the disk."""
    size = math.prod(shape) * {"BF16": 2, "I8": 1, "F32": 4, "I64": 8}[dtype]
    file = path / "model.safetensors"
    state = {key: each for key, each in load_file(file).items() if key != name}
    save_file(state, file)
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])
    data = len(content) - 8 - length
    entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [data, data + size]}
    text = json.dumps(entries).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    os.truncate(file, 8 + len(text) + data + size)


UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("layout", "name", "shape", "dtype"),
    [
        ("ct_w8a8", "model.norm.weight", [1 << 40], "BF16"),
        ("ct_w8a8", "model.embed_tokens.weight", [1 << 34, 64], "BF16"),
        ("ct_w8a8", f"{UP}.weight", [1 << 34, 64], "I8"),
        ("ct_w8a8", f"{UP}.weight_scale", [1 << 38, 1], "F32"),
        ("ct_w4a16_gptq", f"{UP}.weight_shape", [1 << 38], "I64"),
        ("hqq4", f"{UP}.shape", [1 << 38], "I64"),
    ],
)
def test_a_tensor_of_terabytes_is_not_read(layout, name, shape, dtype, copy):
    path = copy(layout)
    widened(path, name, shape, dtype)
    assert "bytes" in refused(path)


BRACES = b'{"a":[' + b"{}," * 6_000_000 + b"{}]}"


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "tokenizer_config.json", "model.safetensors"])
def test_json_that_is_a_hundred_times_as_large_in_memory(name, copy):
    path = copy()
    head = len(BRACES).to_bytes(8, "little") if name == "model.safetensors" else b""
    (path / name).write_bytes(head + BRACES)
    assert "objects and lists" in refused(path)


def pickled(path, content):
    torch.save({"a": torch.ones(1)}, path)


def zipped(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(path.name, bytes(1 << 24))


def compressed(path, content):
    path.write_bytes(gzip.compress(content))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("how", [pickled, zipped, compressed])
def test_an_archive_under_another_name(how, name, copy):
    path = copy()
    how(path / name, (path / name).read_bytes())
    refused(path)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_link_to_itself(name, copy):
    path = copy()
    (path / name).unlink()
    (path / name).symlink_to(name)
    refused(path)  # newer Pythons resolve such a link to itself: the file is missing then


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pipe_that_nobody_writes_to(name, copy):
    path = copy()
    (path / name).unlink()
    os.mkfifo(path / name)
    refused(path)


def test_a_pipe_in_the_place_of_a_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "theirs.gguf")
    (tmp_path / "loop").symlink_to("loop")
    assert "no plain file" in refused(tmp_path / "theirs.gguf")
    assert "no plain file" in refused(tmp_path / "loop")
