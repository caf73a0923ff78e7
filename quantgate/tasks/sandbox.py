"""Run a program that a model wrote: in a process of its own that can write nothing, send nothing and start nothing.

The child limits its memory, its time and its files, then has the kernel (seccomp) refuse every call that opens a socket
or a file for writing, changes, moves or removes files, starts programs or looks at other processes; only then does it
run the program. Nothing of the parent's environment reaches it. What is left is reading files and computing, and one
bit comes back: whether it ran to its end.

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

MEMORY: Final = 1 << 30  # bytes of address space
SECONDS: Final = 10  # of processor time; of the clock three times that, on a machine that is busy
_PATIENCE: Final = 3
_REPLY: Final = 4096  # bytes of the child's answer: it has no say in how many

Fate = Literal["passed", "failed", "time", "memory"]

# Numbers of the refused calls: x86-64, ARM64 (None: it has no such call).
_REFUSED: Final[dict[str, tuple[int | None, int | None]]] = {
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "sendto": (44, 206), "bind": (49, 200),
    "listen": (50, 201), "socketpair": (53, 199), "accept4": (288, 242), "fork": (57, None), "vfork": (58, None),
    "execve": (59, 221), "execveat": (322, 281), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131),
    "ptrace": (101, 117), "truncate": (76, 45), "ftruncate": (77, 46), "rename": (82, None), "mkdir": (83, None),
    "rmdir": (84, None), "creat": (85, None), "link": (86, None), "unlink": (87, None), "symlink": (88, None),
    "chmod": (90, None), "fchmod": (91, 52), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None),
    "utime": (132, None), "mknod": (133, None), "mount": (165, 40), "umount2": (166, 39), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "utimes": (235, None), "mkdirat": (258, 34), "mknodat": (259, 33),
    "fchownat": (260, 54), "unlinkat": (263, 35), "renameat": (264, 38), "linkat": (265, 37), "symlinkat": (266, 36),
    "fchmodat": (268, 53), "unshare": (272, 97), "utimensat": (280, 88), "fallocate": (285, 47),
    "perf_event_open": (298, 241), "setns": (308, 268), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "renameat2": (316, 276), "memfd_create": (319, 279), "bpf": (321, 280),
    "io_uring_setup": (425, 425), "pidfd_open": (434, 434), "openat2": (437, 437), "pidfd_getfd": (438, 438),
    "clone3": (435, 435), "setrlimit": (160, 164), "prlimit64": (302, 261), "shmget": (29, 194), "msgget": (68, 186),
    "keyctl": (250, 219), "add_key": (248, 217), "chroot": (161, 51), "fchmodat2": (452, 452),
}  # fmt: skip
_MACHINES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7), "arm64": (1, 0xC00000B7)}
_OPEN: Final = ((2, 257), (None, 56))  # open (flags are its second argument) and openat (its third), by machine
_CLONE: Final = (56, 220)

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
rules = bytes.fromhex(given["filter"])
kept = ctypes.create_string_buffer(rules, len(rules))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("rules", ctypes.c_void_p)]
program = Program(len(rules) // 8, ctypes.cast(kept, ctypes.c_void_p).value)
call = ctypes.CDLL(None, use_errno=True).prctl
call.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
call.restype = ctypes.c_int
if call(38, 1, 0, 0, 0) or call(22, 2, ctypes.addressof(program), 0, 0):
    os.write(answer, b"no filter")
    os._exit(3)
word, code = given.pop("word"), given["code"]
del given, ctypes, resource, struct, call, program, kept, rules, Program, limit
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
        """Whether ``code`` runs to its end without an exception.

        Raises:
            UsageError: this machine has no way to confine it.
        """
        word = secrets.token_hex(16)  # an answer that ends its process early does not know it
        given = {"code": code, "word": word, "memory": self.memory, "seconds": self.seconds, "filter": _filter().hex()}
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
    """The kernel's filter as a program of BPF: refused calls fail with EPERM, all others go through."""
    machine = platform.machine().lower()
    if sys.platform != "linux" or machine not in _MACHINES:
        raise _refused(f"{sys.platform} on {machine}")
    which, architecture = _MACHINES[machine]
    load, jump_equal, jump_set, jump_above, end = 0x20, 0x15, 0x45, 0x35, 0x06
    refuse, allow, kill, missing = 0x00050001, 0x7FFF0000, 0x80000000, 0x00050026  # EPERM; ENOSYS has libc try clone
    rules = [(load, 0, 0, 4), (jump_equal, 1, 0, architecture), (end, 0, 0, kill), (load, 0, 0, 0)]
    rules += [(jump_above, 0, 1, 0x40000000), (end, 0, 0, refuse)]  # x86's second table of the same calls
    for name, numbers in _REFUSED.items():
        if (number := numbers[which]) is not None:
            rules += [(jump_equal, 0, 1, number), (end, 0, 0, missing if name == "clone3" else refuse)]
    thread = 0x00010000
    rules += [(jump_equal, 0, 4, _CLONE[which]), (load, 0, 0, 16), (jump_set, 1, 0, thread), (end, 0, 0, refuse)]
    rules += [(end, 0, 0, allow)]
    changes = 0x1 | 0x2 | 0x40 | 0x200 | 0x400 | 0x400000  # write, read and write, create, truncate, append, tmpfile
    for number, argument in ((_OPEN[which][0], 24), (_OPEN[which][1], 32)):
        if number is not None:
            rules += [(jump_equal, 0, 4, number), (load, 0, 0, argument), (jump_set, 0, 1, changes)]
            rules += [(end, 0, 0, refuse), (end, 0, 0, allow)]
    rules += [(end, 0, 0, allow)]
    return b"".join(
        code.to_bytes(2, sys.byteorder) + bytes((yes, no)) + value.to_bytes(4, sys.byteorder)
        for code, yes, no, value in rules
    )
