import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_artifact import ArtifactRejected, Vocabulary
from animora_artifact.npz import to_npz
from animora_artifact.vocabulary import RowIndex

IDS = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True)


@given(IDS, IDS)
def test_a_known_id_has_its_row_and_an_unknown_id_row_0(known, others):
    index = RowIndex(np.array(known, np.int64))
    wanted = [*known, *others]
    expected = [known.index(an_id) + 1 if an_id in known else 0 for an_id in wanted]
    assert index.rows(np.array(wanted, np.int64)).tolist() == expected
    assert [index.row(an_id) for an_id in wanted] == expected


@given(IDS, IDS)
def test_a_vocabulary_round_trips(users, posts):
    vocabulary = Vocabulary(np.array(users, np.int64), np.array(posts, np.int64))
    read = Vocabulary.from_npz(vocabulary.to_npz())
    assert read.user_ids.tolist() == users
    assert read.post_ids.tolist() == posts


@pytest.mark.parametrize(
    "arrays",
    [
        {"user_ids": np.array([1])},
        {"user_ids": np.array([1]), "post_ids": np.array([1.0])},
        {"user_ids": np.array([1]), "post_ids": np.array([[1]])},
        {"user_ids": np.array([1]), "post_ids": np.array([{}], dtype=object)},
        {"user_ids": np.array([1]), "post_ids": np.array([3, 3])},
    ],
)
def test_a_file_of_other_arrays_is_refused(arrays):
    with pytest.raises(ArtifactRejected) as raised:
        Vocabulary.from_npz(to_npz(arrays))
    assert raised.value.reason == "content"
