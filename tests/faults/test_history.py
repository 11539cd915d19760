"""The check of histories finds each violation of a guarantee, and none where there is none."""

from dataclasses import replace

import pytest

from tests.support.history import GenerationSeen, History, Page

# User 1 sees posts 10, 11 and 12, of authors 100, 101 and 102.
AUTHORS = {10: 100, 11: 101, 12: 102}
FIRST = Page(0, 1, 0.0, 0.1, (10, 11), (0.9, 0.8), "v1", is_first=True, is_last=False)
LAST = Page(0, 1, 5.0, 5.1, (12,), (0.7,), "v1", is_first=False, is_last=True)


def history(*pages: Page, **writes) -> History:
    return History(AUTHORS, pages=list(pages), **writes)


@pytest.mark.parametrize(
    "writes",
    [
        {},
        {"blocked": {(1, 102): 4.5}},  # committed half a second before the page was requested
        {"blocked": {(2, 102): 0.0}},  # another user's
        {"deleted": {12: 4.5}},
    ],
)
def test_a_right_history_has_no_violations(writes):
    assert history(FIRST, LAST, **writes).violations() == []


@pytest.mark.parametrize(
    ("pages", "writes", "violation"),
    [
        ([FIRST, LAST], {"blocked": {(1, 102): 3.5}}, "post 12 has been of someone blocked for 1.5 s"),
        ([FIRST, LAST], {"deleted": {12: 3.0}}, "post 12 has been deleted for 2.0 s"),
        ([FIRST, replace(LAST, post_ids=(12, 11), scores=(0.7, 0.6))], {}, "a post came twice: (12, 11)"),
        ([FIRST, replace(LAST, post_ids=())], {}, "never came: [12]"),
        ([replace(FIRST, scores=(0.8, 0.9)), LAST], {}, "not in order"),
        ([FIRST, replace(LAST, version="v2")], {}, "v2 follows v1 in one timeline"),
    ],
)
def test_a_violation_is_found(pages, writes, violation):
    assert history(*pages, **writes).violations() == [f"user 1: {violation}"]


def test_posts_that_became_hidden_during_a_scroll_need_not_come():
    pages = [FIRST, replace(LAST, post_ids=(), scores=())]
    assert history(*pages, blocked={(1, 102): 3.5}).violations() == []
    assert history(*pages, liked={(1, 12)}).violations() == []


def test_a_generation_that_goes_back_is_found_unless_the_operations_overlap():
    newer, none = GenerationSeen(0, 1.0, 2.0, 50.0), GenerationSeen(0, 2.1, 2.2, None)
    older = GenerationSeen(0, 3.0, 4.0, 40.0)
    assert len(History({}, generations=[newer, none, older]).violations()) == 1
    assert History({}, generations=[newer, replace(older, began=1.5)]).violations() == []
    assert History({}, generations=[newer, replace(older, server=1)]).violations() == []
    assert History({}, generations=[older, replace(newer, began=5.0, ended=6.0)]).violations() == []
