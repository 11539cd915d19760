"""The keys of a generation in Redis, and its record: JSON, readable for people.

Servers delete an unreadable record, so another format needs another key.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from animora_server.cache.queues import UnreadableValue
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


def current_generation_key(prefix: bytes) -> bytes:
    """The key of the current generation's record."""
    return prefix + b"{generation}:current"


def building_generation_key(prefix: bytes) -> bytes:
    """The key of the record of the generation being built, in the slot of the current one's."""
    return prefix + b"{generation}:building"


def finished_shards_key(prefix: bytes, generation_id: bytes) -> bytes:
    """The key of the set of a generation's finished shards, in the slot of the records."""
    return b"%s{generation}:done:%s" % (prefix, generation_id.hex().encode())


def generation_posts_key(prefix: bytes, generation_id: bytes) -> bytes:
    """The key of the posts that a generation was ranked from, in the slot of the records."""
    return b"%s{generation}:posts:%s" % (prefix, generation_id.hex().encode())


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
