"""Run a program that a model wrote: in a process of its own that can write nothing, send nothing and start nothing.

The child limits its memory, its time and its files, then has the kernel (seccomp) refuse every call that is not on the
short list of :mod:`quantgate.tasks.sandbox_filter`; only then does it run the program. Where the kernel has Landlock,
it can open nothing but Python's own library. Nothing of the parent's environment reaches it. What is left is computing,
and one bit comes back: whether it ran to its end.

That bit is a word which the child says at the end, and a program can find it in the child's memory. So one that passed
is run once more with a last line that is false: who passes then, too, told us a word and did no work (``forged``). The
two runs differ in a number alone.

Only Linux on x86-64 and ARM64 has that; elsewhere nothing is run, and there is no weaker way.
"""

from __future__ import annotations

import json
import platform
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

from quantgate.core.errors import UsageError
from quantgate.tasks.sandbox_filter import MACHINES, program

MEMORY: Final = 1 << 30  # bytes of address space
SECONDS: Final = 10  # of processor time; of the clock three times that, on a machine that is busy
_PATIENCE: Final = 3
_REPLY: Final = 4096  # bytes of the child's answer: it has no say in how many
_NUMBERS: Final = 1 << 40
# Libraries that Python's modules load, and the time zones; Python's own folders are added in the child.
_PLACES: Final = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/share/zoneinfo",
)  # fmt: skip

Fate = Literal["passed", "failed", "time", "memory", "forged"]

# The child. It is given to Python as a text, so that nothing of this package is in its process.
_CHILD: Final = r"""
import ctypes, io, json, os, resource, struct, sys
given = json.loads(sys.stdin.read())
def limit(which, value):
    resource.setrlimit(which, (value, value))
limit(resource.RLIMIT_AS, given["memory"])
limit(resource.RLIMIT_CPU, given["seconds"])
limit(resource.RLIMIT_FSIZE, 0)
limit(resource.RLIMIT_CORE, 0)
limit(resource.RLIMIT_NOFILE, 64)
answer = os.dup(1)
nothing = os.open(os.devnull, os.O_RDWR)
for each in (0, 1, 2):
    os.dup2(nothing, each)
sys.stdin, sys.stdout, sys.stderr = io.StringIO(), io.StringIO(), io.StringIO()
import typing, math, re, collections, itertools, functools, heapq, bisect, string, random, datetime, copy, operator
kernel = ctypes.CDLL(None, use_errno=True)
kernel.syscall.argtypes = [ctypes.c_long] + [ctypes.c_void_p] * 4
kernel.syscall.restype = ctypes.c_long
def beneath(access, place):
    try:
        held = os.open(place, os.O_PATH)
    except OSError:
        return True
    rule = ctypes.create_string_buffer(struct.pack("=Qi", access if os.path.isdir(place) else access & ~8, held), 12)
    done = kernel.syscall(445, allowed, 1, ctypes.addressof(rule), 0) == 0
    os.close(held)
    return done
def refuse():
    os.write(answer, b"no filter")
    os._exit(3)
rules = bytes.fromhex(given["filter"])
kept = ctypes.create_string_buffer(rules, len(rules))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("rules", ctypes.c_void_p)]
program = Program(len(rules) // 8, ctypes.cast(kept, ctypes.c_void_p).value)
call = kernel.prctl
call.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
call.restype = ctypes.c_int
if call(38, 1, 0, 0, 0):
    refuse()
if kernel.syscall(444, None, 0, 1, 0) > 0:  # Landlock: read (4, a folder 8) and map (1) in these places, and no more
    every = ctypes.create_string_buffer(struct.pack("=Q", 0x1FFF), 8)
    allowed = kernel.syscall(444, ctypes.addressof(every), 8, 0, 0)
    if allowed < 0 or not all([beneath(13, place) for place in given["places"] + sys.path]):
        refuse()
    if kernel.syscall(446, allowed, 0, 0, 0):
        refuse()
    os.close(allowed)
if call(22, 2, ctypes.addressof(program), 0, 0):
    refuse()
word, code = given.pop("word"), given["code"]
del given, ctypes, resource, struct, call, program, kept, rules, Program, limit, kernel, beneath, refuse
sys.modules.pop("ctypes", None)
def run(code, name):
    try:
        exec(compile(code, "<answer>", "exec"), {"__name__": name})
        return True
    except MemoryError:
        return None
    except BaseException:
        return False
fate = run(code, "__main__")
os.write(answer, {True: word, None: "memory", False: "failed"}[fate].encode())
os._exit(0)
"""


@dataclass(frozen=True)
class Sandbox:
    """Limits of a run. ``seconds``: of processor time; ``memory``: bytes."""

    seconds: int = SECONDS
    memory: int = MEMORY

    def run(self, code: str) -> Fate:
        """Whether ``code`` runs to its end without an exception; ``forged`` where it says so without getting there.

        Raises:
            UsageError: this machine has no way to confine it.
        """
        same, other = secrets.randbelow(_NUMBERS), secrets.randbelow(_NUMBERS - 1)
        fate = self._once(f"{code}\nassert {same} == {same}\n")
        if fate != "passed":
            return fate
        other += other >= same
        return "forged" if self._once(f"{code}\nassert {same} == {other}\n") == "passed" else "passed"

    def _once(self, code: str) -> Fate:
        word = secrets.token_hex(16)  # an answer that ends its process early does not know it
        given = {
            "code": code, "word": word, "memory": self.memory, "seconds": self.seconds, "filter": _filter().hex(),
            "places": _PLACES,
        }  # fmt: skip
        reply, code_of_exit, late = _child(json.dumps(given), self.seconds * _PATIENCE)
        if reply == word.encode() and code_of_exit == 0:
            return "passed"
        if reply == b"no filter":
            raise _refused("the kernel accepts no filter")
        if late or code_of_exit in (-signal.SIGXCPU, -signal.SIGKILL):
            return "time"
        return "memory" if reply == b"memory" else "failed"


def check_confined() -> None:
    """Raise UsageError unless programs can be confined on this machine: seen, not assumed."""
    sandbox = Sandbox(seconds=5)
    attempts = {
        "runs": ("x = 1", "passed"),
        "opens no socket": ("import socket\nsocket.socket()", "failed"),
        "writes no file": (f"open({str(Path(tempfile.gettempdir()) / secrets.token_hex(8))!r}, 'w')", "failed"),
        "starts no program": ("import os\nos.posix_spawn('/bin/true', ['true'], {})", "failed"),
    }
    for what, (code, wanted) in attempts.items():
        if (found := sandbox.run(code)) != wanted:
            raise _refused(f"a program there should show that it {what}, and {found}")


def _refused(problem: str) -> UsageError:
    return UsageError(
        "--confirm-run-unsafe-code",
        problem,
        expected="Linux on x86-64 or ARM64 with seccomp",
        hint="choose other --tasks: code of a model is not run without a sandbox",
    )


def _child(given: str, patience: float) -> tuple[bytes, int, bool]:
    """What the child answered, its exit code, and whether it had to be ended by the clock."""
    with tempfile.TemporaryDirectory(prefix="quantgate-run-") as place:
        command = [sys.executable, "-I", "-S", "-B", "-c", _CHILD]
        with subprocess.Popen(
            command, cwd=place, env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as child:  # fmt: skip
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                child.stdin.write(given.encode())
                child.stdin.close()
            except BrokenPipeError:
                pass
            late = _wait(child, patience)
            return (b"" if late else child.stdout.read(_REPLY)), child.returncode, late


def _wait(child: subprocess.Popen[bytes], patience: float) -> bool:
    """Wait for the end, or put one to it. The child's answer fits into the pipe, or it waits for a reader in vain."""
    end = time.monotonic() + patience
    while child.poll() is None:
        if time.monotonic() > end:
            child.kill()
            child.wait()
            return True
        time.sleep(0.005)
    return False


@cache
def _filter() -> bytes:
    """The filter for this machine."""
    machine = platform.machine().lower()
    if sys.platform != "linux" or machine not in MACHINES:
        raise _refused(f"{sys.platform} on {machine}")
    return program(machine)
