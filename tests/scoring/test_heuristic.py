"""The heuristic's formula and its corner cases."""

import math

import numpy as np
import pytest

from animora_server.scoring.heuristic import Heuristic
from tests.support.catalogs import NOW, snapshot

ROWS = np.array([0, 1], np.int64)


def test_terms_are_weighted_popularity_and_recency():
    catalog = snapshot({1: {"likes": 3, "age": 6 * 3600}, 2: {"likes": 15, "age": 0}})
    terms = Heuristic().terms(catalog, ROWS, NOW)
    assert terms[0].tolist() == pytest.approx([0.6 * math.log(4) / math.log(16), 0.4 / math.e])
    assert terms[1].tolist() == pytest.approx([0.6, 0.4])


def test_popularity_is_zero_without_interactions():
    terms = Heuristic().terms(snapshot({1: {}, 2: {}}), ROWS, NOW)
    assert terms[:, 0].tolist() == [0, 0]


def test_a_post_from_the_future_counts_as_new():
    terms = Heuristic().terms(snapshot({1: {"age": -3600}, 2: {}}), ROWS, NOW)
    assert terms[:, 1].tolist() == pytest.approx([0.4, 0.4])


def test_a_deleted_post_with_more_likes_than_any_eligible_one_stays_within_one():
    catalog = snapshot({1: {"likes": 100, "deleted": 1}, 2: {"likes": 3}})
    assert Heuristic().terms(catalog, ROWS, NOW).sum(axis=1).max() <= 1.0
