"""One call of a function for many items, which NumPy takes hardly longer for than for one."""

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def call_isolating_failures(
    function: Callable[[Sequence[Item]], Result], items: Sequence[Item]
) -> list[tuple[Sequence[Item], Result | Exception]]:
    """What a function makes of many items, or raises, beside the items: of all, and so in one piece.

    Where it raises for several it is asked for each alone, so that one item's fault is not its neighbours'.
    """
    if not items:
        return []
    try:
        return [(items, function(items))]
    except Exception as error:  # whatever it is must reach whoever asked for it
        if len(items) == 1:
            return [(items, error)]
        return [outcome for item in items for outcome in call_isolating_failures(function, [item])]
