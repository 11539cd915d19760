"""The memory limit of this process: the machine's memory, or less where a control group has a limit."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
HIERARCHIES = Path("/sys/fs/cgroup")


def memory_limit(membership: Path = MEMBERSHIP, hierarchies: Path = HIERARCHIES) -> int:
    """Bytes that the processes of this process' control groups may use in total.

    Args:
        membership: The file that lists the process' control groups (cgroups(7)).
        hierarchies: The mount point of the control groups' hierarchies.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in _limit_files(membership, hierarchies):
        with suppress(OSError, ValueError):  # the file does not exist or holds `max`
            limits.append(int(file.read_text(encoding="ascii")))
    return min(limits)


def _limit_files(membership: Path, hierarchies: Path) -> Iterator[Path]:
    """The files that hold the limit of the process' control group and of each parent group.

    In a container the listed path may be that of the host, so that only the hierarchy's root exists.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # not on Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = hierarchies, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = hierarchies / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        yield from (folder / name for folder in (group, *group.parents) if folder.is_relative_to(root))
