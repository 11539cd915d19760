"""One call of a function for many."""

from collections.abc import Sequence

from animora_server.ranker.isolation import call_isolating_failures


class Doubler:
    """Doubles numbers, records what it was asked together, and fails for a negative one."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.asked.append(list(numbers))
        if min(numbers) < 0:
            raise ValueError(f"{min(numbers)} is negative")
        return [2 * number for number in numbers]


def test_all_are_answered_by_one_call():
    doubler = Doubler()
    assert call_isolating_failures(doubler, [1, 2, 3]) == [([1, 2, 3], [2, 4, 6])]
    assert doubler.asked == [[1, 2, 3]]


def test_the_fault_of_one_is_not_its_neighbours():
    one, bad, two = call_isolating_failures(Doubler(), [1, -1, 2])
    assert (one, two) == (([1], [2]), ([2], [4]))
    assert bad[0] == [-1]
    assert str(bad[1]) == "-1 is negative"


def test_nothing_to_ask_means_no_call():
    doubler = Doubler()
    assert call_isolating_failures(doubler, []) == []
    assert doubler.asked == []
