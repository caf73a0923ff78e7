"""Readers of layouts that others write: values against the libraries' own unpackers, and what a candidate becomes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantgate.checkpoints import differences
from quantgate.checkpoints.findings import ERROR, WARNING
from quantgate.checkpoints.inspection import inspect
from quantgate.checkpoints.layouts import awq, table
from quantgate.core.errors import ModelError
from quantgate.core.progress import Silent
from quantgate.models.source import resolve_model
from quantgate.store.store import Store
from quantgate.subjects.candidates import check_candidate, open_candidate, parse_candidate
from quantgate.subjects.subject import Workshop

DATA = Path(__file__).parents[2] / "data" / "checkpoints"
REFERENCE = DATA / "reference"
UP = "model.layers.0.mlp.up_proj"


def codes_of(path):
    return load_file(path / "model.safetensors")


def copy(name, tmp_path, change=lambda config: None):
    path = shutil.copytree(DATA / name, tmp_path / name)
    config = json.loads((path / "config.json").read_text())
    change(config.get("quantization_config"))
    (path / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(REFERENCE / name, path / name)
    return path


# --- values --------------------------------------------------------------------------------------------------------


def test_awq_gemm_is_unpacked_as_it_was_packed():
    """AutoAWQ's packer in its own words: nibble i of a word is output feature order[i]."""
    generator = torch.Generator().manual_seed(0)
    codes, zeros = (torch.randint(0, 16, shape, generator=generator) for shape in ((64, 32), (2, 32)))
    scales = torch.rand(2, 32, generator=generator).to(torch.float16)

    def pack(values):
        words = np.zeros((len(values), values.shape[1] // 8), dtype=np.uint32)
        for column in range(words.shape[1]):
            for place, feature in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
                words[:, column] |= values[:, column * 8 + feature].numpy().astype(np.uint32) << (place * 4)
        return torch.from_numpy(words.view(np.int32))

    parts = {"qweight": pack(codes), "qzeros": pack(zeros), "scales": scales}
    found = awq.unpack(parts, {"module": "m", "group_size": 32})
    group = torch.arange(64) // 32
    assert torch.equal(found, (scales.float()[group] * (codes - zeros[group])).t())


def test_awq_gemv_is_unpacked_as_autoawq_packed_it():
    """By its own layer, ``WQLinear_GEMV.from_linear`` of AutoAWQ 0.2.9 (tests/fixtures-src/make_autoawq.py)."""
    checkpoint = table.open_checkpoint(DATA / "awq_gemv", None, "theirs")
    expected = load_file(DATA / "expected" / "awq_gemv.safetensors")
    torch.testing.assert_close(checkpoint.weight(UP), expected[UP], rtol=1e-6, atol=1e-7)
    assert checkpoint.modules[UP].in_words() == "4-bit int, groups of 32, zero points, F16 scales"


@pytest.mark.parametrize("version", ["GEMV", "gemv"])
def test_awq_gemv_is_judged(version, tmp_path):
    path = copy("awq_gemv", tmp_path, lambda config: config.update(version=version))
    check_candidate(parse_candidate(f"theirs={path}"), REFERENCE)
    store = Store(tmp_path / "store", Silent())
    model = resolve_model(str(REFERENCE), None, store)
    subject = open_candidate(model, parse_candidate(f"theirs={path}"), None, Workshop(store, dtype="float32"))
    found = subject.loader(subject.path, "theirs", "float32", "cpu").state_dict()
    expected = load_file(DATA / "expected" / "awq_gemv.safetensors")
    torch.testing.assert_close(found[f"{UP}.weight"], expected[UP], rtol=1e-6, atol=1e-7)
    assert (subject.foreign, subject.record.bits_nominal) == ((), 4)


def test_awq_gemv_whose_groups_are_others(tmp_path):
    path = copy("awq_gemv", tmp_path, lambda config: config.update(group_size=1))
    checkpoint = table.open_checkpoint(path, None, "theirs")
    with pytest.raises(ModelError, match="groups of 1, as group_size says"):
        dict(checkpoint.modules)


@pytest.mark.parametrize("version", ["gemm", "gemv"])
def test_awq_zero_points_that_are_denied(version, tmp_path):
    source = "awq_gemv" if version == "gemv" else "ar_auto_round_auto_awq"

    def declared(**fields):
        config = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": version, **fields}
        path = copy(source, tmp_path / str(len(list(tmp_path.iterdir()))), lambda content: None)
        content = json.loads((path / "config.json").read_text()) | {"quantization_config": config}
        (path / "config.json").write_text(json.dumps(content))
        return path

    whole, denied = declared(zero_point=True), declared(zero_point=False)
    assert inspect(whole, REFERENCE, "x").of_level(ERROR) == []
    assert [each.code for each in inspect(denied, REFERENCE, "x").of_level(ERROR)] == ["claimed_symmetric"]
    state = load_file(denied / "model.safetensors")
    for name in [name for name in state if name.endswith(".qzeros")]:
        state[name] = torch.full_like(state[name], -0x77777778)  # 8 in every place: then nothing is denied
    save_file(state, denied / "model.safetensors", metadata={"format": "pt"})
    assert "claimed_symmetric" not in [each.code for each in inspect(denied, REFERENCE, "x").of_level(ERROR)]


@pytest.mark.parametrize("version", ["marlin", "gemv_fast"])
def test_another_packing_is_refused_with_what_it_is(version, tmp_path):
    path = copy("awq_gemv", tmp_path, lambda config: config.update(version=version))
    with pytest.raises(ModelError, match=f"'awq', version '{version}'; expected one of .*; pack it otherwise"):
        table.open_checkpoint(path, None, "theirs")
    with pytest.raises(ModelError, match=f"version is '{version}'"):
        check_candidate(parse_candidate(f"theirs={path}"), REFERENCE)


@pytest.mark.parametrize("name", ["ct_nvfp4", "ct_mxfp4a16", "ct_w8a8", "ct_fp8_dynamic", "ct_fp8_block"])
@pytest.mark.parametrize("times", [0.5, 2])
def test_bits_that_are_not_what_is_stored_are_refused(name, times, tmp_path):
    def change(config):
        for group in config["config_groups"].values():
            group["weights"]["num_bits"] = int(group["weights"]["num_bits"] * times)

    if name == "ct_w8a8" and times < 1:
        pytest.skip("integers of 4 bits may be stored in 8")
    with pytest.raises(ModelError, match=r"num_bits .* in the format"):
        inspect(copy(name, tmp_path, change), REFERENCE, "theirs")


def test_zero_points_that_are_not_there_are_refused(tmp_path):
    def change(config):
        for group in config["config_groups"].values():
            group["weights"]["symmetric"] = False

    with pytest.raises(ModelError, match="no zero point is stored"):
        inspect(copy("ct_w8a8", tmp_path, change), REFERENCE, "theirs")


def test_fp8_blocks_are_multiplied_by_their_scale(tmp_path):
    """Blocks of 32 x 32; the oracle is a loop over blocks in float64."""
    state, generator = load_file(REFERENCE / "model.safetensors"), torch.Generator().manual_seed(1)
    values = (torch.randn(128, 64, generator=generator) * 10).to(torch.float8_e4m3fn)
    scales = torch.rand(4, 2, generator=generator)
    state[f"{UP}.weight"], state[f"{UP}.weight_scale_inv"] = values, scales
    save_file(state, tmp_path / "model.safetensors")
    config = json.loads((REFERENCE / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "weight_block_size": [32, 32],
        "activation_scheme": "dynamic",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = table.open_checkpoint(tmp_path, None, "mine").weight(UP)
    for row in range(128):
        wanted = values[row].double() * scales[row // 32].double().repeat_interleave(32)
        assert torch.allclose(found[row].double(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["hqq4", "hqq3_axis0", "quanto_int8", "quanto_int4"])
def test_a_matrix_is_unpacked_as_its_tool_unpacks_it(name):
    """The tool's own values (tests/fixtures-src) are rounded to bfloat16, products and differences each."""
    wanted = load_file(DATA / "expected" / f"{name}.safetensors")[UP].float()
    found = table.open_checkpoint(DATA / name, None, name).weight(UP)
    assert float((found - wanted).abs().max()) < 2**-7 * float(wanted.abs().max())


def quantized_scales(content):
    content["quantization_config"]["quant_config"]["scale_quant_params"] = {"nbits": 8}


def quantized_inputs(content):
    content[UP]["activations"] = "qint8"


@pytest.mark.parametrize(
    ("name", "place", "change", "message"),
    [
        ("hqq4", "config.json", quantized_scales, "scale_quant_params"),
        ("quanto_int8", "quanto_qmap.json", quantized_inputs, "quantizes activations"),
    ],
)
def test_what_of_hqq_and_quanto_is_not_computed_is_refused(name, place, change, message, tmp_path):
    path = copy(name, tmp_path)
    content = json.loads((path / place).read_text())
    change(content)
    (path / place).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message):
        check_candidate(parse_candidate(f"theirs={path}"), REFERENCE)


def test_modelopts_second_scale_multiplies():
    """The same matrix as compressed-tensors stores it, whose global scale divides, by that library's decompressor."""
    from quantgate.checkpoints.layouts import scaled

    checkpoint = table.open_checkpoint(DATA / "ct_nvfp4", None, "theirs")
    parts = {key: checkpoint.part(UP, key) for key in checkpoint.found[UP]}
    theirs = {
        "weight": parts["weight_packed"],
        "weight_scale": parts["weight_scale"],
        "weight_scale_2": 1 / parts["weight_global_scale"].float(),
    }
    found = scaled.MODELOPT.unpack(theirs, {"module": UP})
    assert torch.allclose(found, checkpoint.weight(UP), rtol=1e-2)  # the library divides in bfloat16


def test_a_gptq_checkpoint_without_g_idx(tmp_path):
    path = copy("gptq_v1", tmp_path)
    state = {name: tensor for name, tensor in codes_of(path).items() if not name.endswith("g_idx")}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    assert [row.what for row in differences.differences(DATA / "gptq_v1", path, None)] == []


def test_zero_points_say_which_version_they_are(tmp_path):
    def lie(config):
        config["checkpoint_format"] = config["format"] = "gptq_v2"

    found = inspect(copy("gptq_v1", tmp_path, lie), REFERENCE, "mine").of_level(ERROR)
    assert "mislabelled_version" in [each.code for each in found]


def test_an_order_of_groups_that_is_not_theirs_is_named(tmp_path):
    path = copy("gptq_act", tmp_path)
    state = codes_of(path)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    state[f"{UP}.g_idx"] = state[f"{UP}.g_idx"][order]
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    found = {each.code: each.modules for each in inspect(path, REFERENCE, "mine").of_level(ERROR)}
    assert found == {"order_of_groups": (UP,)}


# --- candidates ----------------------------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path):
    store = Store(tmp_path / "store", Silent())
    return resolve_model(str(REFERENCE), None, store), Workshop(store)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("ao_int8", 8),
        ("ao_intx4", 4),
        ("ar_auto_round", 4),
        ("ar_auto_round_auto_awq", 4),
        ("hqq4", 4),
        ("quanto_int4", 4),
        ("quanto_int8", 8),
    ],
)
def test_a_candidate_is_loaded_with_the_values_that_its_reader_gives(name, bits, scene, tmp_path):
    model, workshop = scene
    row = parse_candidate(f"theirs={copy(name, tmp_path)}")
    check_candidate(row, REFERENCE)
    subject = open_candidate(model, row, None, workshop)
    assert subject.problems() == []
    assert (subject.record.bits_nominal, len(subject.record.quantized_modules)) == (bits, 14)
    loaded = subject.load("bfloat16", "cpu").state_dict()
    checkpoint = table.open_checkpoint(DATA / name, None, name)
    assert all(
        torch.equal(loaded[f"{module}.weight"], checkpoint.weight(module).to(torch.bfloat16))
        for module in checkpoint.modules
    )
    subject.check_unchanged()


def test_an_adapter_is_added_to_the_reference(scene):
    model, workshop = scene
    row = parse_candidate(f"theirs={DATA / 'lora'}")
    check_candidate(row, REFERENCE)
    subject = open_candidate(model, row, None, workshop)
    assert subject.problems() == []
    assert len(subject.record.quantized_modules) == 4
    name, parts = "model.layers.1.mlp.down_proj", load_file(DATA / "lora" / "adapter_model.safetensors")
    a, b = (parts[f"base_model.model.{name}.lora_{part}.weight"].double() for part in "AB")
    wanted = load_file(REFERENCE / "model.safetensors")[f"{name}.weight"].double() + 2.0 * b @ a  # alpha 8 by rank 4
    found = subject.load("bfloat16", "cpu").state_dict()[f"{name}.weight"]
    assert torch.allclose(found.double(), wanted, rtol=2**-8, atol=1e-6)


def test_what_is_more_than_a_plain_adapter_is_refused(tmp_path):
    path = shutil.copytree(DATA / "lora", tmp_path / "lora")
    config = json.loads((path / "adapter_config.json").read_text()) | {"use_dora": True}
    (path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="use_dora"):
        inspect(path, REFERENCE, "mine")


@pytest.mark.parametrize(("name", "refused"), [("ct_w4a16_gptq", False), ("ct_w4a16_kv", True), ("ct_w8a8", True)])
def test_a_base_of_quantized_weights_alone_carries_an_adapter(name, refused, tmp_path):
    """compressed-tensors always write a kv_cache_scheme, null where there is none."""
    path = shutil.copytree(DATA / "lora", tmp_path / "lora")
    shutil.copytree(DATA / name, path / "base")
    if refused:
        with pytest.raises(ModelError, match="quantizes inputs, or keys and values, too"):
            table.open_checkpoint(path, REFERENCE, "mine")
    else:
        assert len(table.open_checkpoint(path, REFERENCE, "mine").modules) == 14


def test_a_base_whose_fields_say_nothing_carries_an_adapter(tmp_path):
    path = shutil.copytree(DATA / "lora", tmp_path / "lora")
    base = shutil.copytree(DATA / "gptq_act", path / "base")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"]["configs"] = None
    (base / "config.json").write_text(json.dumps(config))
    assert len(table.open_checkpoint(path, REFERENCE, "mine").modules) == 14


def test_activations_that_nobody_quantizes_here_are_refused(tmp_path):
    def dynamic(config):
        config["quant_type"]["default"]["_type"] = "Int8DynamicActivationInt8WeightConfig"

    with pytest.raises(ModelError, match="quantizes activations"):
        check_candidate(parse_candidate(f"theirs={copy('ao_int8', tmp_path, dynamic)}"), REFERENCE)


# --- GGUF ------------------------------------------------------------------------------------------------------------


def write_gguf(path, change=lambda state: None, **fields):
    """The reference as llama.cpp would keep it: Q8_0 matrices, rows of q and k reordered; the gguf library's writer."""
    import gguf

    config = json.loads((REFERENCE / "config.json").read_text())
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(fields.get("eps", config["rms_norm_eps"]))
    tokens = json.loads((REFERENCE / "tokenizer.json").read_text())["model"]
    words = sorted(tokens["vocab"], key=tokens["vocab"].get)
    writer.add_token_list(fields.get("tokens", lambda words: words)(words))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    state = load_file(REFERENCE / "model.safetensors")
    change(state)
    for name, tensor in state.items():
        values = tensor.float()
        for kind, heads in (("q_proj", 4), ("k_proj", 2)):
            if kind in name:
                values = values.view(heads, 2, len(values) // heads // 2, -1).transpose(1, 2).reshape(values.shape)
        q8 = values.ndim == 2
        data = gguf.quants.quantize(values.numpy(), gguf.GGMLQuantizationType.Q8_0) if q8 else values.numpy()
        raw = gguf.GGMLQuantizationType.Q8_0 if q8 else None
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), data, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_judged_with_the_references_names(scene, tmp_path):
    model, workshop = scene
    path = write_gguf(tmp_path / "tiny.gguf")
    found = inspect(path, REFERENCE, "mine")
    assert found.of_level(ERROR) == found.of_level(WARNING) == []
    assert {row.how for row in found.matrices} == {"8-bit int, groups of 32, symmetric, Q8_0 scales"}
    row = parse_candidate(f"theirs={path}")
    check_candidate(row, REFERENCE)
    subject = open_candidate(model, row, None, workshop)
    assert (subject.problems(), subject.record.bits_nominal, subject.record.bits_effective) == ([], 8, 8.5)
    ours, theirs = (each.load("bfloat16", "cpu") for each in (model, subject))
    ids = torch.arange(2, 66).view(1, -1)
    one, other = (each(ids).logits.float().log_softmax(-1) for each in (ours, theirs))
    assert float((one.exp() * (one - other)).sum(-1).mean()) < 1e-3  # rows of q and k in another order give 0.1


@pytest.mark.parametrize(
    ("code", "fields"),
    [("config", {"eps": 1e-2}), ("tokens", {"tokens": lambda words: [*words[:-2], words[-1], words[-2]]})],
)
def test_what_a_gguf_file_says_otherwise_is_an_error(code, fields, tmp_path):
    found = inspect(write_gguf(tmp_path / "tiny.gguf", **fields), REFERENCE, "mine")
    assert [each.code for each in found.of_level(ERROR)] == [code]


def test_exchanged_blocks_of_a_gguf_file_are_found(tmp_path):
    def exchange(state):
        one, other = (f"model.layers.{block}.mlp.up_proj.weight" for block in (0, 1))
        state[one], state[other] = state[other], state[one]

    found = inspect(write_gguf(tmp_path / "tiny.gguf", exchange), REFERENCE, "mine")
    assert {"unlike_reference", "holds_another"} <= {each.code for each in found.of_level(ERROR)}


@pytest.mark.parametrize("size", [3, 8, 100, 2000, 40000])
def test_a_gguf_file_that_was_cut_short_is_an_error(size, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError):
        inspect(path, REFERENCE, "mine")


def test_a_part_of_a_split_file_is_missing(tmp_path):
    write_gguf(tmp_path / "tiny-00001-of-00002.gguf")
    with pytest.raises(ModelError, match=r"00002-of-00002\.gguf is missing"):
        inspect(tmp_path, REFERENCE, "mine")
