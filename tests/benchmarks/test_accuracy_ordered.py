"""The order-aware benchmark: its parts that need no server, and the command as a whole on a few pairs."""

import asyncio
import io
import json
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from animora_client import Ranker, Ranking
from animora_training.data.split import HeldOut
from animora_training.evaluation.evaluation_split import ncf_split
from animora_training.evaluation.full_ranking import rank_catalog
from animora_training.importers.ncf_format import find_files, read_ratings
from tests.benchmarks.ncf_shuffled import with_shuffled_times
from tests.benchmarks.ncf_task import NcfTask
from tests.benchmarks.ordered_report import OrderedQuality, OrderedRows, report
from tests.benchmarks.sasrec import digest, ordered_pairs, recorded
from tests.benchmarks.served_catalog import ScoreTable, catalog_through_server
from tests.support.datasets import as_dataset, tiny_feed
from tests.support.ncf_folders import write_folder


class ScriptedServer:
    """Answers as a server with given scores (u, p) of all users and posts; drops some posts."""

    def __init__(self, data, scores, dropped=()):
        self.data = data
        self.scores = scores
        self.dropped = dropped
        self.lengths = []

    async def batch_rank(self, requests, *, timeout):
        return [self.ranking(request) for request in requests]

    def ranking(self, request):
        self.lengths.append(len(request.post_ids))
        user = np.searchsorted(self.data.user_ids, request.user_id)
        posts = np.searchsorted(
            self.data.posts.ids, [one for one in request.post_ids if one not in self.dropped]
        )
        best = posts[np.argsort(-self.scores[user, posts], kind="stable")]
        ids = tuple(self.data.posts.ids[best].tolist())
        return Ranking(ids, tuple(self.scores[user, best].tolist()), Ranker.NEUCF)


@pytest.fixture
def data():
    return as_dataset(tiny_feed())


@pytest.fixture
def scores(data):
    """With ties: seven levels."""
    shape = (len(data.user_ids), len(data.posts.ids))
    return np.random.default_rng(0).integers(1, 8, shape).astype(np.float32)


@pytest.fixture
def split(data):
    """Two test pairs of one user and one of another, none with a training pair."""
    liked = set(zip(data.pairs.users.tolist(), data.pairs.posts.tolist(), strict=True))
    live = np.flatnonzero(~data.posts.deleted).tolist()
    fresh = {user: [post for post in live if (user, post) not in liked] for user in (3, 7)}
    pairs = [(3, fresh[3][0]), (7, fresh[7][5]), (3, fresh[3][9])]
    users = np.array([user for user, _ in pairs])
    candidates = np.array([[post, fresh[user][20]] for user, post in pairs])
    return ncf_split("pairs", data, HeldOut(users, candidates, np.zeros(3)))


@pytest.mark.parametrize("at_most", [7, 1000])
def test_ranks_in_parts_through_a_server_equal_ranking_post_by_post(data, scores, split, at_most):
    server: Any = ScriptedServer(data, scores)
    table = asyncio.run(catalog_through_server(server, data, split.task, at_most))
    assert max(server.lengths) <= at_most
    ranks = rank_catalog(table, split.task, data.posts)
    posts = data.posts
    for row, (user, wanted) in enumerate(zip(split.task.users, split.task.relevant[1], strict=True)):
        hidden = set(split.task.hidden[1][split.task.hidden[0] == row].tolist()) | {wanted}
        others = [post for post in np.flatnonzero(~posts.deleted).tolist() if post not in hidden]
        own = (scores[user, wanted], posts.created[wanted], posts.ids[wanted])
        before = sum((scores[user, post], posts.created[post], posts.ids[post]) > own for post in others)
        assert ranks.before[row] == before
        assert ranks.irrelevant[row] == len(others)


def test_a_post_without_a_score_is_an_error(data, scores, split):
    first_of_all = data.posts.ids[split.task.eligible][-1]
    server: Any = ScriptedServer(data, scores, dropped=(first_of_all,))
    with pytest.raises(RuntimeError, match="2 posts got no score"):
        asyncio.run(catalog_through_server(server, data, split.task))


def test_a_table_scores_the_users_that_it_has():
    table = ScoreTable(np.array([2, 5]), np.array([[0.1, 0.2], [0.3, 0.4]]))
    assert table.catalog(np.array([5, 2])).tolist() == [[0.3, 0.4], [0.1, 0.2]]
    assert table.grid(np.array([5]), np.array([[1, 0, 1]])).tolist() == [[0.4, 0.3, 0.4]]


def test_shuffled_times_stay_with_their_user_and_the_pairs_remain(tmp_path):
    data = tmp_path / "many"
    data.mkdir()
    lines = [f"{user}\t{10 * user + like}\t1\t{100 * user + like}\n" for user in (2, 1) for like in range(9)]
    (data / "many.train.rating").write_text("".join(lines))
    (data / "many.test.negative").write_text("(1,5)\t6\t7\n")
    before = read_ratings(data / "many.train.rating")
    files = find_files(with_shuffled_times(data, tmp_path))
    after = read_ratings(files.train)
    assert (after.users == before.users).all()
    assert (after.items == before.items).all()
    assert (after.times != before.times).any()
    for user in (1, 2):
        mine = before.users == user
        assert sorted(after.times[mine]) == sorted(before.times[mine])
    assert files.negatives is not None


def test_the_pairs_for_sasrec_are_in_the_order_of_time(tmp_path):
    users, items = ordered_pairs(NcfTask.of(write_folder(tmp_path)))
    assert users.tolist() == [7, 7, 8, 8, 9, 9]
    assert items.tolist() == [1, 2, 1, 3, 2, 4]


def test_sasrec_is_only_shown_for_the_data_that_it_was_trained_on(tmp_path):
    data, result = tmp_path / "data", tmp_path / "sasrec.json"
    data.mkdir()
    task = NcfTask.of(write_folder(data))
    assert recorded(task, result)[1].endswith("has not written " + str(result))
    quality = OrderedQuality(0.5, 0.25, 0.125)
    content = {
        "data": digest(task),
        "quality": {"hit_ratio": 0.5, "ndcg": 0.25, "full_ndcg": 0.125},
        "settings": {"seed": 3, "epochs": 40},
    }
    result.write_text(json.dumps(content))
    found, remark = recorded(task, result)
    assert found == quality
    assert "was trained beforehand: seed 3, best of 40 epochs" in remark
    result.write_text(json.dumps({**content, "data": "others"}))
    found, remark = recorded(task, result)
    assert found is None
    assert "is of other data" in remark


def test_the_report_ends_with_the_means_over_seeds():
    file = io.StringIO()
    first = OrderedRows(np.array([1.0, 0.0]), np.array([0.5, 0.0]), np.array([0.25, np.nan]))
    second = OrderedRows(np.array([1.0, 1.0]), np.array([0.5, 0.5]), np.array([0.75, 0.75]))
    report([first, second], {"EASE": OrderedQuality(0.3, 0.2, 0.1)}, Console(file=file, width=100))
    lines = [" ".join(line.split()) for line in file.getvalue().splitlines()]
    assert lines[1:] == [
        "NeuCF, seed 0 0.5000 0.2500 0.2500",
        "NeuCF, seed 1 1.0000 0.5000 0.7500",
        "NeuCF, mean of 2 0.7500 0.3750 0.5000",
        "EASE 0.3000 0.2000 0.1000",
        "standard errors over users, seed 0: hr@10=0.3536 ndcg@10=0.1768 full_ndcg@10=0.0000",
        "hr@10=0.7500 ndcg@10=0.3750 full_ndcg@10=0.5000",
    ]


def test_the_command_trains_serves_and_reports(tmp_path):
    command = (sys.executable, "-m", "tests.benchmarks.accuracy_ordered", write_folder(tmp_path))
    quick = ("--seeds", "1", "--shuffled", "--set", "factors=4", "--set", "max_epochs=1")
    done = subprocess.run([*command, *quick], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert "each user's training pairs have swapped their times at random" in shown
    assert "2 pairs, each among 3.0 items on average, and among 6" in shown
    assert "SASRec (RecBole) is left out" in shown
    for name in ("NeuCF, seed 0", "NeuCF, mean of 1", "EASE", "iALS", "popularity"):
        assert re.search(rf"^ *{name} +\d\.\d{{4}} +\d\.\d{{4}} +\d\.\d{{4}}", shown, re.MULTILINE), name
    last = shown.splitlines()[-1]
    assert re.fullmatch(r"hr@10=\d\.\d{4} ndcg@10=\d\.\d{4} full_ndcg@10=\d\.\d{4}", last)
