"""Error messages when memory runs out."""

import errno
import subprocess
import sys

import numpy as np
import pytest
import torch
import typer

from animora_training.commands.console import report_errors
from animora_training.errors import OutOfMemory
from animora_training.memory import explain_out_of_memory

HUGE = 1 << 55


def refused(size):
    raise RuntimeError(f"DefaultCPUAllocator: can't allocate memory: you tried to allocate {size} bytes")


def unmapped():
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


@pytest.mark.parametrize(
    ("allocate", "amount"),
    [
        (lambda: np.empty(HUGE, np.uint8), r" \(32\.0 PiB at once\)"),
        (lambda: torch.empty(HUGE, dtype=torch.uint8), r" \(33,554,432\.0 GiB at once\)"),
        (lambda: refused(3 << 20), r" \(3 MiB at once\)"),
        (lambda: bytearray(HUGE), ""),
        (unmapped, ""),
    ],
)
def test_the_error_names_the_part_that_ran_out_of_memory_and_the_remedy(allocate, amount):
    with (
        pytest.raises(OutOfMemory, match=f"^there is no memory for the tables{amount}: lower factors$"),
        explain_out_of_memory("all", "lower everything"),
        explain_out_of_memory("the tables", "lower factors"),
    ):
        allocate()


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), FileNotFoundError(2, "no such file")])
def test_other_errors_pass_through_unchanged(error):
    with pytest.raises(type(error)) as raised, explain_out_of_memory("all", "lower everything"):
        raise error
    assert raised.value is error


def test_a_command_that_runs_out_of_memory_prints_one_line(capsys):
    with pytest.raises(typer.Exit) as ended, report_errors():
        raise MemoryError
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == (
        "error: there is no memory for this command: give the process more memory or less data\n"
    )


WITHIN_A_LIMIT = """
import sys
from animora_training.errors import OutOfMemory
from animora_training.modeling.config import FitConfig
from animora_training.modeling.initialization import new_initialization
from tests.support.memory import allow
from tests.support.datasets import many_users
data = many_users(100_000, 10)
new_initialization(many_users(10, 10), FitConfig())
allow(1 << 28)
try:
    new_initialization(data, FitConfig(factors=4096))
except OutOfMemory as error:
    sys.exit(f"caught: {error}")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what it should on Linux")
def test_tables_that_do_not_fit_into_memory_are_named():
    command = (sys.executable, "-W", "ignore", "-c", WITHIN_A_LIMIT)
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stderr.startswith("caught: there is no memory for the tables of users and posts (1.5 GiB at")
    assert "lower factors or mlp_embedding by --set" in ended.stderr
