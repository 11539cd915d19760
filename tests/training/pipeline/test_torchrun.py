"""A fit in two processes of torchrun gives the version of one process, also after a kill."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.support.processes import children
from tests.support.until import HANG_TIMEOUT
from tests.training.pipeline.fits import CHOICES, checkpoints, fit, recorded_epochs, same, version

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "animora_training")
# Of probabilities: sums in another order, over some hundred steps of Adam.
TOLERANCE = 1e-3
# Each epoch is clearly better than the one before, so that rounding does not change the choice.
SHORT = ("--set", "max_epochs=3")


@pytest.fixture
def torchrun(environment):
    """Starts a fit in two processes."""
    started = []

    def begin(*arguments):
        process = subprocess.Popen(
            (sys.executable, *TORCHRUN, "fit", *map(str, arguments), *CHOICES, *SHORT),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.terminate()  # torchrun ends its processes, with force after half a minute
        process.communicate(timeout=HANG_TIMEOUT)


def ended(process, code=0):
    output, errors = process.communicate()
    assert process.returncode == code, errors
    return output


@pytest.mark.skipif(sys.platform != "linux", reason="/proc names a process' children on Linux")
def test_two_processes_train_the_same_model_as_one_and_resume_after_a_kill(torchrun, environment, tmp_path):
    begun = ("--run-dir", tmp_path / "run", "--output", tmp_path / "out")
    killed = torchrun(*begun)
    while checkpoints(tmp_path / "run") < 2:
        assert killed.poll() is None, killed.stderr.read()
        os.sched_yield()
    os.kill(children(killed.pid)[1], signal.SIGKILL)
    ended(killed, code=1)
    names = sorted(path.name.split("-", 2)[2] for path in (tmp_path / "run").glob("checkpoint-*.pt"))
    assert {"0-of-2.pt", "1-of-2.pt"} == set(names)

    assert "belongs to 2 processes, not 1" in fit(environment, *begun, "--resume", code=1).stderr

    assert ended(torchrun(*begun, "--resume")).count("wrote ") == 1
    ended(torchrun("--run-dir", tmp_path / "through", "--output", tmp_path / "two"))
    two = version(tmp_path / "two")
    assert same(two, version(tmp_path / "out"))
    assert recorded_epochs(tmp_path / "run") == recorded_epochs(tmp_path / "through")

    fit(environment, "--run-dir", tmp_path / "alone", "--output", tmp_path / "one", *SHORT)
    one = version(tmp_path / "one")
    assert np.abs(one.golden.probabilities - two.golden.probabilities).max() < TOLERANCE
    assert one.manifest.metrics == pytest.approx(two.manifest.metrics, abs=0.02)
    losses = [
        [epoch["loss"] for epoch in recorded_epochs(tmp_path / run) if epoch["stage"] != "factorisation"]
        for run in ("alone", "through")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
