"""The record of a generation in Redis: JSON, readable for people.

Servers delete an unreadable record, so another format needs another key.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from animora_server.cache.keys import UnreadableValue
from animora_server.types import Generation


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    generation_id: str = Field(pattern="^[0-9a-f]{32}$")
    made_at: FiniteFloat
    read_at: FiniteFloat
    model_version: str
    catalog_digest: str
    settings_digest: str
    shards: int = Field(ge=1)


def encode_generation(generation: Generation) -> bytes:
    """Encodes the record of a generation."""
    record = _Record(
        generation_id=generation.generation_id.hex(),
        made_at=generation.made_at,
        read_at=generation.read_at,
        model_version=generation.model_version,
        catalog_digest=generation.catalog_digest,
        settings_digest=generation.settings_digest,
        shards=generation.shards,
    )
    return record.model_dump_json().encode()


def decode_generation(value: bytes) -> Generation:
    """Decodes the record of a generation.

    Raises:
        UnreadableValue: The value is no record of this format.
    """
    try:
        record = _Record.model_validate_json(value, strict=True)
    except ValidationError as error:
        raise UnreadableValue("not the record of a generation") from error
    fields = record.model_dump(exclude={"format", "generation_id"})
    return Generation(generation_id=bytes.fromhex(record.generation_id), **fields)
