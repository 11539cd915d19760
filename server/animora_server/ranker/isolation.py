"""One call for a whole batch; on failure one call an item."""

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def call_isolating_failures(
    function: Callable[[Sequence[Item]], Result], items: Sequence[Item]
) -> list[tuple[Sequence[Item], Result | Exception]]:
    """Calls a function once for all items; if it raises, calls it once for each item.

    So a failing item does not fail its neighbours, and NumPy takes hardly longer for many items than for one.

    Returns:
        The items of each call that counts, with the result or the exception of the call: one entry if the
        first call succeeded, else one entry an item.
    """
    if not items:
        return []
    try:
        return [(items, function(items))]
    except Exception as error:  # any error belongs to the caller of the item
        if len(items) == 1:
            return [(items, error)]
        return [outcome for item in items for outcome in call_isolating_failures(function, [item])]
