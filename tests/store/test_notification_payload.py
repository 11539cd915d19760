from contextlib import suppress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from animora_server.catalog import ChangeEvents
from animora_server.store.notification_payload import read_payload

ids = st.integers(-(2**63), 2**63 - 1)


@given(ids, ids)
def test_a_block_says_who_blocks_whom(blocker, blocked):
    assume(blocker != blocked)
    assert read_payload(f"block {blocker} {blocked}") == ChangeEvents(blocks=frozenset({(blocker, blocked)}))


@given(ids, ids)
def test_that_a_block_was_taken_back_is_left_to_a_reading(blocker, blocked):
    assume(blocker != blocked)
    assert read_payload(f"unblock {blocker} {blocked}") == ChangeEvents(unblocked=True)


@given(st.lists(ids, min_size=1))
def test_a_deletion_says_which_posts(deleted):
    payload = "delete " + " ".join(map(str, deleted))

    assert read_payload(payload) == ChangeEvents(deleted=frozenset(deleted))


@given(st.text())
@pytest.mark.parametrize("start", ["", "block ", "delete ", "delete 1 "])
def test_any_text_is_a_fact_or_a_value_error(start, text):
    with suppress(ValueError):
        assert read_payload(start + text)


@pytest.mark.parametrize(
    "payload",
    [
        "", "block", "block 1", "block 1 2 3", "block  1 2", "block 1 2 ", " block 1 2", "block 1 2\n",
        "BLOCK 1 2",
        "delete", "delete ", "delete 1,2", "delete 1.0", "delete 0x1", "delete 1_0", "delete +1",
        "delete \N{ARABIC-INDIC DIGIT ONE}",
        f"delete {2**63}", f"block 1 {-(2**63) - 1}", "delete 99999999999999999999", "restore 1",
        "block 7 7", "unblock 7 7",
    ],
)  # fmt: skip
def test_what_is_no_fact_is_a_value_error(payload):
    with pytest.raises(ValueError, match=r"not a fact|64 bits|nobody blocks themselves"):
        read_payload(payload)
