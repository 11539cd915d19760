"""A short run of the fuzzer: `make fuzz` has the long one."""

import pytest

from tests.fuzz.fuzzing import fuzz
from tests.fuzz.targets import Target, targets

COUNT = 2000
TARGETS = targets()


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_mutated_messages_are_decoded_or_refused_with_the_documented_error(target: Target):
    finding = fuzz(target, COUNT, seed=17)
    assert dict(finding.undocumented) == {}
    assert finding.messages == COUNT
    assert finding.accepted >= 1  # a recorded message at least
    assert finding.refused > COUNT / 10


def test_the_fuzzer_finds_an_error_that_is_not_documented():
    def decode(data: bytes) -> int:
        return 1 // (data[0] - 255)  # an IndexError for none, and a ZeroDivisionError for one byte of 256

    finding = fuzz(Target("broken", decode, (b"abc",), IndexError), COUNT, seed=17)
    (text,) = finding.undocumented
    assert text.startswith("ZeroDivisionError")
    assert finding.examples[text][0] == 255


def test_the_same_seed_gives_the_same_messages():
    seen: list[list[bytes]] = [[], []]
    for messages in seen:
        fuzz(Target("any", messages.append, (b"abc", b"12345"), ()), 200, seed=5)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 100
