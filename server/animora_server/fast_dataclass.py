"""Values that are made for each request."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

Value = TypeVar("Value")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def fast_dataclass(cls: type[Value]) -> type[Value]:
    """A dataclass that nobody changes, which the type checker sees to.

    `frozen=True` would have Python see to it as well, and to make one with ten fields take 8 us, not 1.5.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
