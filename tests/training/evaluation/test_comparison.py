import json
from dataclasses import replace

import numpy as np
import pytest

from animora_training.evaluation.budget import Budget
from animora_training.evaluation.comparison import Tuning, compare
from animora_training.evaluation.evaluation_split import leave_one_out_split
from animora_training.evaluation.recipe import GridAxis, Recipe
from animora_training.evaluation.recipes import EASE, IALS
from tests.support.datasets import as_dataset, tiny_feed
from tests.training.evaluation.recommenders import Table


@pytest.fixture(scope="module")
def data():
    return as_dataset(tiny_feed())


@pytest.fixture(scope="module")
def split(data):
    return leave_one_out_split(data, seed=0)


def seer(data, split, share):
    """Log odds that are right about a share of the users, and nothing for the last one."""
    scores = np.full((len(data.user_ids), len(data.posts.ids)), -4.0)
    task = split.task
    known = slice(0, int(share * len(task.users)))
    scores[task.users[known], task.relevant[1][known]] = 4.0
    scores[task.users[-1]] = np.nan
    return Table(scores)


@pytest.fixture(scope="module")
def comparison(data, split):
    tuning = Tuning((EASE, IALS, replace(EASE, name="large", max_posts=10)), Budget(attempts=2))
    return compare(data, split, seer(data, split, 0.9), tuning, lambda attempt: None)


def test_all_recommenders_are_evaluated_on_the_same_rows(comparison, split):
    names = [result.name for result in comparison.results]
    assert names == ["NeuCF", "EASE", "iALS", "heuristic", "popularity"]
    for result in comparison.results:
        for measures in (result.sampled, result.expected, result.full):
            assert all(len(values) == len(split.task.users) for values in measures.values())
    assert set(comparison.tuned) == {"EASE", "iALS"}
    assert comparison.left_out["large"].startswith("150 posts; above 10")


def test_the_heuristic_ranks_for_users_that_the_model_does_not_know(comparison):
    neucf, heuristic = comparison.results[0], comparison.results[3]
    assert neucf.full["auc"][-1] == heuristic.full["auc"][-1]
    assert neucf.sampled["mrr"][-1] == heuristic.sampled["mrr"][-1]
    assert neucf.full["auc"][0] == 1.0


def test_the_best_baseline_is_the_one_that_is_hardest_to_beat(comparison):
    best = comparison.best_baseline
    means = [result.sampled["ndcg@10"].mean() for result in comparison.results[1:]]
    assert best.sampled["ndcg@10"].mean() == max(means)
    difference = comparison.difference("sampled", "ndcg@10", best)
    assert difference.mean == pytest.approx(comparison.results[0].sampled["ndcg@10"].mean() - max(means))
    assert 0 < difference.low < difference.mean < difference.high


def test_probabilities_are_compared_with_the_whole_catalogs_likes(comparison, data, split):
    likes = split.likes.sum()
    everything = likes + comparison.results[0].ranks.irrelevant.sum()
    assert comparison.likes.base_rate == pytest.approx(likes / everything)


def test_the_json_file_holds_the_whole_comparison(comparison):
    read = json.loads(json.dumps(comparison.as_json()))
    assert read["recommenders"]["EASE"]["full"]["recall@50"] >= 0
    assert read["neucf_minus"]["popularity"]["sampled"]["ndcg@10"]["users"] == read["users"]
    assert sum(read["groups"].values()) == read["users"]
    assert read["tuned"]["iALS"]["choice"]["alpha"] > 0
    of_rows, mean = read["rows"]["EASE"], read["recommenders"]["EASE"]["sampled"]["ndcg@10"]
    assert (len(of_rows), np.mean(of_rows)) == (read["users"], pytest.approx(mean, abs=1e-5))


def test_a_custom_recipe_is_compared(data, split):
    popular = np.bincount(split.training.posts, minlength=len(data.posts.ids)).astype(np.float32)

    def fit(histories, choice, seed):
        return Table(np.broadcast_to(popular * choice["sign"], histories.shape).copy())

    recipe = Recipe("signed popularity", (GridAxis("sign", (-1.0, 1.0), start=0),), fit)
    comparison = compare(data, split, seer(data, split, 0.5), Tuning((recipe,)), lambda attempt: None)
    assert comparison.tuned["signed popularity"].choice == {"sign": 1.0}
    signed, popularity = comparison.results[1], comparison.results[3]
    # Of pairs instead of events, but nearly the same.
    assert signed.full["auc"].mean() == pytest.approx(popularity.full["auc"].mean(), abs=0.02)
