"""The order of posts by score."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from animora_server.scoring.transforms import best_first

few = st.integers(-2, 2)


@given(
    st.lists(st.tuples(few.map(lambda value: value * 0.1), few, st.integers()), max_size=80),
    st.integers(0, 90),
)
def test_posts_are_ordered_by_score_then_newer_then_larger_id(posts, limit):
    numbered = [(value, made, number) for number, (value, made, _) in enumerate(posts)]
    numbered.sort(key=lambda post: posts[post[2]][2])  # ids in no order
    values, created_at, post_ids = zip(*numbered, strict=True) if numbered else ((), (), ())
    order = best_first(
        np.array(values, np.float32), np.array(created_at, np.float64), np.array(post_ids, np.int64), limit
    )
    expected = sorted(numbered, reverse=True)
    assert [numbered[at] for at in order] == (expected[:limit] if limit else expected)
