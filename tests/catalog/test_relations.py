import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from animora_server.catalog import Relations

users = st.integers(-2, 3)
pairs = st.tuples(users, users)
changes = st.dictionaries(pairs, st.booleans())


def relations_of(blocks):
    columns = np.array(sorted(blocks), np.int64).reshape(-1, 2)
    return Relations.of(columns[:, 0], columns[:, 1])


def related(blocks, user):
    return sorted({b for a, b in blocks if a == user} | {a for a, b in blocks if b == user})


@given(st.sets(pairs), st.lists(changes, max_size=4))
def test_changed_relations_are_those_of_the_changed_blocks(blocks, batches):
    relations = relations_of(blocks)
    for batch in batches:
        relations = relations.changed(batch)
        blocks = blocks - set(batch) | {pair for pair, now in batch.items() if now}

    for user in range(-3, 5):
        assert relations.members_of(user).tolist() == related(blocks, user)


@given(st.sets(pairs), changes)
def test_the_relations_before_a_change_stay_as_they_were(blocks, batch):
    relations = relations_of(blocks)
    relations.changed({(1, 2): True}).changed(batch)

    for user in range(-3, 5):
        assert relations.members_of(user).tolist() == related(blocks, user)


def test_a_block_taken_back_leaves_that_of_the_other_side():
    both = relations_of({(1, 2), (2, 1)})

    one_left = both.changed({(1, 2): False})

    assert one_left.members_of(1).tolist() == [2]
    assert one_left.members_of(2).tolist() == [1]
    assert one_left.changed({(2, 1): False}).members_of(1).tolist() == []


def test_any_ids_may_block_each_other():
    lowest, highest = -(2**63), 2**63 - 1

    relations = Relations.empty().changed({(lowest, highest): True, (0, lowest): True})

    assert relations.members_of(lowest).tolist() == [0, highest]
    assert relations.members_of(highest).tolist() == [lowest]
