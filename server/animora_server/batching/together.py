"""One call of a function for many items, which NumPy takes hardly longer for than for one."""

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def together(
    function: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> Sequence[Result | Exception]:
    """What a function of many items gives for each, or raises for it.

    Where it raises for several it is asked for each alone, so that one item's fault is not its neighbours'.
    """
    if not items:
        return []
    try:
        return function(items)
    except Exception as error:  # whatever it is must reach whoever asked for it
        if len(items) == 1:
            return [error]
        return [outcome for item in items for outcome in together(function, [item])]
