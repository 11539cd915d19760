"""Errors of two processes of torchrun are reported exactly once."""

import os
import subprocess
import sys

import asyncpg
import pytest

from tests.support.until import HANG_TIMEOUT
from tests.training.pipeline.fits import CHOICES, fit

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
PROGRAM = "tests.training.pipeline.one_differs"


@pytest.fixture
def start():
    """Starts a fit in two processes; the second one gets further arguments."""
    started = []

    def begin(*arguments, second="", **changed):
        process = subprocess.Popen(
            (sys.executable, *TORCHRUN, PROGRAM, second, "fit", *map(str, arguments), *CHOICES),
            env={**os.environ, "OMP_NUM_THREADS": "1", **changed},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.terminate()  # torchrun ends its processes, with force after half a minute
        process.communicate(timeout=HANG_TIMEOUT)


def errors_of(process):
    _, errors = process.communicate()
    assert process.returncode != 0
    return errors


def test_a_wrong_option_is_reported_once_by_all_ranks(start):
    unknown = start("--frobnicate")
    wrong = start("--database-url", "unused", "--output", "unused", "--set", "feature_width=-1")
    assert errors_of(unknown).count("--frobnicate") == 1
    assert errors_of(wrong).count("error: feature_width: ") == 1


def test_a_wrong_option_of_one_rank_is_reported(start):
    words = ("--database-url", "unused", "--output", "unused")
    unknown, wrong = (start(*words, second=second) for second in ("--frobnicate", "--set feature_width=-1"))
    assert errors_of(unknown).count("--frobnicate") == 1
    assert errors_of(wrong).count("error: feature_width: ") == 1


async def test_an_error_in_the_data_is_reported_once(start, postgres_url, tmp_path):
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("""
        insert into animora_app.users (id) values (1), (2);
        insert into animora_app.posts (id, author_id) values (1, 2);
        insert into animora_app.likes (user_id, post_id) values (1, 1);
    """)
    await connection.close()
    process = start("--database-url", postgres_url, "--output", tmp_path / "out")
    assert errors_of(process).count("error: ") == 1


def test_a_write_error_of_one_rank_is_reported(start, environment, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    fit(environment, "--run-dir", run, "--output", out)
    (run / "run.json").unlink()  # as if the fit had not finished
    (run / "checkpoint-1-1-of-2.pt" / "in the way").mkdir(parents=True)
    process = start("--run-dir", run, "--resume", "--output", out, **environment)
    assert "checkpoint-1-1-of-2.pt: cannot be written: Is a directory" in errors_of(process)


def test_processes_that_the_command_starts_itself_end_with_their_exit_code(environment, tmp_path):
    store = ("--store", str(tmp_path / "store"))
    fit(environment, *store, "--activate", "--set", "factors=16", "--set", "als_iterations=12")
    chance = ("max_epochs=1", "factorisation=none", "learning_rate=1e-6")
    choices = [word for choice in chance for word in ("--set", choice)]
    words = ("fit", "--processes", "2", *store, *CHOICES, *choices)
    refused = subprocess.run(
        (sys.executable, "-m", "animora_training", *words),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 3, refused.stderr
    assert refused.stderr.count("error: ") == 1
    assert "Traceback" not in refused.stderr
