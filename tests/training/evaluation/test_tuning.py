import itertools
import math

import numpy as np
import pytest

from animora_training.data.dataset import Interactions
from animora_training.evaluation.budget import Budget
from animora_training.evaluation.recipe import GridAxis, Recipe, history_matrix
from animora_training.evaluation.tuning import Attempt, hold_out, search, tune
from tests.support.datasets import as_dataset, dataset, tiny_feed, triples
from tests.training.evaluation.recommenders import Table

AXES = (GridAxis("one", tuple(range(9)), start=4), GridAxis("two", tuple(range(5)), start=0))


@pytest.fixture(scope="module")
def data():
    return as_dataset(tiny_feed())


@pytest.fixture(scope="module")
def held_out(data):
    return hold_out(data, data.pairs, seed=0)


def hill(held_out, top, name="hill"):
    """A recipe that ranks the held-out posts of more users first, the nearer its choice is to the optimum."""
    task = held_out.task

    def fit(histories, choice, seed):
        distance = sum(abs(choice[axis] - at) for axis, at in top.items())
        scores = np.zeros(histories.shape, np.float32)
        rows, posts = task.relevant
        found = slice(0, max(len(rows) - 4 * int(distance), 0))
        scores[task.users[rows[found]], posts[found]] = 1.0
        return Table(scores)

    return Recipe(name, AXES, fit)


def ignore(attempt):
    pass


@pytest.mark.parametrize("top", list(itertools.product((0, 3, 8), (0, 3))))
def test_pattern_search_finds_the_peak(held_out, top):
    recipe = hill(held_out, dict(zip(("one", "two"), top, strict=True)))
    attempts = search(recipe, held_out, Budget(), 0, ignore)
    assert tuple(attempts[0].choice.values()) == top
    assert attempts[0].ndcg == max(attempt.ndcg for attempt in attempts)
    assert len(attempts) == len({tuple(attempt.choice.values()) for attempt in attempts}) <= Budget().attempts


def test_tuning_stays_within_its_budget(held_out):
    recipe = hill(held_out, {"one": 8, "two": 4})
    attempts: list[Attempt] = []
    assert len(search(recipe, held_out, Budget(attempts=3), 0, attempts.append)) == len(attempts) == 3
    assert len(search(recipe, held_out, Budget(seconds=0.0), 0, ignore)) == 1


def test_the_best_choice_of_each_recipe_is_fitted_on_everything_and_no_fit_repeats(data, held_out):
    seen = []

    def watch(recipe):
        def fit(histories, choice, seed):
            seen.append((recipe.name, histories.nnz, tuple(choice.values())))
            return recipe.fit(histories, choice, seed)

        return Recipe(recipe.name, recipe.axes, fit)

    recipes = [watch(hill(held_out, {"one": top, "two": 1}, name)) for top, name in ((6, "A"), (0, "B"))]
    tuned = tune(recipes, held_out, data.pairs, Budget(), 0, ignore)
    assert [(one.best.name, tuple(one.best.choice.values())) for one in tuned] == [
        ("A", (6, 1)),
        ("B", (0, 1)),
    ]
    everything = [(name, choice) for name, pairs, choice in seen if pairs == len(data.pairs)]
    assert everything == [("A", (6, 1)), ("B", (0, 1))]
    assert len(seen) == len(set(seen))
    assert math.isclose(tuned[0].best.ndcg, 1.0)


def test_each_users_latest_pairs_are_held_out_of_the_histories(data, held_out):
    rows, posts = held_out.task.relevant
    users = held_out.task.users[rows]
    assert (np.asarray(held_out.histories[users, posts]) == 0).all()
    assert held_out.histories.nnz + len(users) == len(data.pairs)
    assert len(users) > len(np.unique(users))  # several of those who have many: there are few users
    latest_first: dict[int, list[tuple[float, int]]] = {}
    for user, post, time in triples(data.pairs):
        if not data.posts.deleted[post]:
            latest_first[user] = sorted([*latest_first.get(user, []), (time, post)], reverse=True)
    for user in np.unique(users).tolist():
        held = posts[users == user].tolist()
        assert sorted(held) == sorted(post for _, post in latest_first[user][: len(held)])
    moments = dict(zip(held_out.task.users.tolist(), held_out.task.moments.tolist(), strict=True))
    assert moments == {user: latest_first[user][0][0] for user in moments}


def test_without_a_hold_out_the_starting_choice_is_kept():
    data = dataset([(10, 100, 1.0), (20, 200, 1.0)])
    attempts = search(
        hill(hold_out(data, data.pairs, 0), {"one": 0}), hold_out(data, data.pairs, 0), Budget(), 0, ignore
    )
    assert attempts[0].choice == {"one": 4, "two": 0}


def test_histories_are_ones_at_pairs_and_leave_a_mapped_file_unchanged(data):
    mapped = Interactions(
        *(column.copy() for column in (data.pairs.offsets, data.pairs.posts, data.pairs.times))
    )
    for column in (mapped.offsets, mapped.posts):
        column.flags.writeable = False
    matrix = history_matrix(mapped, len(data.posts.ids))
    assert matrix.has_sorted_indices
    assert matrix.sum() == len(data.pairs)
    assert all(matrix[user, post] == 1 for user, post, _ in triples(data.pairs)[:20])
