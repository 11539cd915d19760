"""Training in several processes of torchrun, on a free port."""

import os
import subprocess
import sys

import pytest
import torch

from animora_training.modeling.network import NetworkShape, NeuCF
from animora_training.modeling.process_group import SINGLE_PROCESS
from tests.training.modeling.parallel import CONFIGS, EPOCHS, POSTS, USERS, train, train_sequences

# Of logits: numbers are added up in another order, and Adam makes of that a little more. It is much
# more where a gradient is zero but for rounding, as some are that start from chance with another loss.
TOLERANCE = 1e-4


def run(*command):
    return subprocess.run(
        (sys.executable, "-m", *map(str, command)),
        env={**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


PROGRAM = "tests.training.modeling.parallel"
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def together(folder):
    """Two processes that trained everything, and then failed as expected."""
    jobs = [*CONFIGS, "sequences", "wait", *(["large"] if sys.platform == "linux" else []), "fail"]
    return run(*TORCHRUN, PROGRAM, folder, *jobs)


@pytest.fixture(scope="module")
def trained(folder, together):
    """The results of each configuration in one process and in two."""
    for name in CONFIGS:
        train(name, SINGLE_PROCESS, folder)
    return {
        path.name: torch.load(path, weights_only=True)
        for path in folder.iterdir()
        if path.name.startswith(tuple(CONFIGS))
    }


def test_two_processes_train_the_same_sequence_model_as_one(together, folder):
    train_sequences(SINGLE_PROCESS, folder)
    alone, *both = (
        torch.load(folder / f"sequences-{place}", weights_only=True)
        for place in ("0-of-1", "0-of-2", "1-of-2")
    )
    for each in both:
        torch.testing.assert_close(each["losses"], alone["losses"], rtol=1e-4, atol=0)
        for name, value in alone["model"].items():
            torch.testing.assert_close(each["model"][name], value, rtol=0, atol=1e-3, msg=name)


def logits(kept, config):
    """Of all users with all posts, as far as they order a user's posts."""
    network = kept["network"]
    shape = NetworkShape(
        users=len(network["user_table"]),
        posts=len(network["post_table"]),
        factors=config.factors,
        mlp_embedding=config.mlp_embedding,
        hidden=config.hidden,
        feature_width=config.feature_width,
        image=len(network["gmf_features.image"]),
        caption=len(network["gmf_features.caption"]),
    )
    whole = NeuCF(shape)
    whole.load_state_dict(network)
    with torch.inference_mode():
        found = whole.score_all_pairs(
            whole.user_vectors(whole.user_table), whole.post_vectors(whole.post_table)
        )
    # Only the log loss says what is to be added to all of them.
    return found if config.loss == "logistic" else found - found.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_two_processes_train_the_same_network_as_one(trained, name):
    alone, first = trained[f"{name}-0-of-1"], trained[f"{name}-0-of-2"]
    assert first["pairs"] == alone["pairs"]
    torch.testing.assert_close(first["losses"], alone["losses"], rtol=1e-4, atol=0)
    config = CONFIGS[name]
    expected = logits(alone, config)
    torch.testing.assert_close(logits(first, config), expected, rtol=0, atol=TOLERANCE)
    assert expected.std() > 1
    assert len(alone["losses"]) == EPOCHS


@pytest.mark.parametrize("name", list(CONFIGS))
def test_each_process_has_its_share_of_users_and_rank_0_gathers_the_network(trained, name):
    first, second, alone = (trained[f"{name}-{which}"] for which in ("0-of-2", "1-of-2", "0-of-1"))
    assert alone["rows"] == 58
    assert (first["rows"], second["rows"]) == (29, 29)
    assert (len(first["network"]["user_table"]), len(second["network"]["user_table"])) == (58, 0)
    for layer in first["network"].keys() - {"user_table"}:
        assert torch.equal(first["network"][layer], second["network"][layer])


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what it should on Linux")
def test_two_processes_train_a_user_table_that_is_too_large_for_one(folder, together):
    pairs = [torch.load(folder / f"large-{rank}-of-2") for rank in range(2)]
    assert pairs == [USERS + USERS * POSTS] * 2, together.stderr
    alone = run(PROGRAM, folder, "large")
    assert alone.returncode != 0
    assert "can't allocate memory" in alone.stderr


def test_ranks_wait_longer_for_rank_0_than_for_one_another_and_leave_it_their_cores(folder, together):
    waited = [(folder / f"waited-{rank}").read_text() for rank in range(2)]
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    assert waited == [f"done, {cores}"] * 2, together.stderr


def test_ranks_do_not_wait_for_a_rank_0_that_failed(together):
    assert together.returncode != 0
    assert "NothingToLearn: only the first process knows why" in together.stderr
    assert "PeerFailed" in together.stderr
    assert "Connection closed" not in together.stderr
