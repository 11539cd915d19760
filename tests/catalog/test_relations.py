import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from animora_server.catalog import Relations

users = st.integers(-2, 3)
pairs = st.tuples(users, users)


def relations_of(blocks):
    columns = np.array(sorted(blocks), np.int64).reshape(-1, 2)
    return Relations.of(columns[:, 0], columns[:, 1])


def related(blocks, user):
    return sorted({b for a, b in blocks if a == user} | {a for a, b in blocks if b == user})


@given(st.sets(pairs), st.lists(st.frozensets(pairs), max_size=4))
def test_notified_blocks_are_added_to_those_of_the_reading(blocks, batches):
    relations = relations_of(blocks)
    for batch in batches:
        relations = relations.with_blocks(batch)
        blocks = blocks | batch

    for user in range(-3, 5):
        assert relations.members_of(user).tolist() == related(blocks, user)
    each = relations.members_of_each(np.arange(-3, 5))
    assert {user - 3: found.tolist() for user, found in each.items() if len(found)} == {
        user: others for user in range(-3, 5) if (others := related(blocks, user))
    }


@given(st.sets(pairs), st.frozensets(pairs))
def test_adding_blocks_does_not_change_earlier_relations(blocks, batch):
    relations = relations_of(blocks)
    relations.with_blocks({(1, 2)}).with_blocks(batch)

    for user in range(-3, 5):
        assert relations.members_of(user).tolist() == related(blocks, user)


def test_any_ids_may_block_each_other():
    lowest, highest = -(2**63), 2**63 - 1

    relations = Relations.empty().with_blocks({(lowest, highest), (0, lowest)})

    assert relations.members_of(lowest).tolist() == [0, highest]
    assert relations.members_of(highest).tolist() == [lowest]
