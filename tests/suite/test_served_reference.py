"""A server as the reference, from the command line: its small files here, its weights nowhere."""

import shutil

import pytest

from quantgate import cli
from quantgate.core.remote import Manners
from tests.unit.engines.servers import Table, serving


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for name in ("served", "served_reference"):
        monkeypatch.setattr(f"quantgate.subjects.{name}.MANNERS", Manners(attempts=2, pause_s=0.0))


@pytest.fixture
def small(tiny_model, tmp_path):
    """The model's directory without its weights."""
    target = tmp_path / "small"
    shutil.copytree(tiny_model, target, ignore=shutil.ignore_patterns("*.safetensors*"))
    return target


def test_two_servers_are_compared_and_no_weight_is_read(gate, small, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTGATE_SERVER_KEY_REFERENCE", "sk-reference-0001")
    monkeypatch.setenv("QUANTGATE_SERVER_KEY_LIVE", "sk-candidate-0002")
    with serving("vllm", tokenizer) as original, serving("llama.cpp", tokenizer) as live:
        live.table = Table()
        del gate.base["--methods"]
        both = ("--model", original.address, "--candidate", f"live={live.address}")
        result = gate.run(*both, "--tokenizer", small, "--tasks", "truthfulqa")
        assert {each.get("Authorization") for each in original.headers} == {"Bearer sk-reference-0001"}
        assert {each.get("Authorization") for each in live.headers} == {"Bearer sk-candidate-0002"}
    [case] = gate.report["results"]
    assert (case["n_items"], case["delta"]) == (6, 0.0)
    assert gate.report["model"]["served"]["address"] == original.address
    assert gate.report["model"]["engine"] == "http"
    assert result.ret == 1  # six items of a table's making show nothing
    assert cli.main(["verify", str(tmp_path / "report")]) == 0
    for file in (tmp_path / "report").iterdir():
        assert "sk-" not in file.read_text()


def test_half_a_reference_is_none(gate, small, tokenizer):
    with serving("vllm", tokenizer) as original, serving("llama.cpp", tokenizer) as live:
        del gate.base["--methods"]
        both = ("--model", original.address, "--candidate", f"live={live.address}")
        result = gate.run(*both, "--tokenizer", small, "--tasks", "truthfulqa", "--max-requests", "3")
    assert result.ret == 1
    assert "is used up before the reference was asked everything" in gate.report["results"][0]["reason"]


def test_what_a_served_reference_cannot_be_asked(gate, small, tiny_model, tokenizer):
    with serving("vllm", tokenizer) as server:
        url, live = server.address, f"live={server.address}"
        for arguments, words in (
            (("--model", url), "no --tokenizer"),
            (("--model", url, "--tokenizer", small.parent), "holds no config.json"),
            (("--model", url, "--tokenizer", small), "rtn8 needs the 16-bit weights"),
            (("--tokenizer", small), "given with a model on disk"),
            (("--model", url, "--tokenizer", small, "--candidate", live), "it is the very server of --model"),
            (("--model", url, "--tokenizer", small, "--update-baselines"), "expected benchmarks alone"),
        ):
            gate.base.pop("--methods", None)
            methods = () if "--candidate" in arguments else ("--methods", "rtn8")
            result = gate.run(*arguments, *methods)
            assert result.ret == 4, words
            assert words in result.stderr.str() + result.stdout.str()
