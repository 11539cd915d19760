"""Limits the memory of a process."""

import resource
from pathlib import Path


def allow(headroom: int) -> None:
    """Limits the process to `headroom` bytes beyond its present memory."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now = int(lines["VmData"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (now + headroom, now + headroom))
