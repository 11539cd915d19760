"""Programs without standard streams, and those that an error ends while descriptor 2 is captured."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.limits import HANG_TIMEOUT

PROGRAMS = ("animora_server", "animora_training")
TELLS_STREAMS = """
import os, sys
from animora_process.standard_streams import open_missing_streams
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


def test_streams_that_are_closed_become_the_null_device():
    assert run("-c", TELLS_STREAMS, before=closing(0, 1, 2)).returncode == 0


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs_without_standard_streams(program: str):
    assert run("-m", program, "--help", before=closing(0, 1, 2)).returncode == 0


@pytest.mark.parametrize("leaves", [True, False])
def test_the_error_that_ends_a_process_is_in_the_log_whole(leaves: bool):
    ended = run("-c", RAISES.format(leaves=leaves))
    assert ended.returncode == 1
    assert "the last line" in ended.stderr.splitlines()[-1]
