"""Programs without standard streams, with an output that fails, or ended while descriptor 2 is captured."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.until import HANG_TIMEOUT

PROGRAMS = ("animora_server", "animora_training")
PRINTING = (  # programs that print, and the names of their commands
    ("animora-server", "animora_server", "--version"),
    ("animora-server", "animora_server", "--help"),
    ("animora-server", "animora_server", "check-config"),
    ("animora-train", "animora_training", "--version"),
    ("animora-train", "animora_training", "fit", "--help"),
    ("animora-train", "animora_training", "list", "--store", "."),
    ("animora-client", "animora_client", "--version"),
    ("animora-client", "animora_client", "rank", "--help"),
)
TELLS_STREAMS = """
import os, sys
from animora_process.entry_point import open_missing_streams
open_missing_streams()
null = os.stat(os.devnull).st_rdev
found = [os.fstat(descriptor).st_rdev == null and os.get_inheritable(descriptor) for descriptor in range(3)]
whole = all(stream is not None for stream in (sys.stdin, sys.stdout, sys.stderr))
sys.exit(0 if all(found) and whole else 3)
"""
RAISES = """
from animora_server import stderr_capture
from animora_server.logs import configure_logs
configure_logs("info", "json")
stderr_capture.start()
raise SystemExit("the last line") if {leaves} else ValueError("the last line")
"""


def closing(*descriptors: int) -> Callable[[], None]:
    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close


def run(*arguments: str, before: Callable[[], None] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        preexec_fn=before,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_TIMEOUT,
    )


def test_closed_standard_streams_become_the_null_device():
    assert run("-c", TELLS_STREAMS, before=closing(0, 1, 2)).returncode == 0


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs_without_standard_streams(program: str):
    assert run("-m", program, "--help", before=closing(0, 1, 2)).returncode == 0


@pytest.mark.parametrize("leaves", [True, False])
def test_a_fatal_error_is_logged_completely(leaves: bool):
    ended = run("-c", RAISES.format(leaves=leaves))
    assert ended.returncode == 1
    assert "the last line" in ended.stderr.splitlines()[-1]


def printing_to(
    output: int, arguments: Sequence[str], *, unbuffered: bool
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "PYTHONUNBUFFERED": "1" if unbuffered else ""},
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=HANG_TIMEOUT,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
@pytest.mark.parametrize("unbuffered", [True, False])
@pytest.mark.parametrize("command", PRINTING, ids=" ".join)
def test_output_to_a_full_disk_fails_with_one_line(command: Sequence[str], unbuffered: bool):
    name, *arguments = command
    with Path("/dev/full").open("wb") as full:
        ended = printing_to(full.fileno(), arguments, unbuffered=unbuffered)
    assert ended.stderr == f"{name}: cannot write to standard output: No space left on device\n"
    assert ended.returncode == 1


@pytest.mark.parametrize("unbuffered", [True, False])
@pytest.mark.parametrize("command", PRINTING, ids=" ".join)
def test_output_to_a_closed_pipe_fails_with_one_line(command: Sequence[str], unbuffered: bool):
    name, *arguments = command
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = printing_to(writer, arguments, unbuffered=unbuffered)
    finally:
        os.close(writer)
    assert ended.stderr == f"{name}: cannot write to standard output: Broken pipe\n"
    assert ended.returncode == 1
