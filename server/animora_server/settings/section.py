"""The base class of all sections, and the units in which bounds are written."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

MINUTE, HOUR, DAY = 60, 3600, 86_400  # seconds
CENTURY = 36_500  # days
INT32 = 2**31 - 1  # gRPC's largest integer argument
CONTAINERS: dict[Any, tuple[Any, str]] = {  # what is taken for each, and what TOML calls it
    dict: (Mapping, "a table"),
    tuple: (list | tuple | frozenset, "an array of tables"),
    frozenset: (list | tuple | frozenset, "an array"),
}


def matching(pattern: str, rule: str) -> AfterValidator:
    """Validates that a text matches a pattern as a whole; else the error is the rule: `must be ...`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(rule)
        return text

    return AfterValidator(check)


# The name of a model version, or empty.
VersionText = Annotated[
    str,
    Field(max_length=64),
    matching(
        r"([A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*)?",
        "must be the name of a version: letters, digits, '_', '-', and '.' between them",
    ),
]


def mistakes(error: ValidationError) -> list[ErrorDetails]:
    """The mistakes that an error is about, with texts in words of the settings and without the values."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    for each in found:
        each["msg"] = each["msg"].removeprefix("Value error, ")
    return found


class Section(BaseModel):
    """A group of options. It is frozen, rejects unknown names, and its errors never quote a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _require_table(cls, value: object) -> object:
        if not isinstance(value, Mapping | cls):
            raise ValueError("must be a table")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _require_container(cls, value: object, info: ValidationInfo) -> object:
        kinds, name = CONTAINERS.get(get_origin(cls._type_of(info)), (object, ""))
        if not isinstance(value, kinds):
            raise ValueError(f"must be {name}")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _reject_bool_as_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls._type_of(info) in {int, float}:
            raise ValueError("must be a number, not true or false")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _validate_text(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("must not contain a NUL character")
        if cls._type_of(info) == Path | None:  # whose bytes need not be UTF-8
            return value or None
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("must be UTF-8")
        return value

    @classmethod
    def _type_of(cls, info: ValidationInfo) -> Any:
        return cls.model_fields[str(info.field_name)].annotation
