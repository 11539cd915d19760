"""The accuracy benchmark: its parts that need no server, and the command as a whole on a few pairs."""

import io
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.special import expit

from animora_artifact.network import load_network
from animora_training.evaluation.network_ranking import PostScorer, rank_held_out
from animora_training.importers.ncf_format import find_files, read_test_pairs
from animora_training.modeling.config import FitConfig
from animora_training.modeling.training_set import training_set
from animora_training.pipeline.export import VersionOrigin, export
from tests.benchmarks.accuracy_report import Baselines, SeedResult, report
from tests.benchmarks.ncf_negatives import with_negatives
from tests.benchmarks.ncf_task import NcfTask, config_of
from tests.benchmarks.served import Agreement, ServedRanks
from tests.benchmarks.trainers import new_trainer
from tests.support.ncf_folders import write_folder

COMPARISON = {
    "recommenders": {
        "NeuCF": {"sampled": {"hr@10": 0.5, "ndcg@10": 0.4}},
        "EASE": {"sampled": {"hr@10": 0.75, "ndcg@10": 0.5}},
        "popularity": {"sampled": {"hr@10": 0.25, "ndcg@10": 0.1}},
    },
    "rows": {"EASE": [1.0, 0.5, 0.5, 0.0], "popularity": [0.4, 0.0, 0.0, 0.0]},
    "best_baseline": "EASE",
    "left_out": {"iALS": "too many posts"},
}


@pytest.fixture
def task(tmp_path: Path):
    return NcfTask.of(write_folder(tmp_path))


def test_the_report_has_a_line_for_each_seed_and_ends_with_the_means(tmp_path):
    first = SeedResult(0, np.array([0, 0, 2, 30]), np.array([0, 2, 2, 30]), 60.0)
    second = SeedResult(1, np.array([0, 0, 2, 2]), np.array([2, 2, 2, 2]), 60.0)
    with (tmp_path / "output").open("w") as file:
        report([first, second], Baselines.of(COMPARISON), Console(file=file, width=100))
    lines = [line.strip() for line in (tmp_path / "output").read_text().splitlines()]
    assert lines[-4:] == [
        "seed 0: hr@10=0.7500 ndcg@10=0.6250",
        "seed 1: hr@10=1.0000 ndcg@10=0.7500",
        "standard deviation over seeds: hr@10=0.1250 ndcg@10=0.0625",
        "hr@10=0.8750 ndcg@10=0.6875",
    ]
    rows = {" ".join(line.split()[:3]): line.split() for line in lines[:8]}
    assert "+0.1250" in rows["NeuCF, seed 0"]
    assert "+0.2500" in rows["NeuCF, seed 1"]
    assert rows["its start, seed"][-2:] == ["1.0000", "0.5000"]
    assert "iALS was left out: too many posts" in lines


def test_every_test_pair_of_a_folder_has_its_place_in_the_order_of_the_lines(task, tmp_path):
    negatives = find_files(tmp_path).negatives
    assert negatives is not None
    pairs = read_test_pairs(negatives)
    held_out = task.held_out
    assert np.array_equal(task.dataset.user_ids[held_out.users], pairs.users)
    assert np.array_equal(task.dataset.posts.ids[held_out.candidates[:, 0]], pairs.candidates[:, 0])


def test_a_version_names_the_recipe_of_its_initialization(task):
    config = FitConfig(factors=3, hidden=(6, 4), max_epochs=2, seed=5)
    artifact = version(task, config, als_regularisation=7.5)
    assert config_of(artifact.manifest) == replace(config, als_regularisation=7.5)


@pytest.mark.parametrize("embeddings", [True, False])
def test_the_initialization_ranks_only_users_whom_the_model_ranked(task, embeddings):
    artifact = version(task, FitConfig(factors=3, embeddings=embeddings))
    served = ServedRanks(ranks=np.array([99, 98]), personal=np.array([False, True]))
    ranks = task.initial_ranks(artifact, served)
    assert ranks[0] == 99
    assert ranks[1] < task.held_out.candidates.shape[1]


def version(task: NcfTask, config: FitConfig, **tuned: float):
    dataset = task.dataset if config.embeddings else task.dataset.without_embeddings()
    data = training_set(dataset, dataset.pairs)
    hyperparameters = {**config.hyperparameters(), "epochs": 1, **tuned}
    origin = VersionOrigin(created_at=datetime.now(UTC), hyperparameters=hyperparameters, metrics={})
    return export(new_trainer(data, config).network(), data, dataset.pairs, origin)


def test_scores_are_compared_within_their_tolerance_and_ranks_that_differ_are_counted(task):
    artifact = version(task, FitConfig(factors=3))
    held_out = task.held_out
    personal = np.ones(len(held_out.users), np.bool_)
    dimensions = artifact.manifest.dimensions
    dataset = task.dataset.with_widths(image=dimensions.image, caption=dimensions.caption)
    network = load_network(artifact.model, torch.device("cpu"))
    logits = PostScorer(network, artifact.vocabulary, dataset).candidates(held_out)
    scores = expit(logits).astype(np.float32)
    ranks = rank_held_out(dataset.posts, logits, held_out)
    same = Agreement.of(artifact, dataset, held_out, ServedRanks(ranks, personal, scores))
    assert same.moved == 0
    assert same.farthest < 1e-6
    assert same.problem(1e-5) == ""
    # Items within rounding may swap ranks.
    swapped = Agreement.of(artifact, dataset, held_out, ServedRanks(ranks + 1, personal, scores + 2e-6))
    assert swapped.moved == len(ranks)
    assert swapped.problem(1e-5) == ""
    assert f"and {len(ranks)} users' ranks" in swapped.text()
    wrong = Agreement.of(artifact, dataset, held_out, ServedRanks(ranks, personal, scores + 1e-3))
    assert "off the trainer's, more than 1e-05" in wrong.problem(1e-5)


def test_negatives_are_drawn_for_a_folder_that_has_none(tmp_path):
    data, out = write_folder(tmp_path), Console(file=io.StringIO())
    assert with_negatives(data, tmp_path, out) == data
    for emptied in (False, True):
        (data / "tiny.test.negative").unlink(missing_ok=True)
        if emptied:
            (data / "tiny.test.negative").write_text("(7,3)\n(8,0)\n")
        place = tmp_path / f"place-{emptied}"
        place.mkdir()
        files = find_files(with_negatives(data, place, out))
        assert files.negatives is not None
        pairs = read_test_pairs(files.negatives)
        rows = zip(pairs.candidates, pairs.present, strict=True)
        drawn = [set(row[present].tolist()) for row, present in rows]
        assert drawn == [{3, 0, 4}, {0, 2, 4}]  # all items less those that the user touched
        assert files.image is not None
    (data / "tiny.test.rating").unlink()
    with pytest.raises(RuntimeError, match="there is nothing to rank"):
        with_negatives(data, tmp_path / "other", out)


def output_of(folder: Path):
    command = (sys.executable, "-m", "tests.benchmarks.accuracy", folder)
    quick = ("--seeds", "1", "--set", "factors=4", "--set", "max_epochs=1")
    done = subprocess.run([*command, *quick], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, seed, _, means = done.stdout.splitlines()
    assert seed == f"seed 0: {means}"
    assert re.fullmatch(r"hr@10=\d\.\d{4} ndcg@10=\d\.\d{4}", means)
    return done.stdout


def test_the_command_trains_serves_and_reports(tmp_path):
    assert "2 pairs, each among 3.0 items on average" in output_of(write_folder(tmp_path))


def test_the_command_runs_on_ten_users_without_times_negatives_and_embeddings(tmp_path):
    """One tests a user without training pairs, another one an item without any; all items tie."""
    train = [f"{user}\t{(user + 3 * like) % 14}\t1\n" for user in range(10) for like in range(4)]
    test = [f"{user}\t{(user + 5) % 14}\t1\n" for user in range(9)] + ["9\t77\t1\n", "50\t3\t1\n"]
    (tmp_path / "ten.train.rating").write_text("".join(train))
    (tmp_path / "ten.test.rating").write_text("".join(test))
    shown = output_of(tmp_path)
    assert "the folder has no negatives" in shown
    assert "11 pairs, each among" in shown
    assert "1 users whom the model does not know were ranked for by the heuristic" in shown
