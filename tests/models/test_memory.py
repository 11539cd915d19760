"""The memory limit of a process, read from files as the kernel writes them."""

import os
from pathlib import Path

import pytest

from animora_server.models.memory import memory_limit

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
VERSION_2 = "0::/kubepods/pod1/server\n"
VERSION_1 = "9:name=systemd:/docker/1\n5:cpu,cpuacct:/docker/1\n4:memory:/docker/1\n0::/\n"


def limit(tmp_path: Path, membership: str, **files: str) -> int:
    (tmp_path / "cgroup").write_text(membership)
    for name, content in files.items():
        file = tmp_path / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return memory_limit(tmp_path / "cgroup", tmp_path / "fs")


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        (VERSION_2, {}, MACHINE),
        (VERSION_2, {"kubepods/pod1/server/memory.max": "max\n"}, MACHINE),
        (VERSION_2, {"kubepods/pod1/server/memory.max": "4096\n", "kubepods/memory.max": "8192\n"}, 4096),
        (VERSION_2, {"kubepods/pod1/server/memory.max": "max\n", "kubepods/memory.max": "8192\n"}, 8192),
        ("0::/\n", {"memory.max": "4096\n"}, 4096),
        (VERSION_1, {"memory/docker/1/memory.limit_in_bytes": "4096\n"}, 4096),
        (VERSION_1, {"memory/memory.limit_in_bytes": "4096\n"}, 4096),
        (VERSION_1, {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, MACHINE),
        ("0::/../..\n", {"memory.max": "4096\n"}, 4096),
        ("", {"memory.max": "4096\n"}, MACHINE),
    ],
)
def test_the_limit_is_the_least_of_the_machine_and_the_control_groups(tmp_path, membership, files, expected):
    assert limit(tmp_path, membership, **files) == expected


def test_without_control_groups_the_machine_is_the_limit(tmp_path):
    assert memory_limit(tmp_path / "none", tmp_path) == MACHINE
