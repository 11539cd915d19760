import numpy as np

from animora_server.catalog import ChangeEvents, EventLog, apply_events
from animora_server.catalog.change_events import MAX_NOTIFIED
from tests.support.catalogs import snapshot


def block(blocker, blocked):
    return ChangeEvents(blocks=frozenset({(blocker, blocked)}))


def deletion(*post_ids):
    return ChangeEvents(deleted=frozenset(post_ids))


UNBLOCKED = ChangeEvents(unblocked=True)


def test_events_are_merged():
    events = ChangeEvents.merged([block(1, 2), deletion(5), UNBLOCKED, block(2, 1), deletion(4, 5)])

    assert events.blocks == {(1, 2), (2, 1)}
    assert events.deleted_ids.tolist() == [4, 5]
    assert events.unblocked
    assert len(events) == 4


def test_no_events_are_false():
    assert not ChangeEvents.merged([])
    assert block(1, 2)
    assert deletion(1)
    assert UNBLOCKED


def test_a_reading_lacks_events_notified_since_it_began():
    recent = EventLog()
    recent.add(block(1, 2), 1.0)
    recent.add(deletion(7), 2.0)
    recent.add(block(2, 1), 3.0)

    assert recent.since(2.0) == ChangeEvents(frozenset({(2, 1)}), frozenset({7}))
    assert recent.since(0.0) == ChangeEvents(frozenset({(1, 2), (2, 1)}), frozenset({7}))
    assert recent.since(4.0) == ChangeEvents()


def test_events_that_later_readings_hold_are_dropped():
    recent = EventLog()
    recent.add(block(1, 2), 1.0)
    recent.add(deletion(7, 8), 2.0)
    assert len(recent) == 3

    recent.forget(2.0)

    assert recent.since(0.0) == deletion(7, 8)
    assert len(recent) == 2


def test_applying_events_makes_a_new_snapshot():
    before = snapshot({10: {}, 11: {}, 12: {"deleted": 1}}, blocks=[(1, 2)])

    after = apply_events(before, ChangeEvents(frozenset({(3, 1)}), frozenset({11, 12, 99})))

    assert after.is_deleted(np.arange(3)).tolist() == [False, True, True]
    assert after.related_authors(1).tolist() == [2, 3]
    assert before.is_deleted(np.arange(3)).tolist() == [False, False, True]
    assert before.related_authors(1).tolist() == [2]


def test_a_notified_unblock_changes_nothing_before_the_next_reading():
    before = snapshot({10: {}}, blocks=[(1, 2)])

    assert apply_events(before, UNBLOCKED).related_authors(1).tolist() == [2]
    assert apply_events(apply_events(before, block(1, 3)), UNBLOCKED).related_authors(3).tolist() == [1]


def test_events_that_a_snapshot_holds_change_nothing():
    before = snapshot({10: {"deleted": 1}}, blocks=[(1, 2)])

    after = apply_events(before, ChangeEvents(frozenset({(1, 2)}), frozenset({10, 99})))

    assert after.deleted is before.deleted
    assert [after.related_authors(user).tolist() for user in (1, 2, 5, 6)] == [[2], [1], [], []]


def test_notified_deletions_are_kept_apart_until_there_are_many():
    before = snapshot({post: {} for post in range(3 * MAX_NOTIFIED)})
    after, deleted = before, []
    for post in range(0, 3 * MAX_NOTIFIED, 2):
        flags = after.deleted
        after = apply_events(after, deletion(post))
        deleted.append(post)
        assert (after.deleted is not flags) == (len(deleted) == MAX_NOTIFIED + 1)
        assert len(after.notified_deleted) <= MAX_NOTIFIED

    rows = after.rows(np.arange(3 * MAX_NOTIFIED))
    assert np.flatnonzero(after.is_deleted(rows)).tolist() == deleted
    assert not before.is_deleted(rows).any()


def test_an_empty_catalog_has_no_deleted_posts():
    assert not snapshot({}).is_deleted(np.array([-1, -1])).any()


def test_a_deleted_post_is_not_newer():
    before = snapshot({10: {}, 11: {}})
    assert before.newer_than(0.0).tolist() == [0, 1]

    after = apply_events(before, deletion(10))

    assert after.newer_than(0.0).tolist() == [1]


def test_unaffected_parts_of_a_snapshot_are_shared():
    before = snapshot({10: {"likes": 5}, 11: {"likes": 2}})

    after = apply_events(before, deletion(10))

    assert after.max_interactions == 5
    assert after.feed is before.feed
    np.testing.assert_array_equal(after.interactions, before.interactions)
