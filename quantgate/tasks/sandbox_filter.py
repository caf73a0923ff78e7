"""Which calls of the kernel a confined program may make, as a filter of BPF (seccomp): what is not listed is refused.

A list of what is refused would be a race with the kernel's next version: signals alone go out by ``kill``,
``sigqueue``, a descriptor's owner, a pidfd. Listed is what an interpreter needs to read, compute, wait, start threads.
"""

from __future__ import annotations

import sys
from typing import Final

# Numbers of the allowed calls: x86-64, ARM64 (None: it has no such call). From the kernel's syscall tables.
_ALLOWED: Final[dict[str, tuple[int | None, int | None]]] = {
    # reading and describing files; what is written goes to descriptors that are open: the answer, and nothing
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, None), "fstat": (5, 80), "lstat": (6, None),
    "lseek": (8, 62), "pread64": (17, 67), "readv": (19, 65), "writev": (20, 66), "access": (21, None),
    "getcwd": (79, 17), "readlink": (89, None), "statfs": (137, 43), "fstatfs": (138, 44), "getdents64": (217, 61),
    "fadvise64": (221, 223), "newfstatat": (262, 79), "readlinkat": (267, 78), "faccessat": (269, 48),
    "preadv": (295, 69), "statx": (332, 291), "close_range": (436, 436), "faccessat2": (439, 439),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59),
    # memory
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    "mincore": (27, 232), "madvise": (28, 233),
    # its own signals, threads and end
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "pause": (34, None),
    "alarm": (37, None), "getitimer": (36, 102), "setitimer": (38, 103), "exit": (60, 93), "exit_group": (231, 94),
    "futex": (202, 98), "futex_waitv": (449, 449), "set_tid_address": (218, 96), "set_robust_list": (273, 99),
    "rseq": (334, 293), "membarrier": (324, 283), "arch_prctl": (158, None), "restart_syscall": (219, 128),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168),
    # waiting
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "epoll_create": (213, None),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    "eventfd": (284, None), "eventfd2": (290, 19), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    # the clock, chance, and who it is
    "gettimeofday": (96, 169), "clock_gettime": (228, 113), "clock_getres": (229, 114), "times": (100, 153),
    "getrandom": (318, 278), "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getpgrp": (111, None),
    "getpgid": (121, 155), "getsid": (124, 156), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "getgroups": (115, 158), "getresuid": (118, 148), "getresgid": (120, 150),
    "getpriority": (140, 141), "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179), "uname": (63, 160),
}  # fmt: skip
MACHINES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7), "arm64": (1, 0xC00000B7)}
"""By the name of a machine: its column above, and the kernel's number of its calling convention."""
_OPEN: Final = ((2, 257), (None, 56))  # open (flags are its second argument) and openat (its third), by machine
_CLONE: Final = (56, 220)
_CLONE3: Final = 435
_IOCTL: Final = (16, 29)
_FCNTL: Final = (72, 25)
_PRLIMIT: Final = (302, 261)
_ASKED_OF_FILES: Final = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)  # terminal or not, size, bytes ready, close on exec
_ASKED_OF_DESCRIPTORS: Final = (0, 1, 2, 3, 4, 1030)  # copies and flags; nobody's owner, signal, lock, lease or seal
# write, read and write, create, truncate, append, temporary
_CHANGES: Final = 0x1 | 0x2 | 0x40 | 0x200 | 0x400 | 0x400000
_THREAD: Final = 0x00010000

_LOAD, _EQUAL, _SET, _ABOVE, _END = 0x20, 0x15, 0x45, 0x35, 0x06
_REFUSE: Final = (_END, 0, 0, 0x00050001)  # EPERM
_MISSING: Final = (_END, 0, 0, 0x00050026)  # ENOSYS: libc then tries clone
_ALLOW: Final = (_END, 0, 0, 0x7FFF0000)
_KILL: Final = (_END, 0, 0, 0x80000000)
_NUMBER: Final = (_LOAD, 0, 0, 0)
Rule = tuple[int, int, int, int]


def _argument(which: int) -> Rule:
    return (_LOAD, 0, 0, 16 + 8 * which)  # its low half, on the byte orders that are supported


def _when(number: int | None, then: list[Rule]) -> list[Rule]:
    """``then``, which ends in every way, for one call."""
    return [] if number is None else [(_EQUAL, 0, len(then), number), *then]


def _one_of(which: int, values: tuple[int, ...]) -> list[Rule]:
    """Allowed when an argument is among ``values``."""
    tests: list[Rule] = [(_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
    return [_argument(which), *tests, _REFUSE, _ALLOW]


def _without(which: int, bits: int) -> list[Rule]:
    """Allowed when an argument has none of ``bits``."""
    return [_argument(which), (_SET, 0, 1, bits), _REFUSE, _ALLOW]


def program(machine: str) -> bytes:
    """The filter for a machine of `MACHINES`: calls that are not allowed fail with EPERM, strange conventions kill."""
    which, architecture = MACHINES[machine]
    rules: list[Rule] = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), _KILL, _NUMBER]
    rules += [(_ABOVE, 0, 1, 0x40000000), _REFUSE]  # x86's second table of the same calls
    for numbers in _ALLOWED.values():
        rules += _when(numbers[which], [_ALLOW])
    rules += _when(_CLONE3, [_MISSING])
    rules += _when(_CLONE[which], [_argument(0), (_SET, 1, 0, _THREAD), _REFUSE, _ALLOW])
    for at, number in enumerate(_OPEN[which]):
        rules += _when(number, _without(1 + at, _CHANGES))
    rules += _when(_IOCTL[which], _one_of(1, _ASKED_OF_FILES))
    rules += _when(_FCNTL[which], _one_of(1, _ASKED_OF_DESCRIPTORS))
    zero: list[Rule] = []  # of itself, and no new limit: asked, not set
    for offset in (16, 32, 36):
        zero += [(_LOAD, 0, 0, offset), (_EQUAL, 1, 0, 0), _REFUSE]
    rules += _when(_PRLIMIT[which], [*zero, _ALLOW])
    rules.append(_REFUSE)
    return b"".join(
        code.to_bytes(2, sys.byteorder) + bytes((yes, no)) + value.to_bytes(4, sys.byteorder)
        for code, yes, no, value in rules
    )
