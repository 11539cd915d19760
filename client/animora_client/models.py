"""Versions of the model store, and the calls of ModelService, once for both clients."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from animora_client.calls import UnaryCall
from animora_proto.ranking.v1 import models_pb2

MODEL_SERVICE: str = models_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
DEFAULT_ADMIN_TARGET = "127.0.0.1:50052"
ADMIN_TIMEOUT = 60.0  # seconds: loading a version takes seconds


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of the model store, as one server sees it.

    Attributes:
        version: Its name.
        active: `ACTIVE` names it.
        serving: It answers requests that name no version.
        resident: It is loaded, so requests may name it.
        refused: Why the server refuses it, such as "digest"; empty if it does not.
        refusal_detail: The details, for people.
        signed: It is signed. Not known in pages of versions, where it is False.
        created_at: When it was trained; None if its manifest cannot be read.
        size_bytes: Bytes of its files in total.
        has_native_code: It holds native code.
        metrics: Its metrics on the hold-out.
        interactions: How many interactions it was trained on.
        users: How many users it knows.
        posts: How many posts it knows.
    """

    version: str
    active: bool = False
    serving: bool = False
    resident: bool = False
    refused: str = ""
    refusal_detail: str = ""
    signed: bool = False
    created_at: datetime | None = None
    size_bytes: int = 0
    has_native_code: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    interactions: int = 0
    users: int = 0
    posts: int = 0


@dataclass(frozen=True, slots=True)
class ModelPage:
    """A page of versions; `next_page_token` is empty on the last."""

    models: tuple[ModelVersion, ...]
    next_page_token: str


def list_models_call(page_size: int, page_token: str) -> UnaryCall[ModelPage]:
    """ListModels."""
    request = models_pb2.ListModelsRequest(page_size=page_size, page_token=page_token)
    return UnaryCall("ListModels", request, _read_page)


def get_model_call(version: str) -> UnaryCall[ModelVersion]:
    """GetModel."""
    return UnaryCall("GetModel", models_pb2.GetModelRequest(version=version), _read_response)


def activate_model_call(version: str, expected: str | None) -> UnaryCall[ModelVersion]:
    """ActivateModel; `expected` is the version that must be active so far, empty for none, None for any."""
    request = models_pb2.ActivateModelRequest(version=version, expected_version=expected)
    return UnaryCall("ActivateModel", request, _read_response)


def _read_page(response: models_pb2.ListModelsResponse) -> ModelPage:
    return ModelPage(tuple(map(_read_model, response.models)), response.next_page_token)


def _read_response(response: models_pb2.GetModelResponse | models_pb2.ActivateModelResponse) -> ModelVersion:
    return _read_model(response.model)


def _read_model(message: models_pb2.Model) -> ModelVersion:
    has_time = message.HasField("create_time")
    return ModelVersion(
        version=message.version,
        active=message.active,
        serving=message.serving,
        resident=message.resident,
        refused=message.refusal.reason,
        refusal_detail=message.refusal.detail,
        signed=message.signed,
        created_at=message.create_time.ToDatetime(UTC) if has_time else None,
        size_bytes=message.size_bytes,
        has_native_code=message.has_native_code,
        metrics=dict(message.metrics),
        interactions=message.interactions,
        users=message.users,
        posts=message.posts,
    )
