"""How much memory is left: of the machine, and of the control groups around this process."""

import os

import pytest

from quantgate.core import memory
from quantgate.core.memory import available, group_rooms, in_memory


def laid(root, files):
    for place, text in files.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(text)
    return root / "cgroup"


def test_every_group_around_the_process_counts(tmp_path):
    none = "total_rss 0\n"
    own = laid(tmp_path, {
        "cgroup": "9:name=systemd:/\n4:memory:/a/b\n0::/c/d\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.stat": none,
        "memory/a/b/memory.limit_in_bytes": "300\n", "memory/a/b/memory.stat": none,
        "c/memory.max": "200\n", "c/memory.stat": "anon 0\n", "c/d/memory.max": "max\n",
    })  # fmt: skip
    assert list(group_rooms(tmp_path, own)) == [300, 9223372036854771712, 200]
    assert list(group_rooms(tmp_path, tmp_path / "none")) == []
    free = available()
    assert free is None or 0 < free < 1 << 60


def test_what_others_in_the_group_hold_is_gone(tmp_path):
    """Files on disk are dropped first; those in memory are not."""
    own = laid(tmp_path, {
        "cgroup": "4:memory,hugetlb:/a\n0::/b\n",
        "memory/a/memory.limit_in_bytes": "1000\n",
        "memory/a/memory.stat": "cache 700\nrss 5\nshmem 1\ntotal_cache 900\ntotal_rss 300\ntotal_shmem 30\n",
        "b/memory.max": "500\n", "b/memory.high": "400\n", "b/memory.stat": "anon 100\nfile 300\nshmem 20\n",
    })  # fmt: skip
    assert list(group_rooms(tmp_path, own)) == [670, 280]
    (tmp_path / "b" / "memory.stat").write_text("anon 900\n")
    assert list(group_rooms(tmp_path, own)) == [670, 0]


@pytest.mark.parametrize("content", ["", "x", "0::", "4:memory", ":::", "\0", "0::/\0", "4:memory:/a\n" * 3, "0::/.."])
def test_what_is_no_list_of_groups_limits_nothing(tmp_path, content):
    own = laid(tmp_path, {"cgroup": content, "a/memory.max": "1\n"})
    assert list(group_rooms(tmp_path, own)) == []


@pytest.mark.parametrize("content", ["", "max", "abc12", "-1", "1 2", "0x10", "٣", "\0", "1.5"])
def test_what_is_no_number_limits_nothing(tmp_path, content):
    own = laid(tmp_path, {"cgroup": "0::/a\n", "a/memory.max": content + "\n"})
    assert list(group_rooms(tmp_path, own)) == []


def test_a_number_of_thousands_of_digits_is_no_traceback(tmp_path):
    own = laid(tmp_path, {"cgroup": "0::/a\n", "a/memory.max": "9" * 5000, "a/memory.stat": "anon " + "9" * 5000})
    assert all(room > 1 << 60 for room in group_rooms(tmp_path, own))


def test_a_system_that_says_nonsense_has_no_less_than_nothing(monkeypatch):
    monkeypatch.setattr(memory, "_text", lambda _: "")
    monkeypatch.setattr(os, "sysconf", lambda _: -1)
    assert available() is None


def test_directories_in_memory_are_known(tmp_path):
    device = tmp_path.stat().st_dev
    mine = f"{os.major(device)}:{os.minor(device)}"
    mounts = tmp_path / "mountinfo"
    for line, expected in {
        f"36 35 {mine} / /tmp rw,noatime shared:1 - tmpfs tmpfs rw": True,
        f"36 35 {mine} / /tmp rw - ramfs none rw": True,
        f"36 35 {mine} / /tmp rw - ext4 /dev/tmpfs rw": False,
        f"36 35 1{mine} / /tmp rw - tmpfs tmpfs rw": False,
        "nonsense": False, "": False,
    }.items():  # fmt: skip
        mounts.write_text(f"1 1 0:1 / / rw - overlay overlay rw\n{line}\n")
        assert in_memory(tmp_path, mounts) is expected
    assert not in_memory(tmp_path / "none", mounts)
    assert not in_memory(tmp_path, tmp_path / "none")
