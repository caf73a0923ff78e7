"""pytest in a process of its own, without the seconds that importing torch and transformers takes.

One process imports them and then forks for every command it is given: each runs in a fresh interpreter state of its
own, may be killed, and leaves nothing behind. ``python -m tests.suite.warm`` is that process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Warm:
    """Starts the process; ``run`` gives it one command at a time."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.suite.warm"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)

    def run(self, arguments, environment=None, cwd=ROOT):
        """pytest with ``arguments``; ``stdout`` of the result holds both of its streams."""
        self.count += 1
        output = self.folder / f"output-{self.count}"
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
        job = {"arguments": list(map(str, arguments)), "environment": dict(environment), "cwd": str(cwd)}
        self.process.stdin.write(json.dumps(job | {"output": str(output)}) + "\n")
        self.process.stdin.flush()
        code = json.loads(self.process.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, output.read_text(encoding="utf-8"))

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)


def child(job):
    """Become the command."""
    for target, name, mode in ((0, os.devnull, os.O_RDONLY), (1, job["output"], os.O_CREAT | os.O_WRONLY)):
        os.dup2(os.open(name, mode, 0o600), target)
    os.dup2(1, 2)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    sys.argv = ["pytest", *job["arguments"]]
    import pytest

    code = int(pytest.main(job["arguments"]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve():
    import torch
    import transformers.models.auto.modeling_auto
    import transformers.models.llama.modeling_llama  # noqa: F401 - what a run will need

    import tests.suite.imported  # noqa: F401

    torch.set_num_threads(1)
    replies = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        process = os.fork()
        if process == 0:
            child(job)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), file=replies, flush=True)


if __name__ == "__main__":
    serve()
