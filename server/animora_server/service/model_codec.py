"""Requests of ModelService with every field checked, and versions as its messages."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from animora_artifact import ANYTHING, Manifest
from animora_artifact.manifest import is_name
from animora_artifact.package import COMPILED
from animora_artifact.pointer import Expected
from animora_proto.ranking.v1 import models_pb2 as pb
from animora_server.errors import InvalidRequest
from animora_server.service.wire_codec import MALFORMED

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 200
# A token is the last version of the page before, encoded so that clients do not make their own.
_TOKEN_PREFIX = b"1:"

AnyMessage = TypeVar("AnyMessage", bound=Message)


@dataclass(frozen=True, slots=True)
class ModelState:
    """What this server does with a version.

    Attributes:
        active: Whether `ACTIVE` names it.
        serving: Whether it answers requests that name no version.
        resident: Whether it is loaded.
        refusal: Why it is refused, as a reason and details; None if it is not.
    """

    active: bool
    serving: bool
    resident: bool
    refusal: tuple[str, str] | None = None


def read_list_request(data: bytes) -> tuple[int, str | None]:
    """The page size, and the last version of the page before, None for none. Raises InvalidRequest."""
    request = _parse(data, pb.ListModelsRequest)
    if request.page_size < 0:
        raise InvalidRequest("page_size", "is negative: give 0 for the default, or how many to return")
    size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    return size, _read_token(request.page_token) if request.page_token else None


def read_get_request(data: bytes) -> str:
    """The version. Raises InvalidRequest."""
    return _checked_version(_parse(data, pb.GetModelRequest).version)


def read_activate_request(data: bytes) -> tuple[str, Expected]:
    """The version, and the version that must be active so far. Raises InvalidRequest."""
    request = _parse(data, pb.ActivateModelRequest)
    version = _checked_version(request.version)
    if not request.HasField("expected_version"):
        return version, ANYTHING
    if request.expected_version and not is_name(request.expected_version):
        raise InvalidRequest("expected_version", "is not a version's name")
    return version, request.expected_version or None


def write_page(models: Sequence[pb.Model], last: str | None) -> bytes:
    """A page of versions; `last` is its last version if more follow, else None."""
    token = "" if last is None else urlsafe_b64encode(_TOKEN_PREFIX + last.encode()).decode()
    return pb.ListModelsResponse(models=models, next_page_token=token).SerializeToString()


def write_model(manifest: Manifest, state: ModelState, *, signed: bool = False) -> pb.Model:
    """A version. Raises ValueError if a number of the manifest does not fit its field."""
    model = write_unreadable(manifest.version, state)
    model.signed = signed
    model.create_time.FromDatetime(manifest.created_at)
    model.size_bytes = sum(file.size for file in manifest.files.values())
    model.has_native_code = COMPILED in manifest.files
    model.metrics.update(manifest.metrics)
    model.interactions = manifest.data_window.interactions
    # Row 0 of each table stands for unknown ids.
    model.users = manifest.dimensions.users - 1
    model.posts = manifest.dimensions.posts - 1
    return model


def write_unreadable(version: str, state: ModelState) -> pb.Model:
    """A version without the facts of its manifest."""
    refusal = None
    if state.refusal is not None:
        reason, detail = state.refusal
        refusal = pb.ModelRefusal(reason=reason, detail=detail)
    return pb.Model(
        version=version,
        active=state.active,
        serving=state.serving,
        resident=state.resident,
        refusal=refusal,
    )


def _parse(data: bytes, kind: type[AnyMessage]) -> AnyMessage:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidRequest("request", MALFORMED) from error


def _checked_version(version: str) -> str:
    if not version:
        raise InvalidRequest("version", "is empty: give a version's name")
    if not is_name(version):
        raise InvalidRequest("version", "is not a version's name")
    return version


def _read_token(token: str) -> str:
    try:
        content = urlsafe_b64decode(token.encode())
        last = content.removeprefix(_TOKEN_PREFIX).decode("ascii")
    except (binascii.Error, ValueError):
        content, last = b"", ""
    if not content.startswith(_TOKEN_PREFIX) or not is_name(last):
        raise InvalidRequest("page_token", "is not a next_page_token of this service: start over without one")
    return last
