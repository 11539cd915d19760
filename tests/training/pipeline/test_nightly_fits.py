"""Warm starts through the command line."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import asyncpg
import pytest

from tests.training.pipeline.fits import CHOICES, checkpoints, fit, same, version

NEWS = """
insert into animora_app.likes (user_id, post_id)
select users.id, posts.id from animora_app.users, animora_app.posts
where deleted_at is null and (users.id * 31 + posts.id * 17) % 41 = 0
on conflict do nothing
"""


@pytest.fixture
def news(environment):
    """Every user likes a further post."""

    def happen():
        async def like():
            connection = await asyncpg.connect(environment["ANIMORA_DATABASE_URL"])
            await connection.execute(NEWS)
            await connection.close()

        asyncio.run(like())

    return happen


@pytest.fixture
def started(environment):
    """Starts a fit as a process; kills the remaining ones at the end."""
    processes = []

    def start(words):
        process = subprocess.Popen(
            (sys.executable, "-m", "animora_training", "fit", *words),
            env={**environment, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def record(folder):
    return json.loads((folder / "run.json").read_text())


def test_a_run_folder_warm_starts_from_its_own_previous_fit(environment, news, tmp_path):
    run = tmp_path / "run"
    again = ("--run-dir", run, "--output", tmp_path / "out", "--warm-start", run)
    first = fit(environment, *again)
    assert "holds no finished fit" in first.stdout
    assert record(run)["parent"] is None

    quiet = fit(environment, *again)
    assert "nothing was held out, so nothing was measured" in quiet.stdout
    second = record(run)
    assert second["parent"] == first.stdout.split()[-1]
    assert second["qualities"] == {}
    assert second["data"]["judged_users"] == 0

    news()
    fit(environment, *again)
    third = record(run)
    assert third["parent"] == second["version"]
    assert third["data"]["judged_users"] > 50
    assert third["qualities"]["its parent"]["ndcg@10"] > 0
    assert "warm-started from" in (run / "report.html").read_text()

    fit(environment, "--run-dir", run, "--output", tmp_path / "out")
    assert record(run)["parent"] is None
    assert not (run / "parent").exists()


def test_a_fit_warm_starts_from_another_run_folder(environment, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    missing = fit(environment, "--output", tmp_path / "out", "--warm-start", one, code=1)
    assert "--warm-start: there is no" in missing.stderr
    fit(environment, "--run-dir", one, "--output", tmp_path / "out")
    fit(environment, "--run-dir", other, "--output", tmp_path / "out", "--warm-start", one)
    assert record(other)["parent"] == record(one)["version"]


def test_no_fit_warm_starts_from_a_refused_version(environment, tmp_path):
    run = tmp_path / "run"
    again = ("--run-dir", run, "--store", tmp_path / "store", "--warm-start", run)
    good = ("--set", "factors=16", "--set", "als_iterations=12")
    fit(environment, *again, "--activate", *good)
    first = record(run)["version"]
    chance = ("--set", "factorisation=none", "--set", "max_epochs=1", "--set", "learning_rate=1e-6")
    refused = fit(environment, "--run-dir", run, "--store", tmp_path / "store", *chance, code=3)
    # It may be worse than the heuristic as well, which the text then names first.
    assert f"than the active version, {first}: NDCG@10 0." in refused.stderr
    assert record(run)["version"] != first
    assert "holds no finished fit" in fit(environment, *again, *good).stdout
    assert record(run)["parent"] is None


def test_a_signal_ends_a_fit_with_a_checkpoint_and_resume_completes_the_same_version(
    started, environment, news, tmp_path
):
    run, out = tmp_path / "run", tmp_path / "out"
    again = ("--run-dir", run, "--warm-start", run)
    fit(environment, *again, "--output", tmp_path / "first")
    news()
    slow = ("--set", "warm_epochs=12")
    through = tmp_path / "through"
    fit(environment, "--run-dir", through, "--output", tmp_path / "whole", "--warm-start", run, *slow)

    words = [*map(str, again), "--output", str(out), "--resume", *CHOICES, *slow]
    ended = started(words)
    while checkpoints(run) < 2:
        assert ended.poll() is None, ended.stderr.read()
        os.sched_yield()
    ended.send_signal(signal.SIGTERM)
    _, errors = ended.communicate()
    assert ended.returncode == 128 + signal.SIGTERM
    assert "ended by SIGTERM: with a --run-dir, --resume continues the fit" in errors
    assert not out.exists()

    resumed = started(words)
    output = resumed.communicate()
    assert resumed.returncode == 0, output
    assert same(version(tmp_path / "whole"), version(out))
