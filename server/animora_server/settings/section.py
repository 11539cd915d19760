"""The base class of all sections, and the units in which bounds are written."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

MINUTE, HOUR, DAY = 60, 3600, 86_400  # seconds
CENTURY = 36_500  # days
INT32 = 2**31 - 1  # gRPC's largest integer argument
CONTAINERS = {dict: "a table", tuple: "an array of tables", frozenset: "an array"}  # as TOML calls them


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
    matching(
        r"([A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*)?",
        "must be the name of a version: letters, digits, '_', '-', and '.' between them",
    ),
]


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
        container = CONTAINERS.get(get_origin(cls._type_of(info)))
        if container and not isinstance(
            value, Mapping if container == "a table" else list | tuple | frozenset
        ):
            raise ValueError(f"must be {container}")
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
