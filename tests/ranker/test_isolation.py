"""Isolation of failures: one call for a whole batch, on failure one call an item."""

from collections.abc import Sequence

from animora_server.ranker.isolation import call_isolating_failures


class Doubler:
    """Doubles numbers, records its calls, and fails for a negative number."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.calls.append(list(numbers))
        if min(numbers) < 0:
            raise ValueError(f"{min(numbers)} is negative")
        return [2 * number for number in numbers]


def test_one_call_serves_all_items():
    doubler = Doubler()
    assert call_isolating_failures(doubler, [1, 2, 3]) == [([1, 2, 3], [2, 4, 6])]
    assert doubler.calls == [[1, 2, 3]]


def test_a_failing_item_fails_alone():
    one, bad, two = call_isolating_failures(Doubler(), [1, -1, 2])
    assert (one, two) == (([1], [2]), ([2], [4]))
    assert bad[0] == [-1]
    assert str(bad[1]) == "-1 is negative"


def test_no_items_means_no_call():
    doubler = Doubler()
    assert call_isolating_failures(doubler, []) == []
    assert doubler.calls == []
