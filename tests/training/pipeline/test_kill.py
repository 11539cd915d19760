"""A killed and resumed fit gives the same version, bit for bit."""

import json
import os
import subprocess
import sys
from random import Random

import pytest

from tests.training.pipeline.fits import CHOICES, EPOCHS, checkpoints, fit, recorded_epochs, same, version

# Imports take most of a start: the process imports first, then waits for its turn.
WAITING = """
import os, sys
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
import animora_training.commands.cli
from animora_training.__main__ import main
sys.stdin.readline()
main()
"""


@pytest.fixture
def start(environment):
    """Prepares a process for a fit; kills the remaining ones at the end."""
    started = []

    def begin(*arguments, **changed):
        process = subprocess.Popen(
            (sys.executable, "-c", WAITING, "fit", *map(str, arguments), *CHOICES),
            env={**environment, **changed},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_a_fit_killed_three_times_makes_the_same_version(start, environment, tmp_path):
    run, through = tmp_path / "run", tmp_path / "through"
    begun = ("--run-dir", run, "--output", tmp_path / "out")
    killed = [start(*begun, "--resume") for _ in range(3)]
    last = start(*begun, "--resume")
    chance = Random(os.getpid())
    moments = (0, chance.randint(1, EPOCHS), EPOCHS + 1)  # reading or factorising; the hold-out; the refit
    for process, moment in zip(killed, moments, strict=True):
        process.stdin.write("\n")
        process.stdin.flush()
        while not (run / "data").exists() or checkpoints(run) < moment:
            assert process.poll() is None, process.stderr.read()
            os.sched_yield()
        process.kill()
        process.wait()
        assert not (tmp_path / "out").exists()

    # An unfinished run is neither overwritten nor resumed with other settings.
    assert "unfinished run: continue it with --resume" in fit(environment, *begun, code=1).stderr
    refused = fit(environment, *begun, "--resume", "--seed", "5", code=1).stderr
    assert "belongs to other data or another configuration" in refused

    _, errors = last.communicate("\n")
    assert last.returncode == 0, errors
    assert not list(run.glob("checkpoint-*"))
    fit(environment, "--run-dir", through, "--output", tmp_path / "whole")
    assert same(version(tmp_path / "whole"), version(tmp_path / "out"))
    assert recorded_epochs(run) == recorded_epochs(through)


def test_a_new_run_replaces_a_finished_one(environment, tmp_path):
    run = tmp_path / "run"
    for seed in range(2):
        fit(environment, "--run-dir", run, "--output", tmp_path / str(seed), "--resume", "--seed", seed)
        record = json.loads((run / "run.json").read_text())
        assert record["seed"] == seed
        assert record["version"] == version(tmp_path / str(seed)).manifest.version
        assert (run / "report.html").exists()


def test_a_run_folder_that_cannot_be_made_is_named(environment, tmp_path):
    (tmp_path / "file").touch()
    refused = fit(environment, "--run-dir", tmp_path / "file", "--output", tmp_path / "out", code=1)
    assert "file: cannot be written" in refused.stderr


def test_without_a_run_folder_a_kill_leaves_no_data_behind(start, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    process = start("--output", tmp_path / "out", TMPDIR=str(elsewhere))
    process.stdin.write("\n")
    process.stdin.flush()
    assert any(line.startswith("hold-out 1/") for line in process.stderr)
    process.kill()
    process.wait()
    assert not [path for path in elsewhere.rglob("*") if path.is_file()]
