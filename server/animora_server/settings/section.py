"""The base class of all sections, and the units in which bounds are written."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

MINUTE, HOUR, DAY = 60, 3600, 86_400  # seconds
CENTURY = 36_500  # days
VERSION_PATTERN = r"^([A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*)?$"  # of a model version's name, or empty
INT32 = 2**31 - 1  # gRPC's largest integer argument


class Section(BaseModel):
    """A group of options. It is frozen, rejects unknown names, and its errors never quote a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

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
