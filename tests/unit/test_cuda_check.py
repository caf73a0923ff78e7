"""What the device computes is what the CPU computes: the comparisons of benchmarks/cuda_check.py as tests."""

import argparse

import pytest
import torch

from benchmarks import cuda_check

cuda = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: the CPU has nothing to be compared with"),
]


@pytest.fixture
def run(tmp_path, request):
    """A run of the script on the device that the test asks for."""
    args = argparse.Namespace(device=request.param, tiny=True, out=tmp_path, seconds=600)
    cuda_check.exact_float32()
    return cuda_check.Run(args)


def rows(run, section):
    """What was found; a section that raised is no row."""
    assert not run.failures, run.found[section]
    return run.found[section]


@pytest.mark.parametrize("kind", cuda_check.KINDS)
@pytest.mark.parametrize("run", [pytest.param("cuda", marks=cuda)], indirect=True)
def test_the_engine_answers_as_on_the_cpu(run, kind):
    cuda_check.agree(run, kind, cuda_check.KINDS[kind]())
    assert all(row["good"] for row in rows(run, "agreement"))


@pytest.mark.parametrize("run", [pytest.param("cuda", marks=cuda)], indirect=True)
def test_quantizers_lose_what_they_lose_on_the_cpu(run):
    cuda_check.quantizers(run)
    assert len(rows(run, "quantizers")) == len(cuda_check.ROWS)


@pytest.mark.parametrize("run", ["cpu"], indirect=True)
def test_the_script_notices_another_model(run, monkeypatch):
    """On the CPU alone both sides are equal; with another model on one side the comparison has to fail."""
    cuda_check.agree(run, "llama", cuda_check.KINDS["llama"]())
    assert rows(run, "agreement")[0]["good"]
    monkeypatch.setattr(cuda_check, "moved", lambda model, device: cuda_check.noisy(model))
    cuda_check.agree(run, "llama", cuda_check.KINDS["llama"]())
    assert run.failures == ["agreement: llama"]


@pytest.mark.parametrize("run", ["cpu"], indirect=True)
def test_a_part_that_fails_is_kept_and_the_rest_goes_on(run):
    run.part("head", "broken", lambda: 1 / 0)
    run.part("head", "whole", lambda: run.say("head", {"what": "ran"}))
    assert run.failures == ["head: broken"]
    assert [row.get("what") for row in run.found["head"]] == [None, "ran"]
    assert "ZeroDivisionError" in (run.out / "cuda_check.json").read_text(encoding="utf-8")
