"""Code tasks: what passes, what does not, and what a program cannot do."""

import ctypes
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import pytest

from quantgate.core.errors import DataError, UsageError
from quantgate.core.requests import GenerateResponse
from quantgate.tasks import sandbox as module
from quantgate.tasks.base import Selection
from quantgate.tasks.code import FLAG, HumanEval, Mbpp, RunsCode, confirmed
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.sandbox import Sandbox, check_confined
from quantgate.tasks.table import TASKS

SANDBOX = Sandbox(seconds=1)
LANDLOCK = ctypes.CDLL(None).syscall(444, None, 0, 1) > 0 if sys.platform == "linux" else False
HUMAN = {
    "task_id": "own/0",
    "prompt": 'def double(n):\n    """Twice n."""\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * n\n",
    "test": "def check(candidate):\n    assert candidate(4) == 8\n    assert candidate(-1) == -2\n",
}


def mbpp(number, code="def triple(n):\r\n    return 3 * n"):
    return {
        "task_id": number, "text": "Write a function that trebles a number.", "code": code, "test_setup_code": "",
        "test_list": ["assert triple(2) == 6", "assert triple(0) == 0", "assert triple(-1) == -3"],
        "challenge_test_list": [],
    }  # fmt: skip


@pytest.fixture
def data(tmp_path, write_jsonl):
    write_jsonl(tmp_path, "openai/openai_humaneval", "openai_humaneval", "test", [HUMAN])
    write_jsonl(tmp_path, "google-research-datasets/mbpp", "full", "test", [mbpp(11)])
    write_jsonl(tmp_path, "google-research-datasets/mbpp", "full", "prompt", [mbpp(each) for each in (1, 2, 3, 4)])
    return DirectorySource(tmp_path, "own")


def scored(task, data, tokenizer, text):
    task = dataclasses.replace(task, sandbox=SANDBOX)
    [item] = task.items(data, Selection(), Prompts(tokenizer, 8192, "tiny"))
    return task.score(item, [GenerateResponse(text, 5, "stop")])


@pytest.mark.parametrize(
    ("text", "score", "how"),
    [
        ("    return 2 * n\n", 1, "passed"),
        ("    return n + n", 1, "passed"),
        ("    return 2 + n\n", 0, "failed"),
        ("    return (\n", 0, "failed"),
        ("    while True: pass\n", 0, "time"),
        ("    import os; os._exit(0)\n", 0, "failed"),  # it ends well, but before the tests do
        ("    raise SystemExit(0)\n", 0, "failed"),
    ],
)
def test_a_function_passes_by_its_tests_alone(data, tokenizer, text, score, how):
    outcome = scored(HumanEval(), data, tokenizer, text)
    assert (outcome.score, outcome.answer) == (score, how)
    assert outcome.companions["out_of_time"] == (how == "time")


def test_mbpp_is_asked_as_lm_eval_asks(data, tokenizer):
    task, prompts = Mbpp(), Prompts(tokenizer, 8192, "tiny")
    [item] = task.items(data, Selection(), prompts)
    [request] = task.requests(item, prompts)
    text = prompts.decode(request.prompt)
    one = (
        "You are an expert Python programmer, and here is your task: Write a function that trebles a number. Your code "
        "should pass these tests:\n\nassert triple(2) == 6\nassert triple(0) == 0\nassert triple(-1) == -3\n[BEGIN]\n"
    )
    solved = one + "def triple(n):\n    return 3 * n\n[DONE]\n\n"
    assert text.removeprefix("<s>").removeprefix("<bos>").strip() == (3 * solved + one).strip()
    assert request.stop == ("[DONE]",)
    assert scored(task, data, tokenizer, "def triple(n):\n    return n * 3\n").score == 1
    assert scored(task, data, tokenizer, "def treble(n):\n    return n * 3\n").score == 0


def test_mbpp_needs_its_examples(tmp_path, tokenizer, write_jsonl):
    write_jsonl(tmp_path, "google-research-datasets/mbpp", "full", "test", [mbpp(11)])
    write_jsonl(tmp_path, "google-research-datasets/mbpp", "full", "prompt", [mbpp(1), mbpp(3)])
    with pytest.raises(DataError, match="no task_id 2, 4"):
        Mbpp().items(DirectorySource(tmp_path, "own"), Selection(), Prompts(tokenizer, 8192, "tiny"))


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_no_code_runs_unless_asked_for(name, data, tokenizer):
    task = TASKS[name]
    assert isinstance(task, RunsCode)
    with pytest.raises(UsageError, match=f"{name}.*it runs code that the model writes.*{FLAG}"):
        confirmed(task, allowed=False)
    [item] = task.items(data, Selection(), Prompts(tokenizer, 8192, "tiny"))
    with pytest.raises(UsageError, match="it runs code"):
        task.score(item, [GenerateResponse("x", 1, "stop")])
    assert confirmed(task, allowed=True).sandbox == Sandbox()
    assert confirmed(TASKS["gsm8k"], allowed=False) is TASKS["gsm8k"]


MARK = Path(tempfile.gettempdir()) / "quantgate-sandbox-mark"


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket()",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import os; os.execv('/bin/true', ['true'])",
        f"open({str(MARK)!r}, 'w').close()",
        f"open({str(MARK)!r}, 'a').close()",
        f"import os; os.mkdir({str(MARK)!r})",
        "import os; os.symlink('/etc', 'x')",
        "import os; os.kill(os.getppid(), 0)",
        "import os; assert os.environ.get('PATH')",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "import ctypes; assert ctypes.CDLL(None).socket(2, 1, 0) >= 0",
        "import torch",
        # signals to the parent by other ways than kill, and what else may be done to it
        "import ctypes, os; assert ctypes.CDLL(None).sigqueue(os.getppid(), 0, None) == 0",
        "import fcntl, os; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
        "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 5)",
        "import os; os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))",
        "import resource; resource.prlimit(0, resource.RLIMIT_NOFILE, (32, 32))",
        # flags of a file that is open for reading
        "import array, fcntl, os, sys; fcntl.ioctl(os.open(sys.path[1], 0), 0x80086601, array.array('l', [0]))",
        "import os; os.chdir('/')",
        "import ctypes; assert ctypes.CDLL(None).syscall(304, 0, 0, 0) == -1 and False",
        "import multiprocessing; multiprocessing.Process(target=int).start()",
    ],
)
def test_what_a_program_cannot_do(code):
    assert SANDBOX.run(code) == "failed"
    assert not MARK.exists()


TELL = "for each in range(3, 16):\n    try: os.write(each, word.encode())\n    except OSError: pass\nos._exit(0)\n"


@pytest.mark.parametrize(
    "found",
    [
        "word = sys._getframe(1).f_globals['word']",
        "[word] = {each.word for each in list(sys.modules.values()) if hasattr(each, 'word')}",
        "[word] = {each['word'] for each in gc.get_objects() if type(each) is dict and type(each.get('word')) is str}",
        "[word] = re.findall('[0-9a-f]{32}', str(sys._getframe(1).f_globals))[:1]",
    ],
)
def test_a_word_that_is_stolen_is_no_pass(found, data, tokenizer):
    """A program that looks for the word by which success is told, and says it before the tests are reached."""
    steal = f"import gc, os, re, sys\n{found}\n{TELL}"
    assert SANDBOX.run(steal) == "forged"
    assert SANDBOX._once(steal) == "passed"  # so that this test does not hold for another reason
    outcome = scored(Mbpp(), data, tokenizer, steal)
    assert (outcome.score, outcome.answer) == (0, "forged")


@pytest.mark.skipif(not LANDLOCK, reason="this kernel has no Landlock")
@pytest.mark.parametrize("place", ["/proc/{parent}/environ", "/proc/{parent}/mem", "/etc/passwd", __file__])
def test_a_program_reads_no_file_but_pythons(place):
    opened = f"import os\nopen({place!r}.format(parent=os.getppid()), 'rb')"
    assert SANDBOX.run(opened) == "failed"
    assert SANDBOX.run("import json, os\nopen(json.__file__, 'rb').read(1)") == "passed"


def test_what_a_program_can_do():
    code = "import math, threading, itertools\nt = threading.Thread(target=int)\nt.start()\nt.join()\n"
    code += (
        "import hashlib, decimal, statistics, bisect, signal, time, select, zoneinfo, cmath, array, queue, fractions\n"
    )
    code += "signal.alarm(9)\ntime.sleep(0.01)\nassert hashlib.md5(b'x').hexdigest()[:4] == '9dd4'\n"
    assert SANDBOX.run(code + "print('x' * 100_000)\nassert math.gcd(4, 6) == 2") == "passed"


def test_nothing_of_a_file_is_removed(tmp_path):
    victim = tmp_path / "kept"
    victim.write_text("here")
    place = repr(str(victim))
    calls = (f"remove({place})", f"rename({place}, 'x')", f"truncate({place}, 0)", f"chmod({place}, 0)")
    for call in calls:
        assert SANDBOX.run(f"import os; os.{call}") == "failed"
    assert victim.read_text() == "here"


def test_memory_and_output_have_an_end():
    assert SANDBOX.run("x = bytearray(1 << 31)") == "memory"
    write = "    try:\n        os.write(each, b'x' * 1000)\n    except OSError:\n        pass"
    flood = f"import os\nfor each in range(3, 12):\n{write}"
    assert SANDBOX.run(flood) in ("passed", "failed")  # what it writes is not taken for an answer
    assert SANDBOX.run(flood + "\nassert False") == "failed"


def test_a_machine_without_a_sandbox_runs_nothing(monkeypatch):
    module._filter.cache_clear()
    monkeypatch.setattr(module.platform, "machine", lambda: "riscv64")
    try:
        with pytest.raises(UsageError, match=r"linux on riscv64; expected Linux on x86-64 or ARM64"):
            check_confined()
    finally:
        monkeypatch.undo()
        module._filter.cache_clear()


def test_a_filter_that_lets_through_is_noticed(monkeypatch):
    monkeypatch.setattr(module, "_filter", lambda: (0x06).to_bytes(4, "little") + (0x7FFF0000).to_bytes(4, "little"))
    with pytest.raises(UsageError, match="opens no socket, and passed"):
        check_confined()


def test_json_rows_of_the_hub_are_read(data):
    assert json.loads(json.dumps(HUMAN)) == data.rows("openai/openai_humaneval", "openai_humaneval", "test", {})[0]
