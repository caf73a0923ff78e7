"""Whatever comes from a file, a user or a server may be nested without end, huge, no text, or steer a terminal: each
reader refuses it within bounds, in its own kind of error, and no message carries what was in it.
"""

import json
import os
import time

import pytest

from quantgate.core.errors import DataError, ModelError, PolicyError, QuantgateError, StoreError, UsageError
from quantgate.core.reading import plain
from quantgate.models.files import read_json
from quantgate.models.tensors import read_header
from quantgate.quantize.catalogue.recipe import load_recipe
from quantgate.reports.check import drawn_again
from quantgate.store import baselines
from quantgate.tasks.data import DirectorySource
from quantgate.verdict.policy_file import load_policy
from quantgate.verify import verify

HUGE = 1 << 40  # bytes, of a file with nothing in it: reading it would end the machine


def _row(path):
    root = path.parents[2]
    DirectorySource(root).rows("org/data", "config", "test", {"text": str})


def _header(path):
    """The same content as the header of a safetensors file, which says its length first."""
    if path.stat().st_size < HUGE:
        content = path.read_bytes()
        path.write_bytes(len(content).to_bytes(8, "little") + content)
    read_header(path)


GATES = {  # reader, its file, its error, the format
    "policy": (load_policy, "policy.toml", PolicyError, "toml"),
    "recipe": (load_recipe, "recipe.toml", UsageError, "toml"),
    "configuration": (lambda path: read_json(path, "model 'x'"), "config.json", ModelError, "json"),
    "header": (_header, "model.safetensors", ModelError, "json"),
    "row": (_row, "org__data/config/test.jsonl", DataError, "json"),
    "baseline": (baselines.read, "acc.json", StoreError, "json"),
}
HOSTILE = {
    "json": {
        "nested": b'{"a":' * 200_000,
        "no UTF-8": '{"a": "ü"}'.encode("utf-16"),
        "control characters": b'{"\x1b[2Jdoctype": "\x1b[31m"',
        "an endless number": b'{"a": ' + b"7" * 5000 + b"}",
    },
    "toml": {
        "nested": b"a = " + b"[" * 200_000,
        "no UTF-8": 'a = "ü"'.encode("utf-16"),
        "control characters": b'"\x1b[2Jdoctype" = "\x1b[31m"',
        "escaped control characters": b'"\\u001b[2Jdoctype" = "\\u001b[31m"',
        "an endless number": b"a = " + b"7" * 5000,
    },
}
CASES = [(gate, name) for gate, (_, _, _, form) in GATES.items() for name in [*HOSTILE[form], "huge"]]


@pytest.mark.parametrize(("gate", "name"), CASES, ids=lambda value: value.replace(" ", "_"))
def test_every_gate_refuses_it(gate, name, tmp_path):
    reader, file, error, form = GATES[gate]
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "huge":
        path.touch()
        os.truncate(path, HUGE)
    else:
        path.write_bytes(HOSTILE[form][name])
    began = time.monotonic()
    with pytest.raises(QuantgateError) as found:
        reader(path)
    assert isinstance(found.value, error)
    assert plain(str(found.value))
    assert len(str(found.value)) < 1000
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("name", HOSTILE["json"], ids=lambda value: value.replace(" ", "_"))
def test_a_report_that_is_none_is_no_confirmed_one(name, tmp_path):
    for file in ("report.json", "evidence.jsonl"):
        (tmp_path / file).write_bytes(HOSTILE["json"][name])
    try:
        findings = verify(tmp_path, drawn_again)
    except QuantgateError as error:
        words = [str(error)]
    else:
        words = findings.differences
    assert words
    assert all(map(plain, words))
    assert json.dumps(words)
