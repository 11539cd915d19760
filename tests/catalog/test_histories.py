import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from animora_database.copy_format import POSTGRES_EPOCH
from animora_server.catalog import Histories, HistoryBuilder, HistoryIndex, Interactions

SECOND = 1_000_000  # microseconds
INT64 = np.iinfo(np.int64)

users = st.integers(-2, 3) | st.integers(INT64.min, INT64.max)
posts = st.integers(0, 3) | st.integers(2**31 - 2, 2**31) | st.integers(INT64.min, INT64.max)
kinds = st.integers(0, 1)
times = st.integers(-2, 6).map(lambda half: half * SECOND // 2)
rows = st.lists(st.tuples(users, posts, kinds, times), max_size=40)
limits = st.integers(0, 5)


def interactions(rows):
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return Interactions(columns[0].copy(), columns[1].copy(), columns[2].astype(np.int8), columns[3].copy())


def expected(rows, user, limit):
    """The last distinct entries (post, kind, unix seconds) of a user, oldest first."""
    latest: dict[tuple[int, int], int] = {}
    for other, post, kind, time in rows:
        if other == user:
            latest[post, kind] = max(time, latest.get((post, kind), time))
    entries = sorted((time, post, kind) for (post, kind), time in latest.items())
    kept = entries[-limit:] if limit else []
    return [(post, kind, time // SECOND + POSTGRES_EPOCH) for time, post, kind in kept]


def entries(history):
    return list(zip(history.post_ids.tolist(), history.kinds.tolist(), history.times.tolist(), strict=True))


def users_of(rows):
    return np.array(sorted({user for user, *_ in rows} | {-2, 7}), np.int64)


def assert_histories(histories, rows, limit):
    """The histories are those of the rows, for each user alone and for all in one batch."""
    wanted = users_of(rows)
    batch = histories.of_each(wanted)
    assert len(batch) == len(wanted)
    for position, user in enumerate(wanted.tolist()):
        assert entries(batch[position]) == expected(rows, user, limit)


@given(rows, limits)
def test_a_history_has_the_last_distinct_events_in_order(rows, limit):
    assert_histories(Histories(limit, HistoryIndex.of(interactions(rows), limit)), rows, limit)


@given(st.permutations([(1, post, kind, time) for post in (5, 6) for kind in (0, 1) for time in (0, 0, 7)]))
def test_a_history_does_not_depend_on_the_order_of_rows(rows):
    history = Histories(3, HistoryIndex.of(interactions(rows), 3)).of_each(np.array([1]))[0]

    seconds = float(POSTGRES_EPOCH)
    assert entries(history) == [(5, 1, seconds), (6, 0, seconds), (6, 1, seconds)]


@given(rows, rows, st.lists(rows, max_size=3), limits)
def test_histories_of_consecutive_spans_equal_that_of_all_rows(base, recent, extensions, limit):
    spans = [
        [(user, post, kind, time + 10 * SECOND * number) for user, post, kind, time in rows]
        for number, rows in enumerate((base, *extensions, recent))
    ]
    histories = Histories(limit, HistoryIndex.of(interactions(spans[0]), limit))
    for added in spans[1:-1]:
        histories = histories.extended(interactions(added))
    histories = histories.with_recent(HistoryIndex.of(interactions(spans[-1]), limit))

    assert_histories(histories, [row for span in spans for row in span], limit)


@given(rows, st.lists(st.integers(0, 40), max_size=20), rows, limits)
def test_a_recent_event_that_is_taken_back_uncovers_older_ones(base, gone, recent, limit):
    recent = [(user, post, kind, time + 10 * SECOND) for user, post, kind, time in recent]
    left = [row for number, row in enumerate(recent) if number not in gone]
    before = Histories(limit, HistoryIndex.of(interactions(base), limit)).with_recent(
        HistoryIndex.of(interactions(recent), limit)
    )

    after = before.with_recent(HistoryIndex.of(interactions(left), limit))

    assert_histories(after, base + left, limit)
    assert_histories(before, base + recent, limit)


@given(st.lists(rows, max_size=5), limits)
def test_a_builder_gives_the_index_of_all_parts(parts, limit):
    builder = HistoryBuilder(limit, min_unselected=1)
    for part in parts:
        builder.add(interactions(part))
    built = builder.build()

    index = HistoryIndex.of(interactions([row for part in parts for row in part]), limit)
    for name in ("user_ids", "offsets", "post_ids", "kinds", "times"):
        found, wanted = getattr(built, name), getattr(index, name)
        assert found.tolist() == wanted.tolist()
        assert found.dtype == wanted.dtype


def test_a_builder_is_empty_after_build():
    builder = HistoryBuilder(5)
    builder.add(interactions([(1, 2, 0, 0)]))
    assert builder.build().user_ids.tolist() == [1]

    assert builder.build().user_ids.tolist() == []


def test_a_builder_keeps_little_of_a_user_with_many_interactions():
    builder = HistoryBuilder(10)
    tracemalloc.start()
    for start in range(0, 1_000_000, 50_000):
        numbers = np.arange(start, start + 50_000)
        builder.add(Interactions(np.ones_like(numbers), numbers, numbers.astype(np.int8), numbers * SECOND))
    del numbers
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert kept < 100_000
    assert builder.build().post_ids.tolist() == list(range(999_990, 1_000_000))


def test_small_ids_take_nine_bytes_an_event():
    narrow = HistoryIndex.of(interactions([(1, post, 0, 0) for post in range(100)]), 100)
    wide = HistoryIndex.of(interactions([(1, 2**40 + post, 0, 0) for post in range(100)]), 100)

    assert Histories(100, narrow).nbytes == 100 * 9 + 3 * 8 + 2 * 8  # and the offsets of two empty spans
    assert wide.nbytes == 100 * 13 + 3 * 8


def test_times_that_do_not_fit_are_clipped():
    long_ago, far_away = -(2**60), 2**62

    index = HistoryIndex.of(interactions([(1, 5, 0, far_away), (1, 6, 0, long_ago)]), 2)

    history = Histories(2, index).of_each(np.array([1]))[0]
    assert entries(history) == [(6, 0, 0), (5, 0, 2**32 - 1)]
