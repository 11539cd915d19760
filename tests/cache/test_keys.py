import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from animora_server.cache import rank_key

ids = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6)
inputs = st.tuples(
    st.text(st.sampled_from("ab0-"), max_size=4),
    st.integers(-(2**63), 2**63 - 1),
    ids.flatmap(lambda posts: st.tuples(st.just(posts), st.lists(
        st.integers(-(2**63), 2**63 - 1), min_size=len(posts), max_size=len(posts)
    ))),
)  # fmt: skip


def key(version: str, user: int, candidates: tuple[list[int], list[int]]) -> bytes:
    posts, fingerprints = candidates
    return rank_key(version, user, np.array(posts, np.int64), np.array(fingerprints, np.int64))


@given(inputs, inputs)
def test_keys_are_equal_exactly_where_the_inputs_are(one, other):
    assert (key(*one) == key(*other)) == (one == other)


def test_a_key_is_the_same_in_every_process():
    assert key("v1", 7, ([1, 2], [3, 4])) == b"rank:1:27614c358f5d6232ced12374e2be0df6"


def test_the_version_and_the_posts_do_not_run_together():
    # The version's bytes continue with what would be the first post's.
    assert key("a", 1, ([0x6161616161616161], [0])) != key("aaaaaaaaa", 1, ([0], []))


def test_arrays_that_are_not_contiguous_make_the_same_key():
    wide = np.arange(10, dtype=np.int64)
    assert rank_key("v", 1, wide[::2], wide[1::2]) == rank_key("v", 1, wide[::2].copy(), wide[1::2].copy())


def test_a_key_is_printable_and_short():
    made = key("a" * 64, 7, (list(range(6)), list(range(6))))
    assert made.decode("ascii").isprintable()
    assert len(made) < 64
