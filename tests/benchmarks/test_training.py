"""The training benchmark on a tiny data set, with our side alone."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from animora_training.modeling.config import FitConfig
from tests.benchmarks.trainers import Animora, Task, Turn
from tests.benchmarks.training import NETWORK, Figures, report, take_turns
from tests.support.synthetic_feed import synthetic_feed

USERS, POSTS, PAIRS = 60, 100, 1200


@dataclass
class Scripted:
    """A side with scripted epochs."""

    turns: list[Turn]
    order: list[str]
    name: str
    left: list[Turn] = field(init=False)

    def __post_init__(self) -> None:
        self.left = list(self.turns)

    def turn(self) -> Turn:
        self.order.append(self.name)
        return self.left.pop(0)


@pytest.fixture
def silent(tmp_path: Path):
    with (tmp_path / "output").open("w") as file:
        yield Console(file=file)


def test_synthetic_likes_are_unique_long_tailed_and_of_the_given_number():
    likes = synthetic_feed(3, USERS, POSTS, PAIRS).likes
    assert len(np.unique(likes.users * POSTS + likes.posts)) == len(likes.users) == PAIRS
    assert np.bincount(likes.users, minlength=USERS).min() >= PAIRS // USERS
    counts = np.sort(np.bincount(likes.posts, minlength=POSTS))[::-1]
    assert counts[: POSTS // 10].sum() > 0.2 * PAIRS


def test_the_seed_decides_the_synthetic_likes():
    first, again, other = (synthetic_feed(seed, USERS, POSTS, PAIRS).likes for seed in (3, 3, 4))
    assert np.array_equal(first.posts, again.posts)
    assert not np.array_equal(first.posts, other.posts)


def test_our_side_trains_without_held_out_pairs_and_ranks_them_better_than_chance(silent):
    task = Task.of(synthetic_feed(0, USERS, POSTS, PAIRS), 0)
    held_out = len(task.split.held_out.users)
    assert (len(task.split.training), held_out) == (PAIRS - USERS, USERS)
    side = Animora(task, FitConfig.from_choices((*NETWORK, "max_epochs=3"), 0))
    figures = take_turns({"ours": side}, 3, silent)["ours"]
    assert figures.samples_per_epoch > len(task.split.training)
    present = task.split.held_out.present.sum(axis=1)
    by_chance = np.mean([np.sum(1 / np.log2(np.arange(min(10, k)) + 2)) / k for k in present])
    assert max(figures.ndcg) > 1.5 * by_chance


def test_sides_alternate_and_the_first_turn_is_not_timed(silent):
    order: list[str] = []
    slow, fast = (
        Scripted([Turn(seconds, 2 * seconds, 100, ndcg) for seconds, ndcg in turns], order, name)
        for name, turns in (
            ("slow", [(9.0, 0.1), (2.0, 0.3), (2.0, 0.2)]),
            ("fast", [(1.0, 0.2), (0.5, 0.4), (0.5, 0.5)]),
        )
    )
    figures = take_turns({"slow": slow, "fast": fast}, 3, silent)
    assert order == ["slow", "fast"] * 3
    assert figures["slow"].samples_per_second == 50.0
    assert figures["slow"].seconds_to(0.3) == 11.0
    assert figures["slow"].seconds_to(0.31) == float("inf")


def test_the_report_compares_throughput_epochs_and_time_to_quality(silent, tmp_path):
    figures = {
        "ours": Figures.of([Turn(3.0, 3.0, 900, 0.2), Turn(1.0, 2.0, 900, 0.4)]),
        "theirs": Figures.of([Turn(5.0, 5.0, 300, 0.1), Turn(3.0, 6.0, 300, 0.3)]),
    }
    report(figures, 60, silent, tmp_path / "new" / "training.json")
    written = json.loads((tmp_path / "new" / "training.json").read_text())
    assert written["samples_per_second_ratio"] == 9.0
    assert written["epochs_per_second_ratio"] == 3.0
    assert (written["ndcg"], written["quality_ratio"]) == (0.3, 2.0)
    assert written["sides"]["theirs"]["cpu_seconds_per_epoch"] == 6.0
